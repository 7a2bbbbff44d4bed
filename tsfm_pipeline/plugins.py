"""Plugins: what other packages and studies add to the pipeline through entry points.

What belongs here: the groups, and finding and loading the plugins installed in them. What does not:
the requirements on a group's objects (the package that reads the group documents them), and other
modules of this package: a plugin may import them, this module imports none of them.

A package adds to a group in its pyproject.toml:

[project.entry-points."tsfm_pipeline.forecasters"]
    day_changes = "my_package.day_changes:make"
"""

import logging
import os
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
"""A `ReportSection` of a fleet's report page (`reports.page.html`)."""
SERVING_MODELS = "tsfm_pipeline.serving_models"
"""A factory of a model that the online service can answer with (`serving.models`)."""
YARDSTICKS = "tsfm_pipeline.yardsticks"
"""A function that computes a further measure of a checkpoint (`pretraining.yardsticks`)."""
GROUPS = (COMMANDS, FORECASTERS, REPORT_SECTIONS, SERVING_MODELS, YARDSTICKS)

OWN_DISTRIBUTION = "tsfm-pipeline"
OWN_FORECASTERS_VARIABLE = "TSFM_STUDY_FORECASTERS"
"""Names the forecasters of this distribution's own studies that take part, with commas between
them. They cost too much to run wherever the distribution is installed, so without this variable
none is found, and no fingerprint depends on them. A report section of a study takes part with the
forecaster of its name.
"""
OWN_MODELS_VARIABLE = "TSFM_STUDY_MODELS"
"""Names the models of this distribution's own studies that the online service has, likewise."""
_OPT_IN = {
    FORECASTERS: OWN_FORECASTERS_VARIABLE,
    REPORT_SECTIONS: OWN_FORECASTERS_VARIABLE,
    SERVING_MODELS: OWN_MODELS_VARIABLE,
}
"""Groups in which an own entry is found only where the variable names it."""

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
    """Return the plugins installed in a group, by name, sorted by name.

    built_in: names that the group already has. kind: the type that every object must be an instance
    of. A plugin whose extra is not installed is left out, and this is logged once. Raises
    `PluginError` for a plugin that fails to load for another reason or is of another type, and for
    a name that is built in, is used twice or is not valid.
    """
    refuse_clashes(group, built_in)
    plugins = installed(group)
    for plugin in plugins:
        if not isinstance(plugin.value, kind):
            needed = "callable" if kind is Callable else f"a {kind.__name__}"
            given = type(plugin.value).__name__
            raise PluginError(
                f"{group}: {plugin} is of type {given}; it must be {needed}. Fix or uninstall "
                f"{plugin.distribution}"
            )
    return {plugin.name: plugin.value for plugin in plugins}


def refuse_clashes(group: str, built_in: Collection[str]) -> None:
    """Raise `PluginError` if a plugin has the name of something built in. No plugin is loaded."""
    for entry in _entries(group):
        if entry.name in built_in:
            raise PluginError(
                f"{group}: {_origin(entry)} has the name of something built in; rename it there, "
                f"or uninstall {_distribution(entry)}"
            )


@cache
def installed(group: str) -> tuple[Plugin, ...]:
    """Return the plugins installed in a group, sorted by name; each is loaded once.

    Leaves out and raises as `found` does, except that built-in names and types are not checked.
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
            version = _version(entry) + _digest(value)
            plugins.append(Plugin(entry.name, _distribution(entry), version, value))
    return tuple(plugins)


def forget() -> None:
    """Clear the caches, so that plugins installed since then are found."""
    installed.cache_clear()
    _entries.cache_clear()


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, sorted by name.

    Raises `PluginError` for a name that is not valid, for a name that is used twice, and for a name
    that a variable asks for and that no own entry has.
    """
    _refuse_unknown(group)
    asked = filter(_takes_part, entry_points(group=group))
    entries = sorted(asked, key=lambda entry: (entry.name, entry.value))
    for entry in entries:
        if not _NAME.fullmatch(entry.name):
            raise PluginError(
                f"{group}: {_origin(entry)} is not a valid name; allowed are letters, "
                "digits, -, _ and ."
            )
    for one, other in pairwise(entries):
        if one.name == other.name:
            raise PluginError(
                f"{group}: {_origin(one)} has the name of {_origin(other)}; uninstall one of them"
            )
    return tuple(entries)


def _takes_part(entry: EntryPoint) -> bool:
    """Return whether an entry is of another package, of a group that needs no variable, or asked
    for by its name.
    """
    variable = _OPT_IN.get(entry.group)
    if variable is None or _distribution(entry) != OWN_DISTRIBUTION:
        return True
    return entry.name in _asked_for(variable)


def _asked_for(variable: str) -> list[str]:
    names = os.environ.get(variable, "").split(",")
    return [name.strip() for name in names if name.strip()]


def _refuse_unknown(group: str) -> None:
    """Raise `PluginError` for a name in the group's variable that none of its own entries has. A
    report section is optional, so that its group refuses none.
    """
    variable = _OPT_IN.get(group)
    if variable is None or group == REPORT_SECTIONS:
        return
    entries = entry_points(group=group)
    known = sorted(e.name for e in entries if _distribution(e) == OWN_DISTRIBUTION)
    for name in _asked_for(variable):
        if name not in known:
            allowed = ", ".join(known) or "none in this installation"
            raise PluginError(f"{variable} names {name!r}; allowed: {allowed}")


def _digest(value: Any) -> str:
    """Return what a plugin's version leaves open, for example weights that it reads: the text of
    its method `digest`, if it has one.
    """
    digest = getattr(value, "digest", None)
    return f"+{digest()}" if callable(digest) else ""


def _broken(group: str, entry: EntryPoint, error: Exception) -> PluginError:
    return PluginError(
        f"{group}: {_origin(entry)} failed to load: {type(error).__name__}: {error}. Fix or "
        f"uninstall {_distribution(entry)}"
    )


def _missing_distribution(entry: EntryPoint, error: ModuleNotFoundError) -> str:
    """Return the top-level module that is not installed; empty if the plugin itself is at fault."""
    top = (error.name or "").partition(".")[0]
    is_own = top == entry.module.partition(".")[0]
    return "" if not top or is_own or find_spec(top) is not None else top


def _remedy(entry: EntryPoint, module: str) -> str:
    """Return what to install, as precisely as the distribution's metadata allow."""
    wanted = _normalised(module)
    requires = (entry.dist.requires if entry.dist else None) or []
    matches = [match for text in requires if (match := _REQUIREMENT.match(text))]
    extras = list(entry.extras) or [m[2] for m in matches if _normalised(m[1]) == wanted]
    if extras:
        return f"to use it: pip install '{_distribution(entry)}[{','.join(sorted(set(extras)))}]'"
    known = sorted({match[2] for match in matches})
    beside = f", or an extra of {_distribution(entry)}: {', '.join(known)}" if known else ""
    return f"to use it: install what provides {module}{beside}"


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown distribution"


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist else "unknown"


def _origin(entry: EntryPoint) -> str:
    return f"{entry.name} of {_distribution(entry)} {_version(entry)}"
