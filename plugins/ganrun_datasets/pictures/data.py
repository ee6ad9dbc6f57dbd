"""The base of data sets that are decoded from picture files."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

import ganrun
from ganrun_datasets.pictures.decoding import decode
from ganrun_datasets.pictures.job import DIGEST_BYTES, Job
from ganrun_datasets.pictures.maps import Decoded


@dataclass(frozen=True)
class Layout:
    """The pictures of a data set, with their splits and classes, determined before any is opened."""

    names: Sequence[str]
    """The files of all pictures that are used, split by split."""

    splits: Mapping[str, tuple[int, int]]
    """For each split, where in `names` it begins and ends."""

    labels: npt.NDArray[np.int64] | None = None
    """int64, one for each of `names`; None without classes."""


class PictureData(ganrun.Data):
    """A data set decoded from picture files, once, into ganrun's cache.

    Subclasses define which pictures there are, and how to decode them.
    """

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The layout; read once.

        Raises:
            DataError: if files are absent or damaged, or contradict each other.
        """

    @abstractmethod
    def job(self) -> Job:
        """The decoding job: the layout's pictures, in its order."""

    @cached_property
    def decoded(self) -> Decoded:
        """The decoded pictures; decoded now, unless they are in the cache.

        Raises:
            DataError: as `layout`; or if pictures cannot be read, or the cache cannot hold them.
        """
        return decode(self.job())

    def check_files(self) -> Mapping[str, str]:
        """Check every byte of the decoded pictures; if one has changed, decode them again, with a warning."""
        return _checked(self.job())

    def split(self, name: str) -> ganrun.Split:
        """A split of the layout."""
        rows = self._rows(name)
        return ganrun.Split(self.decoded.images[rows], self._labels(rows))

    def fingerprint(self, name: str = "train") -> str:
        """A digest of a split's pixels and labels, from what the decoder recorded."""
        rows = self._rows(name)
        return self.decoded.fingerprint(rows, self._labels(rows))

    def check_split(self, name: str) -> None:
        """Check that skipping unreadable pictures has not emptied a split.

        Raises:
            DataError: if it has.
        """
        if not len(self.split(name)):
            raise ganrun.DataError(f"no picture of the {name} split can be read")

    def _rows(self, name: str) -> slice:
        if name not in self.layout.splits:
            raise ganrun.unknown_split(name, self.layout.splits)
        return self.decoded.rows(*self.layout.splits[name])

    def _labels(self, rows: slice) -> npt.NDArray[np.int64] | None:
        labels = self.layout.labels
        return None if labels is None else labels[self.decoded.numbers[rows]]


class RecordData(PictureData):
    """The same with further pictures in record fields, each field decoded by a separate job."""

    @abstractmethod
    def field_jobs(self) -> Mapping[str, Job]:
        """The decoding job of each field: the pictures that belong to those of `job`, in the same order, unless the
        subclass overrides `field_rows`."""

    @cached_property
    def fields(self) -> Mapping[str, Decoded]:
        """The decoded pictures of each field, as `decoded`."""
        return {name: decode(job) for name, job in self.field_jobs().items()}

    def field_rows(self, field: str, split: str) -> slice:
        """The rows of a field's pictures that are a split's."""
        return self._rows(split)

    def check_files(self) -> Mapping[str, str]:
        """Check every byte of the decoded pictures, those of the fields too."""
        found = dict(super().check_files())
        for job in self.field_jobs().values():
            found |= _checked(job)
        return found

    def split(self, name: str) -> ganrun.Split:
        """A split of the layout, with its fields."""
        own = super().split(name)
        rows = {field: self.field_rows(field, name) for field in self.fields}
        return replace(own, beside={field: found.images[rows[field]] for field, found in self.fields.items()})

    def fingerprint(self, name: str = "train") -> str:
        """A digest of a split's pixels, labels and fields."""
        own = super().fingerprint(name)
        others = [found.fingerprint(self.field_rows(field, name), None) for field, found in self.fields.items()]
        text = own + "".join(others)
        return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest() if others else own


def _checked(job: Job) -> dict[str, str]:
    decoded = decode(job, whole=True)
    return {str(decoded.path): f"{len(decoded.images):,} decoded pictures, every byte by its checksum"}
