"""What other packages and studies add to the pipeline, found through entry points.

What belongs here: the groups, and finding and loading what is installed in one of them. What does
not: what an object of a group must do (the room that reads the group says that), and anything of
this package: a plugin may import it, this module imports none of it.

A package adds to a group in its pyproject.toml:

    [project.entry-points."tsfm_pipeline.forecasters"]
    day_changes = "my_package.day_changes:make"
"""

import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

COMMANDS = "tsfm_pipeline.commands"
"""A typer application or a function, added to the command line (`cli.app`)."""
FORECASTERS = "tsfm_pipeline.forecasters"
"""`make(fit_end)` of a rival behind the `Forecaster` protocol (`baselines.direct`)."""
REPORT_SECTIONS = "tsfm_pipeline.report_sections"
"""A `ReportSection` of the fleet's page (`reports.page.html`)."""
SERVING_MODELS = "tsfm_pipeline.serving_models"
"""A factory of a model that the online service can answer with (`serving.models`)."""
YARDSTICKS = "tsfm_pipeline.yardsticks"
"""A function that measures a checkpoint in a further way (`pretraining.yardsticks`)."""
GROUPS = (COMMANDS, FORECASTERS, REPORT_SECTIONS, SERVING_MODELS, YARDSTICKS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*\bextra\s*==\s*[\"']([^\"']+)[\"']")

warn = logging.getLogger(__name__).warning


class PluginError(RuntimeError):
    """A plugin that cannot be used; the message names it, its distribution, and what to do."""


@dataclass(frozen=True)
class Plugin:
    """One object that a distribution adds to a group."""

    name: str
    distribution: str
    version: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name} of {self.distribution} {self.version}"


def found(
    group: str, built_in: Collection[str] = (), kind: type | Any = Callable
) -> dict[str, Any]:
    """Return what is installed in a group, by name, in the order of the names.

    built_in: names that the group has already. kind: what an object must be an instance of. One
    whose extra is not installed is left out, which is logged once. Raises `PluginError` for one
    that fails to load otherwise or is of another kind, for a name that is built in or given twice,
    and for one that is no name.
    """
    refuse_clashes(group, built_in)
    plugins = installed(group)
    for plugin in plugins:
        if not isinstance(plugin.value, kind):
            needed = "callable" if kind is Callable else f"a {kind.__name__}"
            given = type(plugin.value).__name__
            raise PluginError(
                f"{group}: {plugin} is of type {given}; it must be {needed}. Mend or uninstall "
                f"{plugin.distribution}"
            )
    return {plugin.name: plugin.value for plugin in plugins}


def refuse_clashes(group: str, built_in: Collection[str]) -> None:
    """Raise `PluginError` if a plugin has the name of something built in; nothing is loaded."""
    for entry in _entries(group):
        if entry.name in built_in:
            raise PluginError(
                f"{group}: {_origin(entry)} has the name of something built in; rename it there, "
                f"or uninstall {_distribution(entry)}"
            )


@cache
def installed(group: str) -> tuple[Plugin, ...]:
    """Return what is installed in a group, in the order of the names, each loaded once.

    What is left out, and what is raised, is as in `found`, except for clashes and kinds.
    """
    plugins = []
    for entry in _entries(group):
        try:
            value = entry.load()
        except ModuleNotFoundError as error:
            missing = _missing_distribution(entry, error)
            if not missing:
                raise _broken(group, entry, error) from error
            origin, remedy = _origin(entry), _remedy(entry, missing)
            warn("%s: %s is left out: there is no module %r; %s", group, origin, missing, remedy)
        except Exception as error:
            raise _broken(group, entry, error) from error
        else:
            plugins.append(Plugin(entry.name, _distribution(entry), _version(entry), value))
    return tuple(plugins)


def forget() -> None:
    """Look again the next time: something was installed while this process runs."""
    installed.cache_clear()
    _entries.cache_clear()


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group in the order of their names.

    Raises `PluginError` for something that is no name, and for a name that is given twice.
    """
    entries = sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value))
    for entry in entries:
        if not _NAME.fullmatch(entry.name):
            raise PluginError(
                f"{group}: {_origin(entry)} is no name; allowed are letters, digits, -, _ and ."
            )
    for one, other in pairwise(entries):
        if one.name == other.name:
            raise PluginError(
                f"{group}: {_origin(one)} has the name of {_origin(other)}; uninstall one of them"
            )
    return tuple(entries)


def _broken(group: str, entry: EntryPoint, error: Exception) -> PluginError:
    return PluginError(
        f"{group}: {_origin(entry)} failed to load: {type(error).__name__}: {error}. Mend or "
        f"uninstall {_distribution(entry)}"
    )


def _missing_distribution(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    """The top-level module that is not installed; empty where it is a plugin's own fault."""
    top = (error.name or "").partition(".")[0]
    is_own = top == entry.module.partition(".")[0]
    return "" if not top or is_own or find_spec(top) is not None else top


def _remedy(entry: EntryPoint, module: str) -> str:
    """What to install, as exactly as the distribution's metadata say it."""
    wanted = _normalised(module)
    requires = (entry.dist.requires if entry.dist else None) or []
    matches = [match for text in requires if (match := _REQUIREMENT.match(text))]
    extras = list(entry.extras) or [m[2] for m in matches if _normalised(m[1]) == wanted]
    if extras:
        return f"to have it: pip install '{_distribution(entry)}[{','.join(sorted(set(extras)))}]'"
    known = sorted({match[2] for match in matches})
    beside = f", or an extra of {_distribution(entry)}: {', '.join(known)}" if known else ""
    return f"to have it: install what provides {module}{beside}"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else "unknown"


def _origin(entry: EntryPoint) -> str:
    return f"{entry.name} of {_distribution(entry)} {_version(entry)}"
