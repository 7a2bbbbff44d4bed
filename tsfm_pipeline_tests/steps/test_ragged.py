"""Test worn fleets, from description to scores, with a stand-in for the model: who is answered, and
what the answers rest on.

What belongs here: whole chains over the fleets of `tsfm_pipeline_tests.worn`. What does not: the
rules of single requests (`evaluation`), and the quality of the real model's forecasts.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.evaluation.requests import ROLES
from tsfm_pipeline.fleets.fleet_text import fleet_yaml
from tsfm_pipeline.fleets.inference import look_at_table
from tsfm_pipeline.reports.headline.numbers import headline_report
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.steps.evidence import validation_arrays
from tsfm_pipeline_tests import worn

pytestmark = pytest.mark.heavy

CANDIDATES = ("ctx64", "ctx128", "ctx256", "ctx1024", "ctx128-s1x5")
FEW_DRAWS = {"bootstrap_draws": 200, "permutations": 100}
"""The fewest that are allowed: intervals need only be there."""
NOT_NEEDED = ("irreducible_losses", "forecast_quality", "recommendation_scores")


@pytest.fixture(scope="module")
def run(
    scaling: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[], worn.Telemetry]], Fleet]:
    """A function that wears telemetry down, describes it as `fleet init` does, and makes the
    tables.
    """

    def make(kind: str, whole: Callable[[], worn.Telemetry]) -> Fleet:
        root = tmp_path_factory.mktemp(kind)
        tables = root / "data" / "external"
        path, _ = worn.worn_table(whole(), kind, tables)
        facts = look_at_table(path, name="worn", fleets_dir=tables)
        assert not facts.problem
        (root / "specs").mkdir()
        (root / "specs" / "worn.yaml").write_text(fleet_yaml(facts, "init"))
        settings = Settings(
            data_dir=root / "data",
            specs_dir=root / "specs",
            search={"candidates": CANDIDATES, "portfolio_size": 3},
            evaluation=FEW_DRAWS,
        )
        fleet = open_workspace_fleet(settings, "worn")
        for table in TABLES:
            if table not in NOT_NEEDED:
                scaling.make(fleet, table)
        return fleet

    return make


def five_minutes() -> worn.Telemetry:
    """Six synthetic tenants over five weeks, as means of five minutes."""
    return worn.means(worn.synthetic(tenants=6, days=35), worn.timedelta(minutes=5))


@pytest.mark.parametrize(
    ("kind", "least_share"),
    [
        pytest.param("outage", 0.95, marks=pytest.mark.slow),
        ("holes", 0.95),
        pytest.param("lifetimes", 0.9, marks=pytest.mark.slow),
        ("daily", 0.95),
        pytest.param("thirty-days", 0.95, marks=pytest.mark.slow),
        pytest.param("one-day", 0.95, marks=pytest.mark.slow),
        ("two-days", 0.95),
    ],
)
def test_a_worn_fleet_runs_to_a_report_that_says_what_its_answers_rest_on(
    run: Callable[..., Fleet], kind: str, least_share: float
) -> None:
    fleet = run(kind, five_minutes)
    requests = fleet.tables.read("forecast_requests")
    tested = requests.filter(pl.col("role") == "test")
    assert tested["valid"].mean() >= least_share  # type: ignore[operator]
    answered = (
        fleet.tables.read("autoresearch_forecasts")
        .group_by("request_id")
        .agg(pl.col("chosen").ne("").all())
    )
    valid = tested.filter("valid")
    assert valid.join(answered, on="request_id")["chosen"].all()
    report = headline_report(fleet)
    rows = [row for row in report.table_strata if row.tier == report.headline_tier]
    assert sum(row.n_requests for row in rows) == valid.height
    assert {row.basis for row in rows} == set(valid["basis"])
    assert all(np.isfinite([row.mean_loss_search, row.mean_loss_rival]).all() for row in rows)
    assert fleet.tables.read("recommendations")["made"].all()
    _cold_is_without_evidence(fleet, requests)
    _tuning_ends_before_any_test(fleet, requests)


def test_a_request_with_a_little_history_is_cold_only_if_nothing_of_it_can_be_validated(
    run: Callable[..., Fleet],
) -> None:
    fleet = run("holes", lambda: worn.means(worn.synthetic(tenants=6, days=10), worn.HOUR))
    requests = fleet.tables.read("forecast_requests")
    assert requests["n_known"].min() < 160  # type: ignore[operator]
    _cold_is_without_evidence(fleet, requests)


def test_a_tenant_of_three_hours_gets_a_recommendation_and_is_said_to_be_cold(
    run: Callable[..., Fleet],
) -> None:
    fleet = run("newcomers", five_minutes)
    made = fleet.tables.read("recommendations")
    new = fleet.manifest.filter(pl.col("last_step") - pl.col("first_step") < 36)["tenant_id"]
    own = made.filter(pl.col("tenant_id").is_in(new.implode()))
    assert own.height
    assert own["made"].all()
    assert set(own["basis"]) == {"cold"}
    assert "cold" not in made.filter(~pl.col("tenant_id").is_in(new.implode()))["basis"]


def _cold_is_without_evidence(fleet: Fleet, requests: pl.DataFrame) -> None:
    basis = dict(requests.select("request_id", "basis").iter_rows())
    for role in ROLES:
        of_role = fleet.arrays.requests(role)
        losses = validation_arrays(fleet, of_role)[0]  # [R, D, K, J, A]
        validated = np.isfinite(losses).any(axis=(2, 3, 4)).all(axis=1)
        for request, known in zip(of_role.ids.ravel().tolist(), validated.tolist(), strict=True):
            if basis[request]:
                assert (basis[request] == "cold") == (not known), (role, request)


def _tuning_ends_before_any_test(fleet: Fleet, requests: pl.DataFrame) -> None:
    """With a calendar of their own, tenants are compared by the time since their first step."""
    own = fleet.spec.calendar == "own"
    manifest = fleet.manifest.select(
        "tenant_number", begin=pl.col("first_step") if own else pl.lit(0)
    )
    placed = requests.filter("valid").join(manifest, on="tenant_number")
    since = placed.with_columns(origin=pl.col("origin_step") - pl.col("begin"))
    tuning, test = (since.filter(pl.col("role") == role)["origin"] for role in ("tuning", "test"))
    assert int(tuning.max()) + fleet.spec.horizon <= int(test.min()) + 1  # type: ignore[arg-type]
    assert SEARCH in fleet.tables.read("headline_scores")["method"]
