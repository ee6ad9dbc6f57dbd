"""The starts of a run, as recorded in environment.json: the first at its top level, and all in a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganrun.discovery.made_with import Origin
from ganrun.rundir.contents import IN_SESSION, fitting

SESSIONS = "sessions"

OF_RUN = ("data", "problem", "starts", "files")
"""Entries that are stored only at the top level while they are unchanged since the first start."""

Json = dict[str, Any]


def sessions_in(environment: Mapping[str, Any]) -> list[Json]:
    """The starts of a run, in order, from the content of environment.json; ganrun 0.1.0 recorded only the last."""
    listed = environment.get(SESSIONS)
    found = [fitting(each, IN_SESSION) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    only = {"step": None, "time": None, **_without(environment, OF_RUN)}
    return found or ([only] if environment else [])


def with_session(earlier: Mapping[str, Any], facts: Mapping[str, Any], session: Mapping[str, Any]) -> Json:
    """The content of environment.json after a further start.

    Args:
        earlier: The content before; empty at the first start.
        facts: What `describe_environment` says of this start.
        session: Further facts to record about it.
    """
    first = _without(earlier or facts, (SESSIONS,))
    own = {name: value for name, value in facts.items() if name not in OF_RUN or value != first.get(name)}
    return {**first, SESSIONS: [*sessions_in(earlier), {**session, **own}]}


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Changes since the previous start that may change results: `threads 8, before 2`; unknown values are ignored."""
    then = _deciding(before)
    return [
        f"{name} {value}, before {then[name]}"
        for name, value in _deciding(now).items()
        if name in then and then[name] != value
    ]


def _deciding(session: Mapping[str, Any]) -> dict[str, str]:
    """The recorded facts of a start that may change a run's results: versions of required packages and of the plugins'
    packages, the machine, and the recipe's commit. Also the names of the classes."""
    plugins = [Origin.parse(str(each)) for each in _table(session, "plugins").values()]
    found = {
        **{each.package: each.version for each in plugins},
        **_table(session, "packages"),
        **_classes(session),
        "Python": session.get("python"),
        "platform": session.get("platform"),
        "device": str(session.get("device_name") or "").partition(" (")[0],  # it includes a CPU's threads
        "threads": session.get("threads"),
        "precision": session.get("precision"),
        "the recipe's commit": str(_table(session, "git").get("commit") or "")[:12],
    }
    return {name: str(value) for name, value in found.items() if value}


def _classes(session: Mapping[str, Any]) -> dict[str, str]:
    names = _table(session, "problem").get("class_names")
    return {f"class {number}": str(name) for number, name in enumerate(names)} if isinstance(names, list) else {}


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name)
    return table if isinstance(table, dict) else {}


def _without(content: Mapping[str, Any], names: tuple[str, ...]) -> Json:
    return {name: value for name, value in content.items() if name not in names}
