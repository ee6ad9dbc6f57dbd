"""The list of emoji that comes with the pictures, and the split that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ganrun import DataError, UnreadableError, one_line
from ganrun_datasets.emoji.packages import ABOUT, LIST, Vendor
from ganrun_datasets.pictures.sources import Source

CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Component",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
"""Of the packages since version 7."""

SPLIT_SEED = 0
TEST_SHARE = 5
"""One emoji in this many, of each category, belongs to the test split."""

JOINERS = {"200D", "FE0F", "2640", "2642"}
"""The zero-width joiner, the variation selector, and the signs for female and male."""

PEOPLE = {"1F466", "1F467", "1F468", "1F469", "1F46A", "1F9D1", "1F9D2"}
"""Boy, girl, man, woman, family, adult and child."""


SAME_FLAG = {
    **{"BV": "NO", "CP": "FR", "EA": "ES", "HM": "AU", "IO": "DG", "MF": "FR", "SJ": "NO", "UM": "US"},
    "CQ": "SA",  # by Google alone
}
"""Countries and territories, each with another that has an identical flag."""


def flag(country: str) -> str:
    """The code points of a country's flag: a regional indicator for each letter of its code."""
    return "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in country)


SAME_PICTURE = {flag(country): flag(other) for country, other in SAME_FLAG.items()}


class Picture(BaseModel):
    """One picture of each vendor."""

    image: str
    """The name of its file."""

    has_img_google: bool = False
    has_img_twitter: bool = False

    def is_by(self, vendor: Vendor) -> bool:
        """Whether the vendor has drawn it."""
        return self.has_img_google if vendor == "google" else self.has_img_twitter


class Emoji(Picture):
    """An emoji, with its variants by skin tone."""

    unified: Annotated[str, Field(pattern=r"^[0-9A-F]{2,6}(-[0-9A-F]{2,6})*$")]
    """Its code points, which are its name in the split."""

    category: str
    skin_variations: dict[str, Picture] = {}

    @property
    def subject(self) -> tuple[str, ...]:
        """Its code points without those for the person: the same for a man, a woman and a person running, and for
        identical flags."""
        codes = SAME_PICTURE.get(self.unified, self.unified).split("-")
        return tuple(code for code in codes if code not in JOINERS | PEOPLE)

    def pictures(self, *, skin_tones: bool) -> Iterator[Picture]:
        """Its picture, and those of its variants."""
        yield self
        yield from self.skin_variations.values() if skin_tones else ()


def read_catalogue(source: Source) -> list[Emoji]:
    """The emoji of a package, sorted by their code points.

    Raises:
        DataError: if its list is absent or damaged, or not one that ganrun knows.
    """
    try:
        found = TypeAdapter(list[Emoji]).validate_json(_content(source, LIST))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        reason = one_line(f"{place}: {first['msg']}" if place else first["msg"])
        raise DataError(
            f"{source.path} has a damaged {LIST} ({reason}); replace the package with a fresh copy"
        ) from error
    _check(found, source)
    return sorted(found, key=lambda emoji: emoji.unified)


def read_version(source: Source) -> str | None:
    """The package's version; None if its package.json does not say it."""
    with suppress(DataError, ValueError, TypeError, KeyError, RecursionError):
        return one_line(str(json.loads(_content(source, ABOUT))["version"]))
    return None


def _content(source: Source, name: str) -> bytes:
    try:
        if name not in source.stamps:
            raise UnreadableError("it is absent")
        with ExitStack() as handles:
            return source.reader(handles)(name)
    except UnreadableError as error:
        raise DataError(
            f"{source.path} has no {name} that can be read: {error}; replace it with a fresh copy"
        ) from error


def _check(emoji: Sequence[Emoji], source: Source) -> None:
    unknown = sorted({each.category for each in emoji} - set(CATEGORIES))
    if unknown:
        text = f"{source.path} has a category {one_line(unknown[0])}, which is none of {', '.join(CATEGORIES)}"
        raise DataError(f"{text}; use version 7 or later of the package")
    names = Counter(each.unified for each in emoji)
    names += Counter(picture.image for each in emoji for picture in each.pictures(skin_tones=True))
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise DataError(f"{source.path} lists {one_line(repeated[0])} more than once in {LIST}; replace it")


# ── The split ─────────────────────────────────────────────────────────────────────────────────────────────


def held_out(emoji: Sequence[Emoji]) -> set[str]:
    """The code points of the emoji of the test split: a fifth of each category, rounded down.

    In each category, emoji of one subject stay together. Subjects are sorted by a digest of their code points, and
    taken while they fit into the fifth. It depends on the names alone: not on the vendor or the variants, nor on numpy
    or the machine.
    """
    categories: Mapping[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for each in emoji:
        categories[each.category][each.subject].append(each.unified)
    return {name for subjects in categories.values() for name in _held_out(subjects)}


def _held_out(subjects: Mapping[tuple[str, ...], list[str]]) -> Iterator[str]:
    room = sum(map(len, subjects.values())) // TEST_SHARE
    for subject in sorted(subjects, key=_digest):
        if len(subjects[subject]) <= room:
            room -= len(subjects[subject])
            yield from subjects[subject]


def _digest(subject: Sequence[str]) -> bytes:
    return hashlib.blake2b(f"{SPLIT_SEED} {'-'.join(subject)}".encode(), digest_size=16).digest()
