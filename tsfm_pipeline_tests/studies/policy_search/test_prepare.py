"""Test the study's tables on a small fleet: their values are those of the fleet's own tables, no
future reaches them, and they are read back as arrays.

What belongs here: making the tables, and reading them. What does not: experiments on them.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.autoresearch.space import candidates, validation_offsets
from tsfm_pipeline.catalogue.fleet_scope import FLEETS
from tsfm_pipeline.catalogue.scopes import schema_of
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.catalogue.tables import TABLES as FLEET_TABLES
from tsfm_pipeline.evaluation.losses import mean_pinball
from tsfm_pipeline.lake import TableSummary
from tsfm_pipeline.settings import SearchSettings, Settings
from tsfm_pipeline.steps.archetypes import fit_request_index, request_window, windows_before
from tsfm_pipeline.steps.evidence import (
    grid_arrays,
    tunes,
    validation_arrays,
)
from tsfm_pipeline.steps.makers import MAKERS as FLEET_MAKERS
from tsfm_pipeline.steps.making import make
from tsfm_pipeline.studies.policy_search.extra import with_candidates
from tsfm_pipeline.studies.policy_search.making import (
    evidence,
    evidence_leakage,
    forecasts,
    forecasts_leakage,
)
from tsfm_pipeline.studies.policy_search.prepare import prepare
from tsfm_pipeline.studies.policy_search.rows import FleetRows, per_candidate, read_rows
from tsfm_pipeline.studies.policy_search.scope import COPIED, SCOPE, StudyFleet
from tsfm_pipeline.studies.policy_search.tables import (
    EVIDENCE,
    FORECASTS,
    MOST_REQUESTS,
    TABLES,
    WIDEST,
)
from tsfm_pipeline_tests.cli.conftest import add_table_fleet, telemetry
from tsfm_pipeline_tests.project import Project
from tsfm_pipeline_tests.studies.policy_search.hosts import (
    FLEET,
    N_METRICS,
    N_ORIGINS,
    N_TENANTS,
    project_with_hosts,
)

pytestmark = pytest.mark.heavy


def require_close(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    """Batches of other sizes may differ in the last bits."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = project_with_hosts(tmp_path_factory.mktemp("study"))
    return project


@pytest.fixture(scope="module")
def made(project: Project) -> list[TableSummary]:
    return prepare(project.settings, FLEET)


@pytest.fixture(scope="module")
def study(project: Project, made: list[TableSummary]) -> StudyFleet:
    return SCOPE.open(project.settings, FLEET)


@pytest.fixture(scope="module")
def rows(project: Project, made: list[TableSummary]) -> FleetRows:
    return read_rows(project.settings, FLEET)


def test_every_table_has_the_declared_columns_and_rows(study: StudyFleet) -> None:
    for name, table in TABLES.items():
        frame = study.tables.read(name)
        assert frame.schema == schema_of(SCOPE, study, table), name
        assert table.n_rows is not None
        assert frame.height == table.n_rows(study), name
        assert frame.select(table.key).is_unique().all(), name


def test_records_say_what_was_drawn(study: StudyFleet) -> None:
    record = study.tables.record(EVIDENCE)
    assert record["n_tuning_tenants"] == record["n_tenants"] == N_TENANTS
    assert (record["n_requests"], record["most_requests"]) == (N_TENANTS * N_ORIGINS, MOST_REQUESTS)
    assert record["candidates"] == [config.name for config in study.candidates]
    assert record["plan"]["device"] == "cpu"


def test_the_offsets_hold_every_recent_and_daily_schedule(study: StudyFleet) -> None:
    assert set(study.fleet.offsets) < set(study.offsets)
    recent = validation_offsets(SearchSettings(recent_origins=12, daily_origins=()), 4, 48)
    assert set(study.offsets) == {*recent, *(48 * day for day in WIDEST.daily_origins)}
    assert len(recent) == 12


def test_finished_tables_are_kept_and_an_interrupted_one_goes_on(
    project: Project, made: list[TableSummary]
) -> None:
    assert all(summary.n_skipped == 0 for summary in made)
    study = SCOPE.open(project.settings, FLEET)
    folder = study.tables.path / FORECASTS
    first, *others = sorted(folder.glob("part-*.parquet"))
    assert others
    first.unlink()
    again = {summary.table: summary for summary in prepare(project.settings, FLEET)}
    assert again[FORECASTS].n_skipped == len(others)
    assert first.exists(), "the same part is made again, to the byte"
    assert all(s.n_skipped == s.n_parts for name, s in again.items() if name != FORECASTS)


