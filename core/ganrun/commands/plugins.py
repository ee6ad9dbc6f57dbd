"""`ganrun plugins`."""

from __future__ import annotations

import click

from ganrun.base.texts import printable
from ganrun.commands.options import no_plugin
from ganrun.commands.output import table
from ganrun.discovery.plugins import Plugins, discover


@click.command("plugins")
@no_plugin
def command(blocked: tuple[str, ...]) -> None:
    """List the installed plugins with package, version and status."""
    found = discover(blocked)
    click.echo(_plugin_table(found))
    for fault in found.faults:
        click.echo(f"warning: {printable(fault)}", err=True)


def _plugin_table(plugins: Plugins) -> str:
    """Every plugin with package, version and status; a broken one with the reason."""
    rows = [("plugin", "package", "version", "status")]
    for plugin in plugins.found:
        status = f"{plugin.status}: {plugin.error}" if plugin.error else plugin.status
        rows.append((plugin.name, plugin.package, plugin.version, status))
    return table(rows)
