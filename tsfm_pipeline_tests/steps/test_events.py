"""Test that known events change what the search hears, alike in the batch path and per request, and
nothing else.
"""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.registry import expected_fingerprints
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.evaluation.events import Event
from tsfm_pipeline.evaluation.methods import SEARCH_DESPITE_EVENTS
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.fleets import TableFleet
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline.steps.bundle import make_bundle
from tsfm_pipeline.steps.evidence import SearchBatch, validation_arrays
from tsfm_pipeline.steps.known_events import comparable_origins, known_events
from tsfm_pipeline.steps.live import Recommender, next_requests
from tsfm_pipeline.steps.policies import folds_and_tuners
from tsfm_pipeline.steps.scores import methods, searched

# It reads the fleet that a run made.
pytestmark = pytest.mark.run

BEFORE_THE_TEST, OF_THE_TEST = timedelta(days=7, hours=6), timedelta(days=3)


@pytest.fixture(scope="module")
def eventful(mini_fleet: Fleet) -> Fleet:
    """The miniature fleet as if its file named two events, over the tables that it made without
    them: nothing that these hold depends on events, but for the fitted search and its decisions.
    """
    grid = mini_fleet.grid
    end = grid.time_of(grid.n_steps)
    events = tuple(
        Event(start=end - before, end=end - before + timedelta(hours=9))
        for before in (BEFORE_THE_TEST, OF_THE_TEST)
    )
    fleet = Fleet(mini_fleet.settings, mini_fleet.spec.model_copy(update={"events": events}))
    fleet.__dict__["tables"] = mini_fleet.tables
    return fleet


def test_only_the_fitted_search_and_what_follows_from_it_depend_on_events(
    mini_fleet: Fleet, eventful: Fleet
) -> None:
    plain, with_events = (
        expected_fingerprints(TABLES, fleet.context) for fleet in (mini_fleet, eventful)
    )
    changed = {name for name in plain if plain[name] != with_events[name]}
    assert {"search_policy", "search_bundle", "autoresearch_forecasts"} <= changed
    assert {"scored_forecasts", "headline_scores", "recommendations"} <= changed
    same = {"tenant_telemetry", "forecast_grid", "validation_losses", "tuning_losses"}
    assert not changed & {*same, "config_priors", "config_portfolio", "baseline_forecasts"}


def test_origins_of_another_kind_are_no_evidence_and_the_others_stay(
    mini_fleet: Fleet, eventful: Fleet
) -> None:
    ((_, tuners),) = folds_and_tuners(eventful)
    for role, only in (("test", None), ("tuning", tuners.tolist())):
        requests = eventful.arrays.requests(role, only=only)
        counts = comparable_origins(eventful, requests)
        assert 0 < counts.sum() < counts.size, role
        for plain, heard in zip(
            validation_arrays(mini_fleet, requests),
            validation_arrays(eventful, requests),
            strict=True,
        ):
            kept = np.moveaxis(heard, 3, 1)[counts]
            np.testing.assert_array_equal(kept, np.moveaxis(plain, 3, 1)[counts])
            assert np.isnan(np.moveaxis(heard, 3, 1)[~counts]).all()


def test_the_search_that_ignores_events_is_that_of_a_fleet_without_them(
    mini_fleet: Fleet, eventful: Fleet
) -> None:
    batch = SearchBatch(eventful, eventful.arrays.requests("test"))
    scored = dict(methods(eventful, batch))
    stored = searched(mini_fleet, SearchBatch(mini_fleet, batch.requests))
    np.testing.assert_allclose(
        scored[SEARCH_DESPITE_EVENTS].decision, stored.decision, rtol=1e-4, atol=1e-5
    )
    assert SEARCH_DESPITE_EVENTS not in dict(methods(mini_fleet, batch))
    changed = ~comparable_origins(eventful, batch.requests).all(axis=1)
    differs = ~np.isclose(batch.decide().decision, stored.decision, rtol=1e-4, atol=1e-5)
    assert differs[changed].any()
    assert not differs[~changed].any()


