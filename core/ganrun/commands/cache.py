"""`ganrun cache`: lists and clears the cache."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from time import time

import click

from ganrun.base.caches import (
    LIMIT_VARIABLE,
    CacheEntry,
    cache_entries,
    cache_limit,
    cache_root,
    remove_leftovers,
    size_text,
)
from ganrun.base.errors import GanrunError, RequestError
from ganrun.base.suggestions import did_you_mean
from ganrun.commands.output import table

SECONDS_PER_DAY = 24 * 3600


@click.group("cache")
def command() -> None:
    """List and clear files that ganrun has downloaded, decoded and computed for all runs."""


@command.command("list")
def list_cache() -> None:
    """List what the cache holds: kinds, sizes, and when each file was last used."""
    entries = cache_entries()
    rows = [("kind", "size", "last used", "file")]
    rows += [(entry.kind, size_text(entry.size_bytes), _day(entry), entry.path.name) for entry in entries]
    if entries:
        click.echo(table(rows))
    again = _sum([entry for entry in entries if not entry.is_fetched])
    click.echo(f"{_sum(entries)} in {cache_root()}")
    click.echo(f"{again} that ganrun can recreate; it keeps at most {size_text(cache_limit())} ({LIMIT_VARIABLE})")


@command.command("clear")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option(
    "--older-than", "days", type=click.FloatRange(0), default=0, metavar="DAYS", help="Keep files used since then."
)
def clear_cache(kinds: Sequence[str], days: float) -> None:
    """Remove one or more KINDs that `ganrun cache list` shows; without KIND, everything that ganrun can recreate.

    Downloads are removed only if their KIND is given. A run that is using a file keeps it until it ends.
    """
    entries = cache_entries()
    _check_kinds(kinds, entries)
    chosen = [entry for entry in entries if (entry.kind in kinds if kinds else not entry.is_fetched)]
    if days:
        chosen = [entry for entry in chosen if entry.last_used < time() - days * SECONDS_PER_DAY]
    kept = [entry for entry in chosen if not entry.remove()]
    remove_leftovers()
    click.echo(f"removed {_sum([entry for entry in chosen if entry not in kept])} from {cache_root()}")
    if kept:
        raise GanrunError(f"{len(kept):,} could not be removed; the first is {kept[0].path}")


def _check_kinds(kinds: Sequence[str], entries: Sequence[CacheEntry]) -> None:
    known = sorted({entry.kind for entry in entries})
    for kind in kinds:
        if kind not in known:
            hint = did_you_mean(kind, known) or (f"; it holds {', '.join(known)}" if known else "; it is empty")
            raise RequestError(f'the cache {cache_root()} holds no "{kind}"{hint}')


def _day(entry: CacheEntry) -> str:
    return "(fetched)" if entry.is_fetched else datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d")


def _sum(entries: Sequence[CacheEntry]) -> str:
    count = len(entries)
    noun = "entry" if count == 1 else "entries"
    return f"{count:,} {noun} of {size_text(sum(entry.size_bytes for entry in entries))}"
