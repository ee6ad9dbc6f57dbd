"""The tests. A package, so that `python -m tests.stress.kills` finds these tests and not another package of that
name."""
