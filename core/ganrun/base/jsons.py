"""JSON that every reader accepts, also for values that JSON cannot represent."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def json_text(content: Any, *, indent: int | None = None, sort_keys: bool = False, only_ascii: bool = False) -> str:
    """JSON of any content. NaN and infinity become null, and a value that JSON cannot represent becomes its text.
    Characters are written unescaped, except those that cannot be encoded, as in a file name that is not Unicode. With
    `only_ascii`, for standard output in an unknown encoding, all non-ASCII characters are escaped.
    """
    plain = _plain(content)
    text = json.dumps(plain, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    if only_ascii or LONE_SURROGATES.search(text):
        text = json.dumps(plain, indent=indent, sort_keys=sort_keys, allow_nan=False)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)  # a number or an array of NumPy or torch
