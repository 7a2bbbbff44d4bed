"""Test the register of models that the service can answer with."""

import pytest

from tsfm_pipeline.plugins import SERVING_MODELS, PluginError
from tsfm_pipeline.serving.models import BUILT_IN, serving_models
from tsfm_pipeline_tests.packages import Site


def test_a_model_of_another_package_is_listed_beside_the_own_ones(site: Site) -> None:
    site.install(
        "tiny-model",
        "def make(bundle):\n    return f'answers with {bundle}'\n",
        {SERVING_MODELS: {"tiny": "make"}},
    )
    assert list(serving_models()) == [*BUILT_IN, "tiny"]
    assert serving_models()["tiny"]("a bundle") == "answers with a bundle"


def test_a_model_that_cannot_be_made_is_refused(site: Site) -> None:
    site.install("odd-model", "model = 'weights'\n", {SERVING_MODELS: {"odd": "model"}})
    with pytest.raises(PluginError, match="odd of odd-model"):
        serving_models()
