"""The command line: parses and prints, nothing else. Whatever is slow to import is imported by its command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ganrun.base.errors import GanrunError, Interrupted, RecipeError, RequestError, RunError
from ganrun.base.signals import unwinding
from ganrun.discovery.kinds import KINDS

_NO_PLUGIN = click.option("--no-plugin", "blocked", multiple=True, metavar="NAME", help="Leave a plugin out.")


class RecipeGroup(click.Group):
    """A group in which `ganrun recipe.toml …` means `ganrun train recipe.toml …`, and to which plugins add commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `train` before a recipe that comes first."""
        is_short = args and (args[0].endswith(".toml") or args[0].startswith("-"))
        if is_short and any(arg.endswith(".toml") for arg in args):
            args = ["train", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ganrun's own, then those of plugins by name."""
        return [*self.commands, *sorted(self._added(ctx))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """One of ganrun's own, else of a plugin; plugins are looked at only then."""
        if name in self.commands or name.startswith("-") or name.endswith(".toml"):
            return self.commands.get(name)
        return self._added(ctx).get(name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does; what is no command is told with the likeliest one and the plugins that are broken."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from ganrun.base.suggestions import did_you_mean

            known = self.list_commands(ctx)
            hint = did_you_mean(args[0], known) or f"; there are {', '.join(known)}"
            broken = self._plugins(ctx).broken().items()
            faults = "".join(f'\n  the plugin "{name}" is broken: {why}' for name, why in broken)
            ctx.fail(f'"{args[0]}" is neither a command nor a recipe (NAME.toml){hint}{faults}')

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its errors are printed, and signals unwind it."""
        with _told_errors(), unwinding():
            return super().invoke(ctx)

    def _added(self, ctx: click.Context) -> dict[str, click.Command]:
        commands: dict[str, click.Command] = self._plugins(ctx).commands(taken=self.commands)
        return commands

    def _plugins(self, ctx: click.Context) -> Any:
        """The registry, loaded once, where something is asked that is no command of ganrun's own."""
        if "ganrun.registry" not in ctx.meta:
            from ganrun.discovery.registry import load_registry

            ctx.meta["ganrun.registry"] = load_registry()
        return ctx.meta["ganrun.registry"]


@click.group(cls=RecipeGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ganrun")
def main() -> None:
    """Train, score and compare generative image models: one TOML recipe is one experiment.

    \b
    ganrun recipes/quickstart.toml                     train it
    ganrun recipes/quickstart.toml --set train.steps=50
    ganrun list                                        what a recipe can use
    ganrun show loss gan                               the settings of one component
    """
    _set_up_logging()


# ── Training ──────────────────────────────────────────────────────────────────────────────────────────────


def _recipe_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that change what a recipe says."""
    for option in (
        _NO_PLUGIN,
        click.option("--seed", type=int, help="Same as --set train.seed=N."),
        click.option("--device", help="auto, cpu, cuda, cuda:1 or mps; same as --set train.device=…"),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override: --set train.steps=500."),
    ):
        function = option(function)
    return function


@main.command(no_args_is_help=True)
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE.toml...")
@_recipe_options
@click.option("--seeds", metavar="0,1,2", help="Train replicates, one a seed; their directories lie in --output.")
@click.option("--output", type=click.Path(path_type=Path), help="The run's own directory. Default: a new one in runs/.")
@click.option("--resume", is_flag=True, help="Start, or continue what --output holds: safe to requeue.")
def train(
    recipes: Sequence[Path],
    overrides: Sequence[str],
    device: str | None,
    seed: int | None,
    seeds: str | None,
    blocked: Sequence[str],
    output: Path | None,
    resume: bool,
) -> None:
    """Train the model of each recipe in turn; `ganrun RECIPE.toml` is short for this."""
    if output and len(recipes) > 1:
        raise RequestError("--output names one run's directory, so it takes one recipe")
    if resume and not output:
        raise RequestError("--resume needs --output DIR; to continue a run say: ganrun resume RUN")
    if seeds is not None and seed is not None:
        raise RequestError("say --seed N for one run, or --seeds 0,1,2 for replicates, but not both")
    if seeds is None:
        for recipe in _load(recipes, blocked, _all_overrides(overrides, device, seed)):
            _train(recipe, output, resume)
    else:
        for recipe in recipes:
            _train_replicates(recipe, seeds, _all_overrides(overrides, device, None), blocked, output, resume)


def _train_replicates(
    path: Path, seeds: str, overrides: Sequence[str], blocked: Sequence[str], output: Path | None, resume: bool
) -> None:
    """One run for each seed, side by side in one directory; then what their scores say together."""
    from ganrun.rundir.directory import RunDirectory, new_run_path
    from ganrun.trained.replicates import parse_seeds, summary_of
    from ganrun.training.continuing import check_place

    loaded = {seed: _load([path], blocked, [*overrides, f"train.seed={seed}"])[0] for seed in parse_seeds(seeds)}
    folder = (output or new_run_path(next(iter(loaded.values())).name)).absolute()
    for seed, recipe in loaded.items():
        check_place(RunDirectory(folder / f"seed_{seed}"), recipe, resume=resume)
    again = (
        f"ganrun {path} --seeds {seeds} --output {_shown(folder)} --resume{', with the same --set' * bool(overrides)}"
    )
    scores, failed = [], []
    for seed, recipe in loaded.items():
        try:
            run = _train(recipe, folder / f"seed_{seed}", resume, group=folder.name, again=again)
            scores.append(list(run.scores.values()))
        except (RequestError, RunError) as error:
            click.echo(f"error: {error}", err=True)
            failed.append(str(seed))
    click.echo(f"{len(scores)} replicates, seeds {seeds}, in {_shown(folder)}")
    for line in summary_of(scores):
        click.echo(f"  {line}")
    if failed:
        raise RunError(f"{len(failed)} of {len(loaded)} replicates failed: seeds {', '.join(failed)}")


@main.command(no_args_is_help=True)
@click.argument("run", type=click.Path(path_type=Path))
@_recipe_options
def resume(run: Path, overrides: Sequence[str], device: str | None, seed: int | None, blocked: Sequence[str]) -> None:
    """Continue the run in a run directory from its last checkpoint."""
    from ganrun.rundir.directory import open_run
    from ganrun.rundir.records import RECIPE

    recipe = open_run(run) / RECIPE
    _train(_load([recipe], blocked, _all_overrides(overrides, device, seed))[0], run, True)


def _all_overrides(overrides: Sequence[str], device: str | None, seed: int | None) -> list[str]:
    by_flag = {"train.device": device, "train.seed": seed}
    return [*overrides, *(f"{key}={value}" for key, value in by_flag.items() if value is not None)]


def _load(paths: Sequence[Path], blocked: Sequence[str], overrides: Sequence[str]) -> list[Any]:
    from ganrun.base.console import spinner

    with spinner("loading PyTorch"):
        from ganrun.recipe.reader import load_recipe
        from ganrun.recipe.shipped import find_recipe

        registry = _registry(blocked)
        recipes = [load_recipe(find_recipe(path), registry, overrides) for path in paths]
    for name, reason in registry.broken().items():
        click.echo(f'warning: the plugin "{name}" is broken and left out: {reason}', err=True)
    return recipes


def _train(recipe: Any, output: Path | None, resume: bool, group: str | None = None, again: str | None = None) -> Any:
    from ganrun.base.console import spinner
    from ganrun.training.builder import build_run
    from ganrun.training.runner import execute

    with spinner("preparing") as told:
        run = build_run(recipe, output, resume=resume, on_progress=lambda what: told(f"preparing {what}"))
    run.group = group
    try:
        execute(run)
    except (Interrupted, KeyboardInterrupt):
        command = again or f"ganrun resume {_shown(run.directory.path)}"
        click.echo(f"interrupted at step {run.step}; to continue: {command}", err=True)
        raise
    finally:
        for message in run.messages:
            _say(message)
    return run


@main.command("eval", no_args_is_help=True)
@click.argument("what", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT|FOLDER")
@click.option("--against", metavar="DATA|RECIPE.toml", help="Real images to compare with. Default: the run's own.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="What to measure. Default: the recipe's.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override: --set metric.0.samples=5000.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@_NO_PLUGIN
def evaluate(
    what: Path,
    against: str | None,
    metrics: Sequence[str],
    overrides: Sequence[str],
    device: str,
    blocked: Sequence[str],
) -> None:
    """Score a run, one of its checkpoints, or a folder of pictures. A run's scores join what it recorded.

    \b
    ganrun eval runs/wgan-… --metric kid --metric precision-recall
    ganrun eval pictures/ --against fashion-mnist --set data.size=32 --metric fid
    """
    from ganrun.base.console import spinner

    with spinner("loading PyTorch") as told:
        from ganrun.trained.scoring import Request, score

        request = Request(what, against, metrics, overrides, device)
        scores = score(request, _registry(blocked), lambda it: told(f"preparing {it}"))
    for each in scores:
        click.echo(each)


# ── Looking ───────────────────────────────────────────────────────────────────────────────────────────────


@main.command("list")
@click.argument("kind", required=False, type=click.Choice([*KINDS, "recipes"]))
@_NO_PLUGIN
def list_components(kind: str | None, blocked: Sequence[str]) -> None:
    """List the components that recipes can use, of one KIND or all; or the recipes that travel with ganrun."""
    from ganrun.base.console import spinner
    from ganrun.commands.descriptions import component_table, recipe_table

    with spinner("loading PyTorch"):
        table = recipe_table() if kind == "recipes" else component_table(_registry(blocked), [kind] if kind else KINDS)
    click.echo(table)


@main.command()
@click.argument("kind", type=click.Choice([*KINDS, "train", "ema"]))
@click.argument("name", required=False)
def show(kind: str, name: str | None) -> None:
    """Show one component: what it is, where it comes from, and every setting.

    \b
    ganrun show loss gan
    ganrun show train
    ganrun show optimizer adam
    """
    from ganrun.base.console import spinner
    from ganrun.commands.descriptions import describe

    with spinner("loading PyTorch"):
        text = describe(_registry(()), kind, name)
    click.echo(text)


@main.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RECIPE.toml...")
@_recipe_options
def check(
    recipes: Sequence[Path], overrides: Sequence[str], device: str | None, seed: int | None, blocked: Sequence[str]
) -> None:
    """Check recipes without training: settings, components, and that the networks fit."""
    from ganrun.base.console import spinner

    with spinner("loading PyTorch"):
        from ganrun.training.assembly import check_recipe

    faults: list[str] = []
    for path in recipes:
        try:
            check_recipe(_load([path], blocked, _all_overrides(overrides, device, seed))[0])
            click.echo(f"{path}: ok")
        except GanrunError as error:
            faults.append(str(error))
    if faults:
        raise RecipeError(faults)


@main.command()
@_NO_PLUGIN
def plugins(blocked: Sequence[str]) -> None:
    """List the installed plugins with version and status."""
    from ganrun.commands.descriptions import plugin_table
    from ganrun.discovery.plugins import discover

    click.echo(plugin_table(discover(blocked)))


@main.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("ganrun.schema.json"), show_default=True)
def schema(output: Path) -> None:
    """Write a JSON Schema of recipes with the installed components' settings, for completion in an editor."""
    from ganrun.base.console import spinner

    with spinner("loading PyTorch"):
        from ganrun.recipe.schema import write_schema

        write_schema(_registry(()), output)
    click.echo(f"wrote {output}; put this line at the head of a recipe:  #:schema ./{output.name}")


@main.command()
def doctor() -> None:
    """Check this machine: packages, devices, plugins, data, weights, tracking store."""
    from ganrun.base.console import spinner
    from ganrun.commands.doctor import examine

    with spinner("looking around"):
        lines = list(examine(_registry(())))
    for line in lines:
        click.echo(line)


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────


@main.group(context_settings=main.context_settings)
def data() -> None:
    """List, check and fetch data sets."""


def _data_options(function: Callable[..., None]) -> Callable[..., None]:
    """What says which data set is meant."""
    for decorate in (
        _NO_PLUGIN,
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting: --set size=64."),
        click.argument("name", metavar="NAME|RECIPE.toml"),
    ):
        function = decorate(function)
    return function


@data.command("list")
@_NO_PLUGIN
def list_data(blocked: Sequence[str]) -> None:
    """List the data sets, and where their files are."""
    from ganrun.base.console import spinner

    with spinner("loading PyTorch"):
        from ganrun.commands.datasets import data_table

        table = data_table(_registry(blocked))
    click.echo(table)


@data.command("check", no_args_is_help=True)
@_data_options
def check_data(name: str, overrides: Sequence[str], blocked: Sequence[str]) -> None:
    """Read a data set whole, as a run would: decode it, check it, and say what it holds."""
    from ganrun.base.console import spinner

    with spinner(f"reading data {name}"):
        from ganrun.commands.datasets import manifest_text, opened

        with opened(name, _registry(blocked), overrides) as found:
            found.prepare()
            text = manifest_text(found)
    click.echo(text)


@data.command("fetch", no_args_is_help=True)
@_data_options
def fetch_data(name: str, overrides: Sequence[str], blocked: Sequence[str]) -> None:
    """Download a data set, unless it is there; where no program may, say how to do it by hand."""
    from ganrun.commands.datasets import opened

    with opened(name, _registry(blocked), overrides) as found:
        found.fetch()
        click.echo(found.locate() or f"{name} needs no files")


@data.command("path", no_args_is_help=True)
@_data_options
def data_path(name: str, overrides: Sequence[str], blocked: Sequence[str]) -> None:
    """Print where a data set's files are."""
    from ganrun.commands.datasets import opened

    with opened(name, _registry(blocked), overrides) as found:
        path = found.locate()
    if path is None:
        raise RequestError(f"data {name} has no path: it needs no files")
    click.echo(path.absolute())


# ── Helpers ───────────────────────────────────────────────────────────────────────────────────────────────


def _registry(blocked: Sequence[str]) -> Any:
    from ganrun.discovery.plugins import unknown_blocked
    from ganrun.discovery.registry import load_registry

    registry = load_registry(tuple(blocked))
    unknown = unknown_blocked(blocked, registry.plugins)
    if unknown:
        known = ", ".join(plugin.name for plugin in registry.plugins.found)
        raise RequestError(f"--no-plugin {unknown[0]}: there is no such plugin; there are {known}")
    return registry


@contextmanager
def _told_errors() -> Iterator[None]:
    """A block whose errors of ganrun's own family are printed, without a traceback, and end the program."""
    try:
        yield
    except Interrupted as wish:
        sys.exit(wish.exit_status)
    except GanrunError as error:
        has_place = error.where or isinstance(error, RecipeError)
        click.echo(str(error) if has_place else f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more, as after `| head`
        _silence_stdout()


def _set_up_logging() -> None:
    import logging

    class Messages(logging.Handler):
        """Prints above whatever moves on the terminal."""

        def emit(self, record: logging.LogRecord) -> None:
            from ganrun.base.console import message_console

            message_console().print(self.format(record), soft_wrap=True)

    handler = Messages()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("ganrun")
    logger.handlers = [handler]
    logger.propagate = False


def _say(text: str) -> None:
    """Print a line. Where nobody reads any more, as after `| head`, no training is lost for it."""
    try:
        click.echo(text)
    except BrokenPipeError:
        _silence_stdout()


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _shown(path: Path) -> Path:
    """A path as short as it can be said from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    main()
