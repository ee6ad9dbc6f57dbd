"""The starts of a run, each of which environment.json keeps: the first at its top level, and all in a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ganrun.discovery.made_with import Origin

SESSIONS = "sessions"

OF_RUN = ("data", "problem", "starts")
"""Entries that are at the top level alone, as long as they stay as they were at the first start."""

COMPARED = {"python": "Python {}", "platform": "{}", "device_name": "{}", "threads": "{} threads"}
"""What may change the numbers of a run, besides packages; and how a message says it."""

Json = dict[str, Any]


def sessions_in(environment: Mapping[str, Any]) -> list[Json]:
    """The starts of a run, in order, from the content of environment.json; ganrun 0.1.0 recorded the last one alone."""
    listed = environment.get(SESSIONS)
    found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    only = {"step": None, "time": None, **_without(environment, OF_RUN)}
    return found or ([only] if environment else [])


def with_session(earlier: Mapping[str, Any], facts: Mapping[str, Any], session: Mapping[str, Any]) -> Json:
    """The content of environment.json after a further start.

    Args:
        earlier: The content before; empty at the first start.
        facts: What `describe_environment` says of this start.
        session: What else is recorded of it.
    """
    first = _without(earlier or facts, (SESSIONS,))
    own = {name: value for name, value in facts.items() if name not in OF_RUN or value != first.get(name)}
    return {**first, SESSIONS: [*sessions_in(earlier), {**session, **own}]}


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What may give a start other numbers than the one before it: `8 threads, before 2`; nothing that is unknown."""
    texts = [
        f"{text.format(now[name])}, before {before[name]}"
        for name, text in COMPARED.items()
        if _is_known(before.get(name)) and before[name] != now.get(name)
    ]
    return [*_changed_versions(_versions(before), _versions(now)), *texts, *_changed_commit(before, now)]


def _changed_versions(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for package in (each for each in now if each in before):
        if now[package] != before[package]:
            yield f"{package} {now[package]}, before {before[package]}"


def _versions(session: Mapping[str, Any]) -> dict[str, str]:
    """The version of every package that is recorded: those that ganrun requires, and those of the plugins."""
    plugins = map(Origin.parse, map(str, _table(session, "plugins").values()))
    return {**{each.package: each.version for each in plugins}, **_table(session, "packages")}


def _changed_commit(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = (_table(each, "git").get("commit") for each in (before, now))
    if old and new and old != new:
        yield f"a recipe of commit {str(new)[:12]}, before {str(old)[:12]}"


def _is_known(value: object) -> bool:
    return isinstance(value, str | int)


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}


def _without(content: Mapping[str, Any], names: tuple[str, ...]) -> Json:
    return {name: value for name, value in content.items() if name not in names}
