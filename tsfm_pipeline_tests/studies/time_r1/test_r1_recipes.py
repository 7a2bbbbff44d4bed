"""Test the shipped recipes: every file is valid, and each asks for what its name says.

What belongs here: the files. What does not: running one (`test_r1_definitions`).
"""

from pathlib import Path

import pytest
import yaml

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.checkpoints import SHIPPED_ASKED_WITH
from tsfm_pipeline.studies.time_r1.datasets import chosen, data_sets
from tsfm_pipeline.studies.time_r1.drafts import MOST_BACKTESTS, n_backtests
from tsfm_pipeline.studies.time_r1.options import Profile
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape
from tsfm_pipeline.studies.time_r1.recipes import RecipeError, profile, recipe_files
from tsfm_pipeline.studies.time_r1.starts import policy_digest

SETTINGS = Settings()
FILES = recipe_files(SETTINGS)
NAMES = ("demo", "etth1", "etth1-192", "etth1-96", "hub", "smd", "smoke", "synthetic")
DAY_OF_MINUTES = 1440


def test_the_shipped_recipes_can_be_read() -> None:
    recipes, wrong = FILES.readable()
    assert not wrong
    assert tuple(sorted(recipes)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_a_profile_and_data_sets_and_fits_the_policy(name: str) -> None:
    recipe = FILES.spec(name)
    sets = chosen(data_sets(SETTINGS), (*recipe.train, *recipe.evaluate))
    assert sets
    asked = profile(SETTINGS, recipe.profile)
    if asked.model == "own":
        # Prompt and answer: look-back, draft and answer are one token per step.
        tokens = recipe.look_back + 2 * recipe.horizon
        assert tokens < OwnShape().positions
        assert recipe.horizon < asked.thinking.max_new_tokens
        assert recipe.look_back == SHIPPED_ASKED_WITH.look_back


def test_the_shipped_adapters_are_asked_as_the_recipe_that_trains_them_does() -> None:
    recipe = FILES.spec("synthetic")
    asked = profile(SETTINGS, recipe.profile)
    assert (recipe.look_back, recipe.contexts) == (
        SHIPPED_ASKED_WITH.look_back,
        SHIPPED_ASKED_WITH.contexts,
    )
    assert (asked.prompt, asked.thinking) == (
        SHIPPED_ASKED_WITH.prompt,
        SHIPPED_ASKED_WITH.thinking,
    )
    sets = data_sets(SETTINGS)
    assert {sets[name].licence for name in recipe.train} == {"made by this project"}


@pytest.mark.parametrize("horizon", [96, 192])
def test_the_papers_horizons_have_a_recipe_each(horizon: int) -> None:
    recipe = FILES.spec(f"etth1-{horizon}")
    assert (recipe.look_back, recipe.horizon) == (96, horizon)
    assert recipe.train == ("ETTh1",)
    assert recipe.evaluate == ("ETTh1", "ETTh2")


def test_every_shipped_profile_learns_answers_that_its_given_reasons_do_not_fix() -> None:
    names = yaml.safe_load(packaged("data/time_r1/profiles.yaml").read_text(encoding="utf-8"))
    assert {"hub", "own", "own-long", "smoke"} <= set(names)
    for name in names:
        # Every policy is asked with a given reason, which names the draft that it is shown. Of the
        # teacher's candidate as answer, that reason always means: the draft itself.
        assert profile(SETTINGS, name).answer == "truth", name
    assert Profile(model="own", codec="number", prompt="own").answer == "truth"


def test_the_profile_of_the_hub_fits_a_gpu_and_the_own_ones_stay_on_the_processor() -> None:
    hub = profile(SETTINGS, "hub")
    assert (hub.device, hub.dtype, hub.micro_batch) == ("auto", "bfloat16", 1)
    own = profile(SETTINGS, "own")
    assert (own.device, own.dtype, own.micro_batch) == ("cpu", "float32", None)


def test_the_recipe_of_the_hub_says_that_it_was_never_run() -> None:
    recipe = FILES.spec("hub")
    assert profile(SETTINGS, recipe.profile).model == "Qwen/Qwen2.5-7B-Instruct"
    assert "never run" in recipe.title
    assert "never run" in recipe.description


@pytest.mark.parametrize("name", ["demo", "smd"])
def test_a_fleet_of_minutes_has_a_backtest_of_one_day(name: str) -> None:
    recipe = FILES.spec(name)
    assert n_backtests(DAY_OF_MINUTES, recipe.horizon) == MOST_BACKTESTS
    assert MOST_BACKTESTS * recipe.horizon == DAY_OF_MINUTES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: [", "not valid YAML"),
        ("- own", "must be a mapping from names of profiles to their fields"),
        ("mine: {model: own, codec: words, prompt: own}", "field 'mine.codec'"),
        ("mine: {model: own, codec: number, prompt: own}", "no profile 'other'; there are: .*mine"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_by_file_and_field(
    tmp_path: Path, text: str, message: str
) -> None:
    own = tmp_path / "time_r1"
    own.mkdir()
    (own / "profiles.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        profile(Settings(data_dir=tmp_path), "other")


def test_where_training_starts_is_named_by_weights_or_by_revision(tmp_path: Path) -> None:
    absent = Profile(model=str(tmp_path), codec="number", prompt="own")
    with pytest.raises(CheckpointError, match="train a base with: tsfm-pipeline time-r1 train-ba"):
        policy_digest(absent)
    hub = profile(SETTINGS, "hub")
    assert policy_digest(hub) == f"{hub.model}@{hub.revision}"
    (tmp_path / "model.safetensors").write_bytes(b"one")
    folder = hub.model_copy(update={"model": str(tmp_path)})
    first = policy_digest(folder)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert policy_digest(folder) != first
