"""Warnings about likely mistakes in decoded pictures."""

from __future__ import annotations

import logging

import ganrun
from ganrun_datasets.pictures.maps import Decoded, Tally
from ganrun_datasets.pictures.picture import Transform

log = logging.getLogger("ganrun.datasets")


def check_pixels(decoded: Decoded, transform: Transform, setting: str = "channels") -> None:
    """Warn about pictures that are grey, enlarged, animated or dark.

    Args:
        decoded: The pictures.
        transform: What they were decoded by.
        setting: The one that says how many channels they have.

    Raises:
        DataError: if all of them are grey, but colour is requested.
    """
    record, count = decoded.record, len(decoded.images)
    if transform.channels == 3 and record.grey.count == count:
        raise ganrun.DataError(f"all {count:,} pictures are grey; set {setting} = 1 in [data]")
    if transform.channels == 3:
        warn_about(record.grey, count, "are grey and are converted to colour")
    warn_about(record.enlarged, count, f"are smaller than {transform.size} pixels and are enlarged")
    warn_about(record.animated, count, "have several frames, of which the first is used")
    used = max(record.peak.bit_length(), 8)
    if used < transform.bits:
        black = f"have {transform.bits} bits and use values only up to {record.peak:,}, so that they are dark"
        warn_about(record.deep, count, f"{black}; set bits = {used} in [data] if {2**used - 1:,} is white")


def warn_about(tally: Tally, total: int, fact: str) -> None:
    """Warn about some of the pictures, if there are any."""
    if tally.count:
        log.warning("%s of %s pictures %s; the first is %s", f"{tally.count:,}", f"{total:,}", fact, tally.first)
