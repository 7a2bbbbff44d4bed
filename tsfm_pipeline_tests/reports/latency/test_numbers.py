"""Test which requests the latency report times and scores, and what a resized engine knows."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest

from tsfm_pipeline.autoresearch.engine import AutoresearchEngine, resized
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.evaluation.methods import FIXED
from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIERS
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.reports.latency import numbers as latency_numbers
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.steps.bundle import open_bundle
from tsfm_pipeline_tests.autoresearch.conftest import search_policy
from tsfm_pipeline_tests.conftest import N_ORIGINS

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
HORIZON, OFFSETS = 8, (32, 64)
NAMES = ("ctx64", "ctx128", "ctx256")


@dataclass
class Recorder:
    """Answers with the number of the request, and remembers who asked at which tier."""

    asked: list[tuple[int, str]] = field(default_factory=list)

    def forecast(self, history: Panel, tier: str, as_of: datetime | None = None) -> object:
        number = int(history.values[0, -1])
        self.asked.append((number, tier))

        @dataclass
        class Answer:
            decision: np.ndarray
            timing_ms: dict[str, float]

        return Answer(
            np.full((HORIZON, 2), number),
            {"prepare": 1.0, "forecast": 2.0, "total": float(len(self.asked))},
        )


def numbered(n: int) -> list[Panel]:
    return [Panel(np.full((2, 4), i, dtype=np.float32)) for i in range(n)]


def test_every_round_has_its_own_tier_and_the_first_is_scored() -> None:
    recorder = Recorder()
    timings, decisions = latency_numbers._answer(recorder, numbered(6), [NOON] * 6, 20, PROTOCOL)  # type: ignore[arg-type]
    timed = recorder.asked[latency_numbers.WARM_UP_REQUESTS :]
    assert [number for number, _ in timed] == [i % 6 for i in range(20)]
    assert [tier for _, tier in timed[::6]] == ["standard", "premium", "basic", "standard"]
    assert list(timings) == ["prepare", "forecast", "total"]
    assert timings["total"].tolist() == [
        latency_numbers.WARM_UP_REQUESTS + 1.0 + i for i in range(20)
    ]
    assert decisions.shape == (6, 2, HORIZON)
    assert decisions[:, 0, 0].tolist() == list(range(6))


def test_the_losses_of_a_size_are_paired_with_the_fixed_configurations_on_metrics_that_have_a_scale() -> (
    None
):
    rng = np.random.default_rng(0)
    actual = rng.normal(size=(12, 2, HORIZON))
    decisions = actual + 0.5
    fixed = np.full((12, 2), 0.25)
    scale = np.full((12, 2), 2.0)
    scale[3, 1] = np.nan
    sample = latency_numbers.Sample(
        "standard",
        TIERS["standard"],
        [],
        [],
        np.repeat(np.arange(6), 2),
        np.tile([0, 1], 6),
        actual,
        scale,
        fixed,
    )
    bought = latency_numbers._bought(sample, decisions, n_draws=200, seed=0)
    expected = float(mean_pinball(actual, decisions, TIERS["standard"])[0, 0]) / 2.0
    assert bought.mean_scaled_loss == pytest.approx(expected)
    assert bought.ratio.figure == pytest.approx(expected / 0.25)
    assert bought.ratio.low <= bought.ratio.figure <= bought.ratio.high
    assert bought.n_requests == 12


@pytest.fixture(scope="module")
def engine() -> AutoresearchEngine:
    rng = np.random.default_rng(1)
    known = TenantExperience(
        rng.random((5, 2, 3, 3)), np.array(list("abcde")), rng.random((5, 2, 3, 3))
    )
    return AutoresearchEngine(None, search_policy(NAMES, OFFSETS, HORIZON), known)  # type: ignore[arg-type]


def test_a_smaller_engine_keeps_what_is_known_of_its_configurations(
    engine: AutoresearchEngine,
) -> None:
    small = resized(engine, ["ctx256", "ctx64"])
    assert [config.name for config in small.configs] == ["ctx256", "ctx64"]
    assert small.priors is not None
    assert engine.priors is not None
    np.testing.assert_array_equal(small.priors.losses, engine.priors.losses[:, :, [2, 0]])
    np.testing.assert_array_equal(small.priors.violations, engine.priors.violations[:, :, [2, 0]])  # type: ignore[index]


def test_a_larger_engine_knows_nothing_of_added_configurations(engine: AutoresearchEngine) -> None:
    large = resized(engine, [*NAMES, "ctx512"])
    assert large.priors is not None
    assert np.isnan(large.priors.losses[:, :, 3]).all()
    assert np.isfinite(large.priors.losses[:, :, :3]).all()


def test_the_sample_spreads_over_tenants_and_holds_what_happened(mini_fleet: Fleet) -> None:
    sample = latency_numbers._sample(mini_fleet, 0, 20)
    n_tenants = len(np.unique(sample.tenant))
    assert n_tenants == min(20, len(mini_fleet.arrays.requests("test").tenant_numbers))
    assert np.bincount(sample.tenant).max() <= min(N_ORIGINS, -(-20 // n_tenants))
    assert len(sample.histories) == len(sample.actual) == 20
    scored = mini_fleet.tables.read("scored_forecasts")
    losses = set(
        scored.filter((scored["method"] == FIXED) & (scored["tier"] == "standard"))[
            "scaled_loss"
        ].to_list()
    )
    assert set(sample.fixed_loss.ravel().tolist()) <= losses
    for history, actual, tenant in zip(sample.histories, sample.actual, sample.tenant, strict=True):
        shard = next(shard for shard in mini_fleet.shards if tenant in shard)
        values = mini_fleet.arrays.values(shard)[tenant - shard[0]]
        np.testing.assert_array_equal(
            values[:, history.n_steps : history.n_steps + actual.shape[1]], actual
        )
        np.testing.assert_array_equal(values[:, : history.n_steps], history.values)


def test_the_answers_that_are_timed_are_those_that_were_scored(
    mini_fleet: Fleet, mini_forecaster: FrozenForecaster
) -> None:
    """At the portfolio's own size the sample's losses are those of the search in the tables."""
    sample = latency_numbers._sample(mini_fleet, 0, 6)
    _, decisions = latency_numbers._answer(
        open_bundle(mini_fleet).engine(mini_forecaster),
        sample.histories,
        sample.times,
        6,
        PROTOCOL,
    )
    ours = mean_pinball(sample.actual, decisions, TIERS["standard"]) / sample.scale
    scored = mini_fleet.tables.read("scored_forecasts")
    rows = scored.filter((scored["method"] == "search") & (scored["tier"] == "standard"))
    stored = rows["scaled_loss"].to_numpy()
    for loss in ours.ravel():
        assert np.abs(stored - loss).min() <= 1e-4


def test_the_report_says_what_every_size_costs_and_buys(mini_fleet: Fleet) -> None:
    report = read_report(mini_fleet, "latency_report")
    sizes = [row["k"] for row in report["table_pareto"]]
    timed = mini_fleet.settings.evaluation.latency_sizes
    assert sizes == sorted({*timed, report["portfolio_size"]})
    for row in report["table_pareto"]:
        k = row["k"]
        assert (
            report[f"k{k}_p95_latency_ms"] == row["p95_ms"] >= row["p50_ms"] > row["floor_ms"] > 0
        )
        assert row["achieved_share_of_floor"] == pytest.approx(row["floor_ms"] / row["p50_ms"])
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["n_requests"] == report["n_scored_requests"] == 20
    assert report["checkpoint_size_mib"] > 1
    assert report["threads"] >= 1
