"""Test the records of the study's tables: their lock, their codebook, and what makes them stale.

What belongs here: the records. What does not: the content of the tables, which is tested where it
is computed.
"""

import pytest

from tsfm_pipeline.catalogue.registry import expected_fingerprints
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.direction.codebook import codebook_markdown
from tsfm_pipeline.studies.direction.lock_tables import COMMAND, LOCK_FILE
from tsfm_pipeline.studies.direction.options import StudyOptions
from tsfm_pipeline.studies.direction.scope import SCOPE, MarketContext
from tsfm_pipeline.studies.direction.tables import CHECKED, EVALUATED, MAKERS, TABLES
from tsfm_pipeline_tests.studies.records import require_codebook, require_locked

PAGE = PROJECT_ROOT / "docs" / "direction-tables.md"


@pytest.mark.heavy
def test_the_lock_is_up_to_date() -> None:
    require_locked(TABLES, MAKERS, LOCK_FILE, COMMAND)


def test_the_codebook_is_the_generated_one_and_explains_every_column() -> None:
    command = "python -m tsfm_pipeline.studies.direction.codebook > docs/direction-tables.md"
    require_codebook(TABLES, codebook_markdown(), PAGE, command)


def fingerprints(checkpoint: str = "a", **study: object) -> dict[str, str]:
    """Return the fingerprints of sp500's tables under other options of the study."""
    spec = SCOPE.open(Settings(), "sp500").spec
    changed = spec.model_copy(
        update={"study": StudyOptions.model_validate({**spec.study.model_dump(), **study})}
    )
    return expected_fingerprints(TABLES, MarketContext(changed, "prices", checkpoint, "float32"))


def stale_after(checkpoint: str = "a", **study: object) -> set[str]:
    """Return the tables of sp500 that become stale under other options of the study."""
    before, after = fingerprints(), fingerprints(checkpoint, **study)
    return {name for name in TABLES if before[name] != after[name]}


def test_options_make_stale_what_depends_on_them_and_nothing_else() -> None:
    assert stale_after() == set()
    assert stale_after(statistics={"draws": 500}) == {EVALUATED, CHECKED}
    assert stale_after(patchtst={"seeds": 2}) == {"patchtst_scores", EVALUATED, CHECKED}
    assert stale_after(checkpoint="b") == {
        "zero_shot_forecasts",
        "zero_shot_scores",
        "covariate_scores",
        "probe_scores",
        "fine_tuning_runs",
        "finetuned_scores",
        EVALUATED,
        CHECKED,
    }
    untouched = {"market_prices", "market_features"}
    assert set(TABLES) - stale_after(labels={"threshold": 0.02}) == untouched


def test_forecasts_that_other_groups_read_depend_on_the_model_where_its_own_group_is_left_out() -> (
    None
):
    few = ["base", "covariates"]
    made = fingerprints(scorers=few)
    for changed in (
        fingerprints(scorers=few, zero_shot={"contexts": [96]}),
        fingerprints("b", scorers=few),
    ):
        assert {"zero_shot_forecasts", "covariate_scores", CHECKED} <= {
            name for name in TABLES if made[name] != changed[name]
        }
