"""The register of models that the online service may use.

What belongs here: names and factories, including those of other packages. What does not: the
models.
"""

from collections.abc import Callable, Mapping
from typing import Any

from tsfm_pipeline import plugins

Make = Callable[..., Any]

BUILT_IN: Mapping[str, Make] = {}
"""Factories by name. Empty until the service is part of this package."""


def serving_models() -> dict[str, Make]:
    """Return the factory of every model, by name; those of other packages come last.

    Raises `plugins.PluginError` for a model that cannot be used.
    """
    return {**BUILT_IN, **plugins.found(plugins.SERVING_MODELS, BUILT_IN)}
