"""Test the shipped recipes: every file is valid, and each asks for what its name says.

What belongs here: the files. What does not: running one (`test_r1_definitions`).
"""

import pytest

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.datasets import chosen, data_sets
from tsfm_pipeline.studies.time_r1.drafts import MOST_BACKTESTS, n_backtests
from tsfm_pipeline.studies.time_r1.forecaster import LOOK_BACK
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape
from tsfm_pipeline.studies.time_r1.recipes import profile, recipe_files

SETTINGS = Settings()
FILES = recipe_files(SETTINGS)
NAMES = ("demo", "etth1", "etth1-192", "etth1-96", "hub", "smd", "smoke")
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
        assert recipe.look_back == LOOK_BACK


@pytest.mark.parametrize("horizon", [96, 192])
def test_the_papers_horizons_have_a_recipe_each(horizon: int) -> None:
    recipe = FILES.spec(f"etth1-{horizon}")
    assert (recipe.look_back, recipe.horizon) == (96, horizon)
    assert recipe.train == ("ETTh1",)
    assert recipe.evaluate == ("ETTh1", "ETTh2")


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
