"""Test the teacher that a profile names, through the tables that it fills.

What belongs here: profiles with each teacher. What does not: what a teacher asks and how a
candidate is chosen (`test_r1_teacher`, `test_r1_policy_teacher`).
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.time_r1.making_training import asked
from tsfm_pipeline.studies.time_r1.recipes import RecipeError, profile
from tsfm_pipeline.studies.time_r1.scope import SCOPE, Experiment
from tsfm_pipeline.studies.time_r1.tables import CANDIDATES, FACTS, MAKERS, SAMPLES, SFT, TABLES
from tsfm_pipeline_tests.studies.chat_server import Reply, chatting, said
from tsfm_pipeline_tests.studies.time_r1.small_recipe import PROFILE, write_recipe

pytestmark = pytest.mark.heavy
FEW = {"train_windows": 4, "validation_windows": 2}
NUMBERS = [1.25, 2.5, 3.75, 5.0, 6.25, 7.5, 8.75, 10.0]
ANSWER = "<think>It rises.</think>\n<answer>\n" + "\n".join(map(str, NUMBERS)) + "\n</answer>"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for field in ("URL", "MODEL", "KEY"):
        monkeypatch.delenv(f"TSFM_TEACHER_{field}", raising=False)


def opened(data: Path, **fields: Any) -> Experiment:
    """The small recipe with few windows, its profile with other fields."""
    settings = write_recipe(data, **FEW)
    write_profile(data, **fields)
    return SCOPE.open(settings, "small")


def write_profile(data: Path, **fields: Any) -> None:
    small = {**PROFILE, "model": str(data / "base"), **fields}
    (data / "time_r1" / "profiles.yaml").write_text(yaml.safe_dump({"small": small}))


def made(experiment: Experiment, *names: str) -> None:
    with experiment.tables.lock(experiment.run_id):
        for name in names:
            make(SCOPE, experiment, TABLES[name], MAKERS[name], experiment.settings)


def test_a_recipe_with_an_endpoint_asks_it_once_and_learns_from_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = opened(tmp_path, teacher="endpoint", answer="candidate")
    # Of each window's three answers, the first cannot be read.
    replies = [said(text) for _ in range(6) for text in ("I cannot tell.", ANSWER, ANSWER)]
    with chatting(*replies) as chat:
        monkeypatch.setenv("TSFM_TEACHER_URL", chat.url)
        monkeypatch.setenv("TSFM_TEACHER_MODEL", "recorded")
        made(experiment, FACTS, CANDIDATES)
    assert len(chat.bodies) == 18
    assert "small_corpus" not in "".join(chat.bodies)
    # What follows reads the table: the endpoint is not there any more.
    made(experiment, SAMPLES)
    candidates = experiment.tables.read(CANDIDATES)
    assert candidates.filter(chosen=True)["candidate"].to_list() == ["answer_2"] * 6
    assert candidates.filter(candidate="answer_3", part="train").height == 4
    samples = experiment.tables.read(SAMPLES)
    assert set(samples["candidate"]) == {"answer_2"}
    assert all("draft answer 2" in thought for thought in samples["thought"])
    shown = samples.filter(variant="sft_draft")["shown"]
    assert not shown.str.starts_with("answer_").any(), "prompts show drafts alone"
    (questions,) = asked(experiment, "train")
    assert len(questions) == 4


def test_an_endpoint_that_is_not_set_or_refuses_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = opened(tmp_path, teacher="endpoint")
    with pytest.raises(RecipeError, match=r"'small' .* TSFM_TEACHER_URL and TSFM_TEACHER_MODEL"):
        made(experiment, FACTS, CANDIDATES)
    monkeypatch.setenv("TSFM_TEACHER_MODEL", "recorded")
    monkeypatch.setenv("TSFM_TEACHER_URL", "no address")
    with pytest.raises(RecipeError, match=r"TSFM_TEACHER_URL: "):
        made(experiment, CANDIDATES)
    with chatting(Reply("no", 401)) as chat:
        monkeypatch.setenv("TSFM_TEACHER_URL", chat.url)
        with pytest.raises(RecipeError, match=r"small_corpus: the teacher gave no answer: .* 401"):
            made(experiment, CANDIDATES)


def test_a_policy_teaches_as_it_is_before_training(tmp_path: Path) -> None:
    experiment = opened(tmp_path, teacher="policy")
    made(experiment, FACTS, CANDIDATES, SAMPLES)
    candidates = experiment.tables.read(CANDIDATES)
    assert set(candidates.filter(chosen=True)["candidate"]) <= {"answer_1", "answer_2", "answer_3"}
    assert experiment.tables.read(SAMPLES).height == 12


def test_only_what_a_profile_says_itself_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    first = opened(tmp_path)

    def prints(**fields: Any) -> dict[str, str]:
        write_profile(tmp_path, **fields)
        return dict(SCOPE.open(first.settings, "small").tables.expected)

    plain = prints()
    assert prints(teacher="grid", dtype="float32", micro_batch=None, device="auto") == plain
    taught = prints(teacher="endpoint")
    assert taught[FACTS] == plain[FACTS]
    assert taught[CANDIDATES] != plain[CANDIDATES]
    assert prints(teacher="policy")[CANDIDATES] not in (taught[CANDIDATES], plain[CANDIDATES])
    for fields in ({"micro_batch": 1}, {"dtype": "bfloat16"}):
        other = prints(**fields)
        assert other[SAMPLES] == plain[SAMPLES]
        assert other[SFT] != plain[SFT]


def test_another_teacher_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    experiment = opened(tmp_path, teacher="oracle")
    with pytest.raises(RecipeError, match=r"'small.teacher': .*'grid', 'endpoint' or 'policy'"):
        profile(experiment.settings, "small")
