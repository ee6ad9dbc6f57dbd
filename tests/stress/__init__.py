"""Runs that are disturbed in every way that can be imitated, and must lose nothing.

    python -m tests.stress.kills --trials 1000 --seed 0 --workers 8   killed before, in, and after operations
    python -m tests.stress.cuts --trials 1000   the power fails
    python -m tests.stress.full --workers 8   a full disk, at every operation
    python -m tests.stress.faults --trials 1000   other faults of the file system, once or for good
    python -m tests.stress.signals --trials 1000   signals, once or more often
    python -m tests.stress.pairs --trials 1000   two starts on one directory
    python -m tests.stress.events   observers, metrics and trackers that raise
    python -m tests.stress.stores --trials 1000 --families vae   kills, power cuts and a full disk, with MLflow

An operation is whatever changes a file below the run's folder: opening for writing, writing, flushing, renaming,
removing. `shim.c`, loaded before the C library, counts them and disturbs the chosen one; `server.py` has everything
imported and forks for each start of the real command line; `disk.py` makes the states that a power cut may leave.

Each trial disturbs a run of one of five families (`recipes.py`) one to three times, resumes it undisturbed, and
compares every file with that of an undisturbed run: weights, averages and optimisers bit for bit, metrics.jsonl and
summary.json but for times, pictures, and no file more or less (`outcome.py`). A traceback, a status 0 with something
missing, or a fault that is not told is wrong too. The table of a campaign is fit for docs/reliability.md; a trial that
is wrong prints its story and the command that repeats it (`--only`). `test_disturbed_runs.py` has a few trials of each.

They need Linux and a C compiler, `cc`.
"""
