"""The group of all commands: finds them, and reports their errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from ganrun.base.errors import GanrunError, Interrupted, RequestError, RunError
from ganrun.base.frames import failure
from ganrun.base.launched import launched
from ganrun.base.secrets import without_secrets
from ganrun.base.signals import signals_as_exceptions
from ganrun.base.streams import lost_output, protect_streams
from ganrun.base.suggestions import did_you_mean
from ganrun.commands.launching import ARGUMENTS
from ganrun.commands.reporting import is_bug, report
from ganrun.discovery.registry import Registry, load_registry

ON_SEVERAL = ("train", "resume")
"""Commands that torchrun can start as several processes of one run."""

COMMANDS = ("train", "resume", "eval", "list", "show", "check", "plugins", "schema", "doctor", "data", "cache")
"""Ganrun's own commands, in the order of `ganrun --help`. Each is `command` in the module of its name in this package.

`ganrun train` imports only that module, and `ganrun --help` all of them, so they import slow packages in functions.
"""


class RecipeGroup(click.Group):
    """The top-level group: `ganrun recipe.toml …` means `ganrun train recipe.toml …`, and plugins add commands."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As click does; printing never fails, and lost standard output is reported at the end."""
        protect_streams()
        try:
            return super().main(*args, **options)
        except SystemExit as end:
            _report_lost_output(end.code)
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `train` if the first argument is a recipe, or an option followed by one."""
        ctx.meta[ARGUMENTS] = tuple(args)
        starts_without_command = args and (args[0].endswith(".toml") or args[0].startswith("-"))
        if starts_without_command and any(arg.endswith(".toml") for arg in args):
            args = ["train", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ganrun's own commands, then those of plugins, sorted by name."""
        return [*COMMANDS, *sorted(self._plugin_commands(ctx))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one of ganrun's own commands; load the plugins only for other names."""
        if name in COMMANDS:
            command: click.Command = import_module(f"ganrun.commands.{name}").command
            return command
        if name.startswith("-") or name.endswith(".toml"):
            return None
        return self._plugin_commands(ctx).get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does; the error for an unknown command suggests the most similar one and lists broken plugins."""
        _check_alone(args[0])
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            known = self.list_commands(ctx)
            hint = did_you_mean(args[0], known) or f"; there are {', '.join(known)}"
            broken = self._registry(ctx).broken().items()
            faults = "".join(f'\n  the plugin "{name}" is broken: {why}' for name, why in broken)
            faults += "".join(f"\n  {fault}" for fault in self._registry(ctx).plugins.faults)
            ctx.fail(f'"{args[0]}" is neither a command nor a recipe (NAME.toml){hint}{faults}')

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its errors are printed, and signals interrupt it."""
        with _reported_errors(), signals_as_exceptions(), self._named_errors(ctx):
            Path.cwd()  # without this check, each command would fail in its own way if the folder was removed
            return super().invoke(ctx)

    @contextmanager
    def _named_errors(self, ctx: click.Context) -> Iterator[None]:
        """A block in which exceptions of a plugin's command name that command, except those that click uses to end
        it."""
        try:
            yield
        except (GanrunError, OSError, UnicodeEncodeError, click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            name = ctx.invoked_subcommand
            plugin = None if name is None or name in COMMANDS else self._registry(ctx).plugin_of_command(name)
            if plugin is None:
                raise
            raise failure(f"the command {name} ({plugin})", "it", error, RunError) from error

    def _plugin_commands(self, ctx: click.Context) -> dict[str, click.Command]:
        return self._registry(ctx).commands(taken=COMMANDS)

    def _registry(self, ctx: click.Context) -> Registry:
        """The registry, loaded once for each invocation."""
        if "ganrun.registry" not in ctx.meta:
            ctx.meta["ganrun.registry"] = load_registry()
        registry: Registry = ctx.meta["ganrun.registry"]
        return registry


def _check_alone(name: str) -> None:
    """Check that torchrun has not started several processes of a single-process command."""
    if launched() is not None and name not in ON_SEVERAL:
        listed = " and ".join(ON_SEVERAL)
        raise RequestError(f"ganrun {name} is one process, and torchrun is for {listed}; start it without torchrun")


@contextmanager
def _reported_errors() -> Iterator[None]:
    """A block whose `GanrunError`s are printed without a traceback and end the program with their exit status; so are
    out-of-memory errors, as advice."""
    try:
        yield
    except Interrupted as interruption:
        sys.exit(interruption.exit_status)
    except GanrunError as error:
        report(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if is_bug(error):
            raise
        report(error)
        sys.exit(1)


def _report_lost_output(status: object) -> None:
    """Report that standard output is incomplete; that counts as a failure if there is no other, though the command has
    run."""
    if (error := lost_output()) is None:
        return
    click.echo(f"error: what was printed is incomplete: {error.strerror}; the command itself has ended", err=True)
    if not status:
        sys.exit(1)


def set_up_logging() -> None:
    """Print ganrun's log records on the message console, above any progress bar."""
    handler = _ConsoleHandler()
    handler.setFormatter(_Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("ganrun")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from ganrun.base.console import message_console

        message_console().print(self.format(record), soft_wrap=True)
