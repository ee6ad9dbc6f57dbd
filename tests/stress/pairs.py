"""Two starts on one directory, one stopped at an operation while the other runs: `python -m tests.stress.pairs`."""

from __future__ import annotations

from random import Random

from tests.stress.trials import Bench, Result, output_faults, resumed, told


def pair(bench: Bench, random: Random, number: int = 0) -> Result:
    """Stop a start at an operation, make another one on its directory, and let the first go on.

    At most one trains, and what it leaves is its own: the other is refused, or continues what is finished.
    """
    place, story = bench.new_place("trial"), []
    at = random.randint(1, min(bench.count(), 25)) if random.random() < 0.7 else random.randint(1, bench.count())
    resume, other_seed = random.random() < 0.5, random.random() < 0.5
    ours, theirs = bench.arguments(place, resume=resume), bench.arguments(place, resume=resume)
    seed = ["--seed", "77"] if other_seed else []
    first, second = bench.server.start_two(place, [*ours, *seed], at, theirs)
    story.append(told(f"stopped at {at}{', of another seed' if other_seed else ''}", first))
    if second is not None:
        story.append(told("started in between", second))
    faults = output_faults(first) + (output_faults(second) if second else [])
    row = f"{'--resume' if resume else 'new'}, {'other seeds' if other_seed else 'one seed'}"
    outcome = f"{first.status} and {second.status if second else 'none'}"
    statuses = (first.status, second.status if second else 0)
    if not set(statuses) <= {0, 2}:
        faults.append(f"status {statuses}: {first.output[-400:]} {second.output[-400:] if second else ''}")
    trained = [ended.status == 0 for ended in (first, second) if ended]
    if not any(trained) or (all(trained) and second and (other_seed or not resume)):
        faults.append(
            f"{sum(trained)} starts have trained: {first.output[-400:]} {second.output[-400:] if second else ''}"
        )
    if second and second.status == 0:
        faults += bench.faults_of(place)
    elif not other_seed:
        faults += resumed(bench, place, story)
    return Result(row, outcome, faults, story)


if __name__ == "__main__":
    from tests.stress.campaign import main

    raise SystemExit(main("pairs"))
