"""Commands that other packages add to `tsfm-pipeline`.

What belongs here: adding them beside the program's own commands. What does not: the commands
themselves, and finding them (`plugins`).
"""

from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tsfm_pipeline import plugins
from tsfm_pipeline.cli.screen import plain_errors


class Commands(TyperGroup):
    """The program's own commands and, after them, those of other packages.

    A plugin is loaded when it is listed, or when no own command has the name that was typed. A
    plugin with the name of an own command, and one that fails to load, end the command with a
    message.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names, those of other packages last."""
        return [*super().list_commands(ctx), *self._found()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a name, if there is one."""
        with plain_errors():
            plugins.refuse_clashes(plugins.COMMANDS, self.commands)
        own = super().get_command(ctx, cmd_name)
        return own or self._found().get(cmd_name)

    def _found(self) -> dict[str, Any]:
        with plain_errors():
            found = plugins.found(plugins.COMMANDS, self.commands)
        return {name: _command(name, added) for name, added in found.items()}


def _command(name: str, added: Any) -> Any:
    """Return a typer application as a group of commands, and a function as one command."""
    if isinstance(added, typer.Typer):
        group = get_group(added)
        group.name = name
        return group
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(name)(added)
    return get_command(application)
