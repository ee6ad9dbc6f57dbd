"""A spinner for blocks that may take a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def spinner(stage: str) -> Iterator[Callable[[str], None]]:
    """A block that may take a while: on a terminal, a spinner shows the current stage and the time it has taken.

        with spinner("loading PyTorch") as show_stage:
            ...
            show_stage("preparing data")

    Elsewhere each further stage is printed as a line.

    Args:
        stage: The first one.
    """
    # Imported here because the modules of all commands import this one, and `ganrun --help` should not load rich.
    from rich import progress as bars

    from ganrun.base.console import message_console
    from ganrun.base.streams import has_unicode
    from ganrun.base.texts import one_line

    console = message_console()
    if not console.is_terminal:
        yield lambda next_stage: console.print(next_stage, soft_wrap=True)
        return
    turning = bars.SpinnerColumn("dots" if has_unicode(console.file) else "line")
    columns = turning, bars.TextColumn("{task.description}", markup=False), bars.TimeElapsedColumn()
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(one_line(stage))
        yield lambda next_stage: bar.reset(task, description=one_line(next_stage))