def test_values_equal_those_of_the_fleets_own_tables(
    project: Project, study: StudyFleet, rows: FleetRows
) -> None:
    fleet = project.fleet(FLEET)
    for name in (
        "forecast_requests",
        "request_targets",
        "config_portfolio",
        "forecast_grid",
        "validation_losses",
        "tuning_losses",
    ):
        make(FLEETS, fleet, FLEET_TABLES[name], FLEET_MAKERS[name], fleet.settings)
    requests = fleet.arrays.requests("tuning")
    members = [rows.candidates.index(config.name) for config in fleet.configs]
    offsets = [rows.offsets.index(offset) for offset in fleet.offsets]
    deciles, actual, scale = grid_arrays(fleet, requests)
    np.testing.assert_array_equal(rows.actual, actual)
    np.testing.assert_array_equal(rows.scale, scale)
    require_close(rows.decisions[:, :, members, -1], deciles[..., 4])
    spread = deciles[..., 8] - deciles[..., 4]
    require_close(rows.spread[:, :, members], spread)
    losses, violations = validation_arrays(fleet, requests)
    assert np.isfinite(losses).mean() > 0.5
    stored = rows.evidence[:, :, members][..., offsets, :]
    require_close(stored, losses)
    stored = rows.evidence_violations[:, :, members][..., offsets, :]
    np.testing.assert_array_equal(np.isnan(stored), np.isnan(violations))
    assert (stored == violations).mean() > 0.99 * np.isfinite(violations).mean()
    columns = ["loss_premium", "loss_standard", "loss_basic", "loss_median"]
    own = fleet.arrays.of("tuning_losses", requests, columns, (N_METRICS, len(members)))
    require_close(rows.losses[:, :, members], np.stack(own, axis=-1))
    index = fit_request_index(fleet, tunes(fleet))
    assert index.index.tenant_ids.tolist() == list(rows.tenant_ids)
    refitted = type(index).fit(
        rows.tenant_features[:, None], rows.tenant_ids, rows.groups, index.length
    )
    np.testing.assert_array_equal(index.index.vectors, refitted.index.vectors)
    study_record, fleet_record = (
        tables.record("forecast_requests") for tables in (study.fleet.tables, fleet.tables)
    )
    assert study_record["fingerprint"] == fleet_record["fingerprint"]


def test_losses_are_those_of_the_stored_forecasts(rows: FleetRows) -> None:
    for a, alpha in enumerate((*rows.alphas.values(), 0.5)):
        expected = mean_pinball(rows.actual[:, :, None], rows.decisions[..., a, :], alpha)
        require_close(rows.losses[..., a], expected)
    above = (rows.actual[:, :, None, None] > rows.decisions[..., :-1, :]).mean(axis=-1)
    known = np.isfinite(rows.violations)
    np.testing.assert_allclose(rows.violations[known], above[known], rtol=1e-6)


def test_rows_are_in_the_order_of_tenants_and_their_requests(rows: FleetRows) -> None:
    assert rows.tenant_ids == tuple(f"host-{number:02d}" for number in range(N_TENANTS))
    assert rows.tenants.tolist() == np.repeat(np.arange(N_TENANTS), N_ORIGINS).tolist()
    assert rows.origins.tolist() == list(range(N_ORIGINS)) * N_TENANTS
    assert sorted(np.bincount(rows.folds).tolist()) == [1, 1, 1, 1, 2]
    shape = (N_TENANTS * N_ORIGINS, N_METRICS, len(rows.candidates))
    assert rows.spread.shape == (*shape, rows.horizon)
    assert rows.decisions.shape == (*shape, 4, rows.horizon)
    assert rows.evidence.shape == (*shape, len(rows.offsets), 3)
    assert rows.losses.shape == (*shape, 4)
    own = rows.tenants == 1
    assert np.isnan(rows.spread[own]).mean() > np.isnan(rows.spread[~own]).mean(), (
        "the host that came late has fewer candidates"
    )


