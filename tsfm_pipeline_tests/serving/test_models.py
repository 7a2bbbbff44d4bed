"""Test the register of models that the service can answer with."""

import pytest

from tsfm_pipeline.plugins import SERVING_MODELS, PluginError
from tsfm_pipeline.serving.models import BUILT_IN, runtimes, serving_models
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline_tests.packages import Site
from tsfm_pipeline_tests.serving.live import live, until

TINY = """
class Tiny:
    name, model, licence, version = "local", "tiny", "MIT", "1"

    def __init__(self, settings, bundle):
        self.settings, self.bundle = settings, bundle
"""


def test_a_model_of_another_package_is_made_beside_the_own_ones(site: Site) -> None:
    site.install("tiny-model", TINY, {SERVING_MODELS: {"tiny": "Tiny"}})
    assert list(serving_models()) == [*BUILT_IN, "tiny"]
    settings = ServingSettings(provider="tollama")
    made = {(runtime.name, runtime.model): runtime for runtime in runtimes(settings, None)}
    default, *others = made
    assert default == ("tollama", settings.tollama.model)
    assert others == [("local", "bundled"), ("local", "tiny")]
    tiny = made["local", "tiny"]
    assert (tiny.settings, tiny.bundle) == (settings, None)  # type: ignore[attr-defined]


ANSWERING = """
from tsfm_pipeline_tests.serving.live import Model

def make(settings, bundle):
    return Model(model="tiny")
"""


def test_a_model_of_another_package_answers_who_asks_for_it(site: Site) -> None:
    site.install("answering-model", ANSWERING, {SERVING_MODELS: {"tiny": "make"}})
    with live(provider="tollama") as running:
        wanted = {"provider": "local", "model_name": "tiny"}
        # A model that is not the default one is started when it is first asked for.
        until(lambda: running.forecast(model=wanted).json()["meta"]["runtime"] == "local")
        meta = running.forecast(model=wanted).json()["meta"]
        assert (meta["model"], meta["version"]) == ("tiny", "v1")
        listed = running.client.get("/models").json()["models"]
        assert ("local", "tiny") in [(one["provider"], one["model"]) for one in listed]


def test_a_model_that_cannot_be_made_is_refused(site: Site) -> None:
    site.install("odd-model", "model = 'weights'\n", {SERVING_MODELS: {"odd": "model"}})
    with pytest.raises(PluginError, match="odd of odd-model"):
        serving_models()
