"""Detects troubles in a run's numbers. Each detector takes a history: pairs of a step and a number, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from statistics import mean, median
from typing import NamedTuple

from ganrun import Score

History = Sequence[tuple[int, float]]

SEPARATED = 10.0
"""Standard deviations. A discriminator in a healthy run reaches 3 to 8; one that has won, 11 to 80."""

REMAINING = 0.3
"""Fraction of the diversity that samples had before."""

LEAST_DIVERSITY = 0.1
"""Fraction of the real records' diversity that samples are assumed to have had, if they never had more."""

EXPLODED, VANISHED = 100.0, 1e-3
"""Gradients, as multiples of the largest norm and of the median norm so far."""

LOST = 0.25
"""Fraction of a score's gain since its first evaluation."""


class Trouble(NamedTuple):
    """One trouble of a run."""

    kind: str
    """`discriminator`, `diversity`, `gradients of the generator`, `fid`: one sentence is printed for each."""

    since: int
    """The first step at which it showed."""

    good_until: int
    """The last step at which it did not show; 0 if there is none."""

    text: str
    """Description for people: one sentence."""


def dominance(slot: str, separations: History, for_steps: int) -> Trouble | None:
    """The discriminator has won outright: for a long time, it separates every real record from every sample by far.

    Its outputs are then so far apart that no change within the generator's reach affects them: Goodfellow et al. 2014
    (arXiv:1406.2661), section 3; Arjovsky and Bottou 2017 (arXiv:1701.04862), theorems 2.1 and 2.4. A Wasserstein
    critic is meant to be good, and a generator that can follow it brings the outputs together again; so duration
    decides.
    """
    found = _lasting(separations, lambda value: value > SEPARATED, for_steps)
    if found is None:
        return None
    text = (
        f"the {slot} has won: since step {found[0]} its outputs for samples and for real records are far apart, now"
        f" {separations[-1][1]:.0f} standard deviations; lower its learning rate or its updates, or add a penalty"
    )
    return Trouble(f"separation of the {slot}", *found, text)


def collapse(diversities: History, for_steps: int) -> Trouble | None:
    """The diversity of samples has been low for a long time: mode collapse, Goodfellow 2016 (arXiv:1701.00160), section
    5.1.1; in a VAE, a decoder that ignores its latents.

    It is compared with the highest level that samples have kept for as long; so neither the noise of an untrained
    generator nor its first grey samples count.
    """
    best = max(LEAST_DIVERSITY, _sustained(diversities, for_steps))
    found = _lasting(diversities, lambda value: value < REMAINING * best, for_steps)
    if found is None:
        return None
    now = diversities[-1][1]
    text = (
        f"samples have collapsed: since step {found[0]} they hardly differ, now {now:.0%} as much as real records do,"
        f" where {best:.0%} was expected"
    )
    return Trouble("diversity", *found, text)


def explosion(slot: str, norms: History) -> Trouble | None:
    """Gradients explode: Pascanu, Mikolov and Bengio 2013 (arXiv:1211.5063). They are far larger than ever before."""
    *before, (step, now) = norms
    largest = max((value for _, value in before), default=inf)
    if not now > EXPLODED * largest > 0:
        return None
    advice = "lower the learning rate, or set clip_norm in [optimizer]"
    times = f"{now / largest:,.0f} times the largest before"
    text = f"gradients of the {slot} explode: at step {step} they are {times}; {advice}"
    return Trouble(f"gradients of the {slot}", step, before[-1][0], text)


def vanishing(slot: str, norms: History) -> Trouble | None:
    """Gradients vanish: those of a generator whose discriminator has won with the minimax loss, Goodfellow et al. 2014
    (arXiv:1406.2661), section 3, or of a saturated network. They are far smaller than they used to be."""
    *before, (step, now) = norms
    usual = median(value for _, value in before) if before else 0.0
    if not now < VANISHED * usual:
        return None
    text = f"gradients of the {slot} vanish: at step {step} they are {now / usual:.1g} times what they used to be"
    return Trouble(f"gradients of the {slot}", step, before[-1][0], text)


def worsening(scores: Sequence[tuple[int, Score]], evaluations: int) -> Trouble | None:
    """A score has worsened for a long time: late collapse, as with BigGAN (Brock et al. 2019, arXiv:1809.11096, section
    4).

    Each of the last evaluations is worse than each of as many around the score's best, and on average a quarter of the
    gain is lost: a rule for any score, with any unit and sign. Of 2n numbers in a random order, the first half is the
    better one with probability (n!)² / (2n)!, which is 1 in 252 for n = 5.
    """
    alike = [
        (step, each) for step, each in scores if each.protocol == scores[-1][1].protocol and each.value == each.value
    ]
    sign = -1.0 if scores[-1][1].higher_is_better else 1.0
    values = [sign * each.value for _, each in alike]
    starts = range(len(values) - 2 * evaluations + 1)
    if not starts:
        return None
    best = min(starts, key=lambda start: mean(values[start : start + evaluations]))
    then, now = values[best : best + evaluations], values[-evaluations:]
    if min(now) <= max(then) or mean(now) - mean(then) <= LOST * (values[0] - mean(then)):
        return None
    (good, _), (since, last) = alike[best + evaluations - 1], alike[-evaluations]
    change = f"{sign * mean(then):.4g} then, {last.value:.4g} now"
    text = f"{last.name} worsens: since step {since} every evaluation is worse than those by step {good}: {change}"
    return Trouble(last.name, since, good, text)


def _lasting(history: History, is_bad: Callable[[float], bool], for_steps: int) -> tuple[int, int] | None:
    """The first step of the bad numbers at the end of a history, and the last one before them; None if they do not go
    back for `for_steps`."""
    good = next((step for step, value in reversed(history) if not is_bad(value)), 0)
    bad = [step for step, _ in history if step > good]
    return (bad[0], good) if bad and bad[-1] - bad[0] >= for_steps else None


def _sustained(history: History, for_steps: int) -> float:
    """The highest number that a history has kept up for `for_steps`; 0 if it is shorter."""
    best, start = 0.0, 0
    for end, (step, _) in enumerate(history):
        while start < end and step - history[start + 1][0] >= for_steps:
            start += 1
        if step - history[start][0] >= for_steps:
            best = max(best, min(value for _, value in history[start : end + 1]))
    return best
