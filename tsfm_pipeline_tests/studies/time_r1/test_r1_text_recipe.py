"""Test a whole recipe with a language model of the hub's format, which writes plain text.

What belongs here: the chain from data to evaluation with `codec: text`, on the settings of the
profile `hub` as far as a model of random weights can have them. What does not: the own policy's
(`test_r1_definitions`), and a real language model (`test_r1_smollm2`).
"""

from pathlib import Path

import pytest
import yaml

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.time_r1.methods import METHODS, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.recipes import profile
from tsfm_pipeline.studies.time_r1.scope import SCOPE
from tsfm_pipeline.studies.time_r1.tables import (
    ANSWERS,
    COSTS,
    EVALUATED,
    MAKERS,
    POLICY,
    RUNS,
    SAMPLES,
    TABLES,
)
from tsfm_pipeline_tests.studies.time_r1.small_recipe import write_recipe
from tsfm_pipeline_tests.studies.time_r1.tiny_qwen import write_tiny_qwen

pytestmark = pytest.mark.slow
SMALLER = {
    "revision": None,
    "lora": {"rank": 2, "targets": ["q_proj", "v_proj"]},
    "warm_up": {"batch": 2},
    "grip": {"group": 2, "oversampling": 2, "questions": 2, "steps": 1, "validate_every": 1},
    "thinking": {"max_new_tokens": 12, "max_iterations": 1, "gate_origins": 1},
}
RECIPE = {
    "profile": "text",
    "evaluate": ["small_corpus"],
    "look_back": 8,
    "horizon": 2,
    "train_windows": 4,
    "validation_windows": 2,
    "test_windows": 2,
}


def test_a_recipe_in_plain_text_runs_from_data_to_its_evaluation(tmp_path: Path) -> None:
    data, model = tmp_path / "data", tmp_path / "qwen"
    write_tiny_qwen(model)
    settings = write_recipe(data, **RECIPE)
    hub = profile(Settings(), "hub").model_dump(mode="json")
    profiles = {"text": {**hub, **SMALLER, "model": str(model)}}
    (data / "time_r1" / "profiles.yaml").write_text(yaml.safe_dump(profiles))
    experiment = SCOPE.open(settings, "small")
    with experiment.tables.lock(experiment.run_id):
        for name in (table for table in TABLES if table != COSTS):
            make(SCOPE, experiment, TABLES[name], MAKERS[name], settings)
    tables = experiment.tables
    sample = tables.read(SAMPLES).row(0, named=True)
    assert "# Test data" in sample["prompt"]
    assert sample["completion"].count("\n") > 2
    assert {row["variant"] for row in tables.read(RUNS).iter_rows(named=True)} == {
        "grip",
        "grpo",
        "sft_more",
    }
    assert tables.read(POLICY)["name"].to_list() == ["parsing", "divergence"]
    assert '"n_constrained_read": 8' in tables.read(POLICY)["figures"][0]
    assert set(tables.read(EVALUATED)["method"]) == set(METHODS)
    thought = tables.read(ANSWERS).filter(method=SLOW_THINKING)
    assert all(thought["reason"])
