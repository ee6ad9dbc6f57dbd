"""What the fuzzers share: odd values, mutations of tables and bytes, and the verdict on what was made of them."""

from __future__ import annotations

import argparse
import datetime
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ganrun.base.errors import GanrunError

BOUND_SECONDS = 10.0
"""No answer may take longer, whatever is read; on a busy machine, most of it is waiting."""

LONGEST_MESSAGE = 60_000
"""Characters: somebody has to read it."""

Tables = dict[str, Any]


# ── Odd values ────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, -8, 2, 3, 7, 31, 33, 10**6, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 2**70),
    *(10**30, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-300, 5e-324, 1e30, -1e300, 1.7976931348623157e308),
    *(float("inf"), float("-inf"), float("nan"), True, False),
)

TEXTS = (
    *("", " ", "a", "fid", "adam", "none", "null", "0", "-1", "auto", "cuda:99", "..", "/", "/dev/zero", "~", "$HOME"),
    *("\0", "\x1b[31mred\x1b[0m", "\r", "a\nb", "\t", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\U0001f600"),
    *("é" * 300, "x" * 5_000, "a.b.c", "a" + ".a" * 400, "%s %d {0} {x}", "[red]", "'", '"', '"""', "\\", "\\u0000"),
    *("http://u:p@h", "1" * 5_000, "9" * 400, "1e999", "NaN", "Infinity", "2024-01-01", "\u0661\u0662", "²", "ǅ"),
)

DATES = (datetime.date(2024, 2, 29), datetime.time(23, 59), datetime.datetime(1, 1, 1))


def odd_value(chance: random.Random, *, dates: bool = False, depth: int = 0) -> Any:
    """Any value: a number, a text, a list, a table, deep or long."""
    kind = chance.random()
    if kind < 0.4:
        return chance.choice(NUMBERS)
    if kind < 0.75:
        return chance.choice(TEXTS)
    if kind < 0.78 and dates:
        return chance.choice(DATES)
    if kind < 0.8:
        return nested(chance, chance.choice((3, 31, 33, 70, 400)))
    if kind < 0.82:
        return [chance.choice((*NUMBERS, "x", [], {}))] * chance.choice((100, 3_000))
    if depth > 2:
        return chance.choice(([], {}))
    inner = [odd_value(chance, dates=dates, depth=depth + 1) for _ in range(chance.randrange(4))]
    return inner if kind < 0.91 else {chance.choice(TEXTS) or "k": each for each in inner}


def nested(chance: random.Random, depth: int) -> Any:
    """A value in many lists or tables."""
    value: Any = 1
    wrap = chance.choice((lambda each: [each], lambda each: {"a": each}))
    for _ in range(depth):
        value = wrap(value)
    return value


# ── Mutations ─────────────────────────────────────────────────────────────────────────────────────────────


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container within a value, with each of its keys."""
    found: list[tuple[Any, Any]] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[tuple[Any, Any]]) -> None:
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(each, dict | list):
            _collect(each, found)


def mutate(tables: Any, chance: random.Random, *, dates: bool = False, count: int | None = None) -> None:
    """Change some places of tables, in place: values, names, order, depth; or drop, copy or swap them."""
    for _ in range(count or chance.choice((1, 1, 1, 2, 4))):
        places = places_in(tables)
        if not places:
            return
        container, key = chance.choice(places)
        _MUTATIONS[chance.randrange(len(_MUTATIONS))](container, key, chance, dates)


def _replace(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    container[key] = odd_value(chance, dates=dates)


def _nudge(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    value = container[key]
    if isinstance(value, bool | None):
        container[key] = chance.choice((None, 0, 1)) if not dates else not value
    elif isinstance(value, int | float):
        container[key] = chance.choice((-value, value + 1, value - 1, value * 2, [value], 0.5))
    elif isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        container[key] = value[:at] + chance.choice(TEXTS) + value[at + chance.randrange(2) :]
    else:
        container[key] = chance.choice(([value], {"use": value}, str(value)[:200]))


def _drop(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    del container[key]


def _add(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    if isinstance(container, dict):
        container[chance.choice((*TEXTS, str(key) + "s", str(key)[1:]))] = odd_value(chance, dates=dates)
    else:
        container.insert(key, odd_value(chance, dates=dates))


def _rename(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    if isinstance(container, dict):
        container[chance.choice(TEXTS)] = container.pop(key)


def _copy(container: Any, key: Any, chance: random.Random, dates: bool) -> None:
    if isinstance(container, dict):
        container[key] = container[chance.choice(list(container))]
    else:
        container.extend(container[:50])


_MUTATIONS = (_replace, _replace, _replace, _nudge, _nudge, _drop, _add, _rename, _copy)


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut, dropped, repeated, swapped or put in."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at, kind = chance.randrange(len(data) + 1), chance.randrange(8)
        size = chance.choice((1, 1, 2, 4, 8, 100, 5_000))
        if kind <= 2 and at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 91, 93, 123, 125, chance.randrange(256)))
        elif kind == 3:
            data[at : at + size] = chance.randbytes(min(size, 64))
        elif kind == 4:
            del data[at : at + size]
        elif kind == 5:
            data[at:at] = data[at : at + size] or chance.randbytes(3)
        elif kind == 6 and len(data) > 8:
            start = chance.randrange(len(data) - 8)
            data[start : start + 8] = chance.choice((0, 1, 2**31, 2**40, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 7 and chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def odd_bytes(chance: random.Random) -> bytes:
    """A content that has nothing to do with the file that it is in."""
    return chance.choice(
        (
            *(
                b"",
                b"\0",
                b"\n",
                b"{}",
                b"[]",
                b"null",
                b"0",
                b'"x"',
                b"nan",
                b"1e999",
                b"\xff\xfe\0",
                b"\xef\xbb\xbf{}",
            ),
            *(b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5_000, b"-" * 100, b"\0" * 100_000, b"\x1f\x8b", b"PK\3\4"),
            *(b"a." * 20_000 + b"a=1", b"[" + b"a." * 20_000 + b"a]", b'{"a":1,' * 1_000, b"<!doctype html><html>"),
            chance.randbytes(chance.choice((1, 16, 300, 5_000))),
        )
    )


# ── Judgement ─────────────────────────────────────────────────────────────────────────────────────────────


class TooLong(BaseException):
    """No handler of exceptions may take it for the fault of a file."""


class Failure(NamedTuple):
    """What must not happen."""

    trial: int
    outcome: str
    details: str


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """A block that is stopped after a time; what runs in C is only noticed when it returns."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(call: Callable[[], object], bound: float = BOUND_SECONDS) -> tuple[str, str]:
    """What came of a call: `content`, or the name of ganrun's error; what must not happen begins with `!`."""
    started = time.process_time()
    try:
        with limited(4 * bound):
            call()
        outcome, details = "content", ""
    except GanrunError as error:
        outcome, details = type(error).__name__, str(error)
        if len(details) > LONGEST_MESSAGE:
            outcome = "!a message of many pages"
    except TooLong:
        outcome, details = "!endless", traceback.format_exc()
    except BaseException as error:
        outcome, details = f"!{type(error).__name__}", traceback.format_exc()
    seconds = time.process_time() - started
    if seconds > bound and not outcome.startswith("!"):
        outcome, details = f"!{seconds:.0f} s of computing, then {outcome}", details
    return outcome, details


def fuzz(
    trial: Callable[[random.Random], tuple[str, str]],
    trials: int,
    seed: int,
    tell: Callable[[Counter[str]], bool] = lambda outcomes: True,
) -> tuple[Counter[str], list[Failure]]:
    """Run trials, each with random numbers of its own, so that every one can be repeated alone. `tell` gets the
    outcomes after each, and says whether to go on."""
    outcomes: Counter[str] = Counter()
    failures = []
    for number in range(trials):
        outcome, details = trial(random.Random(f"{seed} {number}"))
        outcomes[outcome] += 1
        if outcome.startswith("!"):
            failures.append(Failure(number, outcome, details))
        if not tell(outcomes):
            break
    return outcomes, failures


def print_table(rows: dict[str, Counter[str]], seconds: float) -> None:
    """A line for each reader: how many trials, and what came of them."""
    width = max(map(len, rows), default=0)
    for name, outcomes in rows.items():
        listed = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.most_common())
        print(f"{name:{width}}  n {outcomes.total():>9,}  {listed}")
    print(f"{seconds:,.0f} s")


def print_failures(failures: list[Failure], most: int = 12) -> None:
    """One of each kind, by the line of code that it comes from."""
    kinds: dict[str, list[Failure]] = {}
    for each in failures:
        place = [line.strip() for line in each.details.splitlines() if line.strip().startswith("File ")]
        kinds.setdefault(f"{each.outcome} {(place or [''])[-1]}", []).append(each)
    for kind, found in list(kinds.items())[:most]:
        print(f"\n{kind}: {len(found)}, first at trial {found[0].trial}")
        print("\n".join(f"    {line[:300]}" for line in found[0].details.splitlines()[-25:]))


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that the fuzzers share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, metavar="TRIAL", help="run one trial alone, and show what it is made of")
    return parser


def written(path: Path, content: bytes) -> Path:
    """A file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
