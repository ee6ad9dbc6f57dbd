"""Types of settings that refer to things outside a recipe: paths on this machine, services, and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ganrun.base.errors import RequestError
from ganrun.base.jsons import LONE_SURROGATES
from ganrun.base.secrets import secret_in
from ganrun.base.texts import one_line
from ganrun.contracts.settings import Settings

SECRET_FAULT = "secret"
"""The type of a validation error whose input must not be shown."""

M = TypeVar("M")


class _Path:
    """Marks a setting as a path of this machine."""


def _absolute(path: str) -> str:
    if not path:
        raise ValueError("say a path")
    try:
        absolute = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - pathlib's raises for an unknown user
    except OSError as error:
        raise ValueError(f"the working directory is gone ({error.strerror}); change to another one") from error
    try:
        os.fsencode(absolute)
    except UnicodeEncodeError:
        raise ValueError(f"names of files cannot be {absolute!r} in this locale; set PYTHONUTF8=1") from None
    if LONE_SURROGATES.search(absolute):
        raise ValueError(f"{one_line(absolute)} is not UTF-8 text, as a recipe must be; rename it, or use a link to it")
    if (found := _CONTROL.search(path)) and not os.path.lexists(absolute):
        raise ValueError(_HOLDS_CONTROL.format(one_line(path), one_line(found[0])))
    return absolute


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_HOLDS_CONTROL = (
    "there is no {}, which holds the control character {}; within double quotes, \\ starts an escape of TOML, so write "
    "a path with \\ in single quotes"
)


LocalPath = Annotated[str, AfterValidator(_absolute), _Path()]
"""A setting that is a path of this machine: `root: ganrun.LocalPath | None = None`.

It is made absolute, with `~` replaced by the user's home, so that a run can be continued from any working directory. It
is a location, not content: a run may be resumed with a different path, and exports do not contain it.
"""


@dataclass(frozen=True)
class Address:
    """Marks a setting as the address of a service that runs are sent to; an address with a password or token is
    refused, because recipes are stored in runs and handed out with them.

        uri: Annotated[str, ganrun.Address("MLFLOW_TRACKING_URI")] | None = None

    An address from a run's own recipe is used only if the environment variable or `--set` confirms it: a run directory
    may come from anybody.

    Args:
        variable: The environment variable that names the same service.
    """

    variable: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, address: str) -> str:
        if (what := secret_in(address)) is not None:
            raise PydanticCustomError(
                SECRET_FAULT, f"it holds a {what}; remove it from here, and set the whole address in {self.variable}"
            )
        return address


class _Secret:
    """Marks a setting as a reference to a secret."""


_REFERENCE = re.compile(r"\$[A-Za-z_]\w*")


def _reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise PydanticCustomError(
            SECRET_FAULT,
            "a secret does not belong in a recipe, which is stored in runs and handed out with them; put it into an "
            'environment variable, and write that variable\'s name: "$NAME"',
        )
    return text


Secret = Annotated[str, AfterValidator(_reference), _Secret()]
"""A setting that is a password, token or key: `api_key: ganrun.Secret = "$SERVICE_API_KEY"`.

A recipe names the environment variable that holds it, after a `$`, and never holds the secret itself; `secret_value`
reads it.
"""


def secret_value(reference: str) -> str:
    """The secret that a setting of the type `Secret` refers to.

    Raises:
        RequestError: if the environment variable is not set.
    """
    value = os.environ.get(reference.removeprefix("$"))
    if not value:
        raise RequestError(f"the environment variable {reference.removeprefix('$')} is not set")
    return value


def marked(settings: type[Settings], mark: type[M]) -> Iterator[tuple[str, M]]:
    """The keys of the settings that have a mark of this class, each with the mark."""
    for name, field in settings.model_fields.items():
        for each in _marks_of(field.annotation, field.metadata):
            if isinstance(each, mark):
                yield field.alias or name, each


def local_paths(settings: type[Settings]) -> list[str]:
    """The keys of the settings that are paths of this machine."""
    return [name for name, _ in marked(settings, _Path)]


def _marks_of(annotation: Any, metadata: Any = ()) -> Iterator[object]:
    yield from metadata
    for each in get_args(annotation):
        yield from _marks_of(each, getattr(each, "__metadata__", ()))
