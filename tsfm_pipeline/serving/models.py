"""The register of models that the online service may use.

What belongs here: names and factories, including those of other packages. What does not: the
models, and which of them a request gets (`lanes`).

A factory is called once, when the service is set up, as `make(settings, bundle)`: the service's
`ServingSettings`, and the `SearchBundle` of its fleet or None. It returns an object that satisfies
`runtimes.Runtime`. Making it loads nothing; `start` does. A model of another package answers for
provider `local` (its attribute `name`), and its attribute `model` is the name by which requests ask
for it; no two models share both.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tsfm_pipeline import plugins

if TYPE_CHECKING:
    from tsfm_pipeline.autoresearch.bundle import SearchBundle
    from tsfm_pipeline.serving.runtimes import Runtime
    from tsfm_pipeline.serving.settings import ServingSettings

Make = Callable[["ServingSettings", "SearchBundle | None"], "Runtime"]


def _local(settings: "ServingSettings", bundle: "SearchBundle | None") -> "Runtime":
    from tsfm_pipeline.serving.local import LocalRuntime

    return LocalRuntime(settings.local, bundle)


def _tollama(settings: "ServingSettings", bundle: "SearchBundle | None") -> "Runtime":
    from tsfm_pipeline.serving.tollama import TollamaRuntime

    return TollamaRuntime(settings.tollama)


BUILT_IN: Mapping[str, Make] = {"local": _local, "tollama": _tollama}
"""Factories by name: of each provider, the model that its settings choose."""


def serving_models() -> dict[str, Make]:
    """Return the factory of every model, by name; those of other packages come last.

    Raises `plugins.PluginError` for a model that cannot be used.
    """
    return {**BUILT_IN, **plugins.found(plugins.SERVING_MODELS, BUILT_IN)}


def runtimes(settings: "ServingSettings", bundle: "SearchBundle | None") -> "list[Runtime]":
    """Return a runtime of every model, first the one that answers by default; none is started.

    Raises the errors of `serving_models`.
    """
    made = [make(settings, bundle) for make in serving_models().values()]
    return sorted(made, key=lambda runtime: runtime.name != settings.provider)
