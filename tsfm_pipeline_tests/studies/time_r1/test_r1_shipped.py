"""Test the policy that the project ships: a base and two adapters, from synthetic series alone."""

import json
from pathlib import Path

import pytest

from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.time_r1.answers import parse
from tsfm_pipeline.studies.time_r1.checkpoints import POLICY_VARIABLE, load_promoted
from tsfm_pipeline.studies.time_r1.datasets import data_sets
from tsfm_pipeline.studies.time_r1.grammar import word_grammar
from tsfm_pipeline.studies.time_r1.policy import Sampling
from tsfm_pipeline_tests.studies.time_r1.grip_setting import HORIZON, questions

FOLDER = PROJECT_ROOT / "data/checkpoints/time-r1"
MOST_BYTES = 8 * 2**20


def config(name: str) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((FOLDER / name / "config.json").read_text())
    return loaded


def test_each_adapter_belongs_to_the_shipped_base_and_saw_only_data_of_this_project() -> None:
    own = {spec.name for spec in data_sets(Settings()).values() if "project" in spec.licence}
    for name in ("sft", "grip"):
        facts = config(name)
        assert facts["base_sha256"] == config("base")["sha256"]
        assert set(facts["trained_on"]) <= own  # type: ignore[call-overload]
        assert str(facts["sha256"]) in (FOLDER / name / "MODEL_CARD.md").read_text()
    assert sum(path.stat().st_size for path in (FOLDER / "base").iterdir()) < MOST_BYTES


def test_the_shipped_policy_is_loaded_with_both_adapters_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)
    used = load_promoted(Settings(data_dir=tmp_path))
    assert used.source == FOLDER
    assert used.facts["variant"] == "grip"
    asked = questions(2, seed=0, forced=False)
    sampling = Sampling(seed=0, max_new_tokens=128)
    answers = used.policy.sample(asked.prompts, 1, sampling, word_grammar(HORIZON))
    assert [parse(text, HORIZON).problem for text in answers.texts] == [None, None]