def test_a_single_request_hears_what_the_batch_hears(
    eventful: Fleet, mini_forecaster: FrozenForecaster
) -> None:
    bundle = make_bundle(eventful)
    assert bundle.facts.events == eventful.spec.events
    read = type(bundle).from_arrays(bundle.to_arrays())
    assert read.facts.events == eventful.spec.events
    engine = read.engine_of(read.folds[0], mini_forecaster)
    requests = eventful.arrays.requests("test")
    changed = np.argwhere(
        ~comparable_origins(eventful, requests).all(axis=1).reshape(requests.ids.shape)
    )
    batch = SearchBatch(eventful, requests)
    expected = batch.decide().decision.reshape(
        *requests.ids.shape, -1, len(TIERS), eventful.spec.horizon
    )
    moved = 0
    for tenant, origin in changed[:: max(1, len(changed) // 4)][:4].tolist():
        number, step = int(requests.tenant_numbers[tenant]), int(requests.origins[tenant, origin])
        shard = next(shard for shard in eventful.shards if number in shard)
        values = eventful.arrays.values(shard)[number - shard[0]]
        history = eventful.arrays.panel(np.ascontiguousarray(values[None, :, : step + 1]))
        answers = engine.forecast_tiers(history, as_of=eventful.grid.time_of(step))
        for a, tier in enumerate(TIERS):
            np.testing.assert_allclose(
                answers[tier].decision.T, expected[tenant, origin, :, a], rtol=1e-3, atol=1e-4
            )
        without_time = engine.forecast_tiers(history)["standard"].decision
        moved += not np.allclose(without_time, answers["standard"].decision, rtol=1e-3, atol=1e-4)
    assert moved


def test_a_bundle_without_events_is_written_as_before(mini_fleet: Fleet) -> None:
    document = make_bundle(mini_fleet).to_arrays()["document"].tobytes()
    assert b'"events"' not in document


def test_the_origins_that_count_are_those_of_the_request_s_time(eventful: Fleet) -> None:
    requests = eventful.arrays.requests("test")
    steps, horizon = requests.origins.ravel(), eventful.spec.horizon
    grid, events = eventful.grid, eventful.spec.events

    def touched(origin: int) -> bool:
        window = [grid.time_of(origin + h) for h in range(1, horizon + 1)]
        return any(event.start <= time < event.end for event in events for time in window)

    counts = comparable_origins(eventful, requests)
    for row in range(0, len(steps), max(1, len(steps) // 6)):
        own = touched(int(steps[row]))
        alike = [touched(int(steps[row]) - offset) == own for offset in eventful.offsets]
        assert counts[row].tolist() == (alike if any(alike) else [True] * len(alike))


def test_an_event_that_a_column_marks_counts_for_its_own_tenant(
    mini_fleet: Fleet, tmp_path: Path
) -> None:
    grid, requests = mini_fleet.grid, mini_fleet.arrays.requests("test")
    owner, last = int(requests.tenant_numbers[0]), int(requests.origins[0, -1])
    release = range(last - mini_fleet.offsets[0] + 1, last - mini_fleet.offsets[0] + 3)
    times = pl.Series([grid.time_of(step) for step in range(grid.n_steps)])
    series = np.concatenate([mini_fleet.arrays.values(shard) for shard in mini_fleet.shards])
    ids = mini_fleet.manifest["tenant_id"].to_list()
    pl.concat(
        pl.DataFrame(
            {
                "tenant_id": [tenant] * grid.n_steps,
                "timestamp": times,
                **dict(zip(grid.metrics, values, strict=True)),
                "release": [number == owner and step in release for step in range(grid.n_steps)],
            }
        )
        for number, (tenant, values) in enumerate(zip(ids, series, strict=True))
    ).write_parquet(tmp_path / "released.parquet")
    spec = TableFleet(
        name=mini_fleet.name,
        title="Released",
        kind="table",
        source="the miniature fleet",
        path=str(tmp_path / "released.parquet"),
        event_column="release",
        **mini_fleet.spec.model_dump(include={"horizon", "origins_per_tenant", "max_gap", "lower"}),
    )
    fleet = Fleet(mini_fleet.settings, spec)
    fleet.__dict__["tables"] = mini_fleet.tables
    assert len(known_events(fleet)) == 1
    counts = comparable_origins(fleet, requests).reshape(*requests.ids.shape, -1)
    assert counts[1:].all()
    assert not counts[0, -1, 0]
    assert counts[0, -1, 1:].any()
    heard, plain = (validation_arrays(one, requests)[0] for one in (fleet, mini_fleet))
    dropped = np.isnan(heard) & ~np.isnan(plain)
    flat = counts.reshape(len(heard), -1)
    np.testing.assert_array_equal(dropped.any(axis=(1, 2, 4)), ~flat)
    assert SEARCH_DESPITE_EVENTS in dict(methods(fleet, SearchBatch(fleet, requests)))


def test_what_is_to_be_reserved_next_hears_only_its_own_kind_too(
    mini_fleet: Fleet, mini_forecaster: FrozenForecaster
) -> None:
    grid = mini_fleet.grid
    end = grid.time_of(grid.n_steps)
    last_hours = Event(start=end - timedelta(hours=2), end=end - timedelta(minutes=1))
    fleet = Fleet(mini_fleet.settings, mini_fleet.spec.model_copy(update={"events": (last_hours,)}))
    fleet.__dict__["tables"] = mini_fleet.tables
    numbers = fleet.shards[0][:2]
    requests = next_requests(fleet, numbers)
    counts = comparable_origins(fleet, requests)
    assert 0 < counts.sum() < counts.size
    recommender = Recommender(mini_fleet, mini_forecaster)
    values = fleet.arrays.values(numbers)
    plain = recommender.batch(requests, values).evidence[0]
    recommender.fleet = fleet
    heard = recommender.batch(requests, values).evidence[0]
    kept = np.moveaxis(heard, 3, 1)
    np.testing.assert_array_equal(kept[counts], np.moveaxis(plain, 3, 1)[counts])
    assert np.isnan(kept[~counts]).all()
