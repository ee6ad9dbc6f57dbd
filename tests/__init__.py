"""The tests. A package, so that `python -m tests.stress.kills` finds these, and no other package of that name."""