def with_noise_after(
    values: NDArray[np.float32], origins: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Telemetry [N, D, T] with noise after one origin per tenant [N]."""
    rng = np.random.default_rng(1)
    noisy = values.copy()
    for row, origin in zip(noisy, origins, strict=True):
        row[:, origin + 1 :] = rng.exponential(100.0, row[:, origin + 1 :].shape)
    return noisy


def test_no_future_reaches_forecasts_evidence_or_features(
    study: StudyFleet, rows: FleetRows
) -> None:
    model, requests = model_of(study.settings), study.requests
    values = np.concatenate(
        [part for _, part in study.fleet.arrays.values_by_shard(requests.tenant_numbers)]
    )
    for o in range(N_ORIGINS):
        noisy = with_noise_after(values, requests.origins[:, o])
        some = replace(requests, ids=requests.ids[:, [o]], origins=requests.origins[:, [o]])
        at = study, some, study.fleet.arrays.panel(noisy), study.candidates, model
        decided, scores = forecasts(*at), evidence(*at)
        stored = rows.origins == o
        require_close(decided["decision_premium"], rows.decisions[stored][..., 0, :])
        require_close(decided["spread"], rows.spread[stored])
        for a, tier in enumerate(rows.alphas):
            require_close(scores[f"loss_{tier}"], rows.evidence[stored][..., a])
        windows = windows_before(
            noisy, np.arange(N_TENANTS), some.origins, request_window(study.fleet)
        )
        np.testing.assert_array_equal(retrieval_features(windows), rows.features[stored])
    assert forecasts_leakage(study, model) == 0
    assert evidence_leakage(study, model) == 0


def test_an_adopted_policy_neither_moves_the_study_nor_loses_the_fleets_tables(
    project: Project, made: list[TableSummary]
) -> None:
    adopted = project.settings.model_copy(
        update={"search": SearchSettings(candidates=("ctx64", "ctx128"), recent_origins=2)}
    )
    before, after = (SCOPE.open(settings, FLEET) for settings in (project.settings, adopted))
    assert after.tables.expected == before.tables.expected
    assert after.candidates == before.candidates
    fleet = SCOPE.open(adopted, FLEET).fleet
    for name in COPIED:
        assert Path(fleet.tables.where(name)).parent == after.tables.path
    assert all(summary.n_skipped == summary.n_parts for summary in prepare(adopted, FLEET))


def test_a_candidate_that_the_tables_lack_is_forecast_once(
    project: Project, rows: FleetRows
) -> None:
    """The values are those that the table has of the same candidate."""
    lacking = "ctx128"
    c = rows.candidates.index(lacking)
    layout = per_candidate(rows.alphas)
    fewer = replace(
        rows,
        candidates=tuple(name for name in rows.candidates if name != lacking),
        **{name: np.delete(getattr(rows, name), c, axis=2) for name in layout},
    )
    assert with_candidates(rows, project.settings, [lacking]) is rows
    more = with_candidates(fewer, project.settings, ["ctx64", lacking])
    assert more.candidates == (*fewer.candidates, lacking)
    for name in layout:
        require_close(getattr(more, name)[:, :, -1], getattr(rows, name)[:, :, c])
        np.testing.assert_array_equal(getattr(more, name)[:, :, :-1], getattr(fewer, name))
    with pytest.raises(ValueError, match="ctx12x"):
        with_candidates(rows, project.settings, ["ctx12x"])
    some = replace(fewer, valid=fewer.valid[:3])
    with pytest.raises(ValueError, match="3 requests"):
        with_candidates(some, project.settings, [lacking])


READS_TWICE = """
import sys
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search.extra import with_candidates
from tsfm_pipeline.studies.policy_search.rows import read_rows
rows = with_candidates(read_rows(Settings(), "hosts"), Settings(), ["ctx48"])
print(rows.candidates[-1], "torch" in sys.modules, "dagster" in sys.modules)
"""


def test_its_file_is_read_without_the_model_and_a_damaged_one_is_not_read(
    project: Project, made: list[TableSummary]
) -> None:
    def answer() -> str:
        return subprocess.run(
            [sys.executable, "-c", READS_TWICE],
            env=project.environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert answer() == "ctx48 True False"
    assert answer() == "ctx48 False False"
    (file,) = (SCOPE.open(project.settings, FLEET).tables.path / "extra").glob("ctx48-*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert answer() == "ctx48 True False"


def test_whole_tenants_are_drawn_from_a_fleet_with_too_many_requests(tmp_path: Path) -> None:
    project = Project(tmp_path, {})
    per_tenant = 100
    n_tenants = MOST_REQUESTS // per_tenant + 3
    frame = telemetry(n_tenants, n_days=10)
    add_table_fleet(project, FLEET, frame, origins_per_tenant=per_tenant)
    study = SCOPE.open(project.settings, FLEET)
    study.prepare(lambda _: None)
    assert int(tunes(study.fleet).sum()) == n_tenants
    assert study.requests.ids.size == MOST_REQUESTS
    assert len(np.unique(study.tenants)) == MOST_REQUESTS // per_tenant
    assert SCOPE.open(project.settings, FLEET).tenants.tolist() == study.tenants.tolist()
    other = Settings.model_validate(
        project.settings.model_dump()
        | {"evaluation": project.settings.evaluation.model_dump() | {"seed": 1}}
    )
    assert SCOPE.open(other, FLEET).context.fleet_tables != study.context.fleet_tables


def test_candidates_are_those_of_the_default_search(rows: FleetRows) -> None:
    listed = [config.name for config in candidates(SearchSettings())]
    assert list(rows.candidates[: len(listed)]) == listed
    assert len(rows.candidates) <= len(listed) + 1
