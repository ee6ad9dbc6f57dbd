"""Observers, metrics and trackers that raise each kind of exception: `python -m tests.stress.events`."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

from tests.stress.outcome import differences, outcome
from tests.stress.plugin import ganrun_stress
from tests.stress.starts import Ended
from tests.stress.trials import Bench, Result, output_faults, resumed, told

EVENTS = (
    "run_starting",
    "run_started",
    "step_ended",
    "measured",
    "evaluating",
    "evaluated",
    "file_written",
    "training_ended",
    "run_ended",
)
"""The events of an undisturbed run."""

OFTEN = ("step_ended", "measured", "evaluating", "evaluated", "file_written")
"""Those that come more than once."""

METHODS = ("prepare", "watch", "measure")
"""The methods of a metric."""

ASKED = {
    "offer": ("compare", "nothing"),
    "find": ("compare", "nothing"),
    "runs_of": ("compare", "--experiment", "none"),
    "experiments": ("compare", "--experiment", "none"),
}
"""What is asked of a tracker, and by which command."""

CASES = [
    *product(("observer", "essential"), EVENTS, ganrun_stress.KINDS),
    *product(("other-brightness",), METHODS, ganrun_stress.KINDS),
    *product(("tracker",), ASKED, ganrun_stress.KINDS),
]
"""Whose fault, at what, and which."""

TOLD_IN_A_LINE = ("OSError", "GanrunError", "RunError", "MemoryError", "KeyboardInterrupt")
"""Kinds that say nothing of the author's code, and so have no traceback."""

MORE: dict[str, Any] = {
    "raising": {},
    "essential": {},
    "metric": [{"use": "brightness"}, {"use": "other-brightness"}],
}
"""What the recipe of a run has for these trials."""


def event(bench: Bench, random: Random, number: int) -> Result | None:
    """Let an observer or a metric raise at its first call, and then resume without the fault; or let a tracker raise in
    a command."""
    return raised(bench, *CASES[number]) if number < len(CASES) else None


def raised(bench: Bench, owner: str, at: str, kind: str) -> Result:
    """The trial of one case."""
    if owner == "tracker":
        return asked(bench, at, kind)
    place, story = bench.new_place("trial"), []
    heard = bench.folder / "heard"
    heard.unlink(missing_ok=True)
    ended = bench.start(place, STRESS_FAULT=f"{owner} {at} {kind} 1", STRESS_HEARD=str(heard))
    status = _status(place / "run")
    story.append(told(f"{owner} raises {kind} at {at}, and the run is {status}", ended))
    faults = _message_faults(owner, kind, ended)
    is_outlived = owner != "essential" and kind != "KeyboardInterrupt" and at != "prepare"
    if is_outlived:
        faults += _outlived_faults(bench, place, owner, status)
    if is_outlived and owner == "observer":
        faults += _hearing_faults(heard.read_text(encoding="utf-8").split(), at, kind)
    after = resumed(bench, place, story)
    faults += [each for each in after if owner != "other-brightness" or not _is_of_scores(each)]
    return Result(f"{owner}, {kind}", f"status {ended.status}", faults, story)


def asked(bench: Bench, at: str, kind: str) -> Result:
    """The trial of a tracker: the command fails, and says whose fault it is."""
    place = bench.new_place("trial")
    ended = bench.server.start(place, *ASKED[at], STRESS_FAULT=f"tracker {at} {kind} 1", MLFLOW_TRACKING_URI="")
    faults = _message_faults("stress", kind, ended) + output_faults(ended)
    left = [path.name for path in place.iterdir()]
    return Result(f"tracker, {kind}", f"status {ended.status}", faults + left, [told(f"tracker raises {kind}", ended)])


def _message_faults(owner: str, kind: str, ended: Ended) -> list[str]:
    faults = output_faults(ended) if kind in TOLD_IN_A_LINE else []
    name = "raising" if owner == "observer" else owner
    is_its_own = owner in ("essential", "stress") and kind in (
        "GanrunError",
        "RunError",
    )  # which says by itself what is wrong, and where
    if kind != "KeyboardInterrupt" and not is_its_own and name not in ended.output:
        faults.append(f'the message does not name "{name}": {ended.output[-600:]}')
    if ended.status not in ((130,) if kind == "KeyboardInterrupt" else (1, 2)):
        faults.append(f"status {ended.status}: {ended.output[-600:]}")
    return faults


def _outlived_faults(bench: Bench, place: Path, owner: str, status: str) -> list[str]:
    """What is wrong with a run that goes on without a part."""
    found = [] if status == "finished" else [f'the run is "{status}"']
    lacking = differences(outcome(place / "run"), bench.wanted)
    return found + [each for each in lacking if owner == "observer" or not _is_of_scores(each)]


def _is_of_scores(fault: str) -> bool:
    """Whether a difference is where the scores of a metric are."""
    return any(name in fault for name in ("metrics.jsonl", "summary.json", "curves.png"))


def _hearing_faults(heard: list[str], at: str, kind: str) -> list[str]:
    """Whether an observer has heard what it is to hear after its fault: all that follows, if that was of a moment, and
    else only the end."""
    later = heard[heard.index(at) + 1 :] if at in heard else []
    if at != "run_ended" and "run_ended" not in later:
        return [f"after its fault at {at} it does not hear run_ended, but {later[-3:]}"]
    if kind != "OSError" and later not in ([], ["run_ended"]):
        return [f"after its fault at {at} it hears {later[:5]}"]
    if kind == "OSError" and at in OFTEN and at not in later:
        return [f"after a fault of a moment at {at} it hears no other {at}"]
    return []


def _status(run: Path) -> str:
    try:
        return str(json.loads((run / "summary.json").read_text(encoding="utf-8"))["status"])
    except OSError:
        return "without a summary"


if __name__ == "__main__":
    from tests.stress.campaign import main

    raise SystemExit(main("events"))
