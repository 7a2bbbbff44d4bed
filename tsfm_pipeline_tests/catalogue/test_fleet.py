"""Test the workspace: opening a fleet, its grid and shards, and tables as arrays in the order of
the requests.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet, open_workspace_fleet
from tsfm_pipeline.catalogue.time_grid import TimeGrid
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.files import LakeError
from tsfm_pipeline.fleets.fields import Bounds
from tsfm_pipeline.settings import Settings

GRID = TimeGrid(datetime(2024, 1, 1, tzinfo=UTC), 5.0, 1000, ("cpu", "mem"), (288, 2016))


def test_a_grid_counts_in_steps_and_survives_json() -> None:
    assert GRID.steps_per_day == 288
    assert [GRID.steps(minutes) for minutes in (4, 5, 119, 120)] == [0, 1, 23, 24]
    assert GRID.time_of(13) == datetime(2024, 1, 1, 1, 5, tzinfo=UTC)
    assert TimeGrid.from_json(GRID.to_json()) == GRID


def test_an_unknown_fleet_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("kind: synthetic\ntitle: Demo\ntenants: 2\ndays: 3\n")
    with pytest.raises(ValueError, match=r"no fleet 'dmeo' in .*; there are: demo"):
        open_workspace_fleet(Settings(specs_dir=tmp_path), "dmeo")


def test_a_fleet_s_protocol_has_its_own_tier_shares_and_decides_its_tables(
    mini_fleet: Fleet,
) -> None:
    assert mini_fleet.context.protocol == mini_fleet.protocol == PROTOCOL
    shares = {"premium": 1.0, "standard": 0.0, "basic": 0.0}
    other = Fleet(mini_fleet.settings, mini_fleet.spec.model_copy(update={"tier_shares": shares}))
    assert other.context.protocol == PROTOCOL.model_copy(update={"tier_shares": shares})


def test_a_fleet_without_telemetry_names_the_asset_to_run(
    mini_fleet: Fleet, tmp_path: Path
) -> None:
    empty = Fleet(mini_fleet.settings.model_copy(update={"data_dir": tmp_path}), mini_fleet.spec)
    with pytest.raises(LakeError, match="materialise the asset 'tenant_telemetry' first"):
        _ = empty.shards


def test_shards_cover_every_tenant_once_and_values_are_the_sources(mini_fleet: Fleet) -> None:
    numbers = [number for shard in mini_fleet.shards for number in shard]
    assert numbers == list(range(mini_fleet.source.n_tenants))
    for shard in mini_fleet.shards:
        assert [mini_fleet.arrays.shard_number(shard)] == [mini_fleet.shards.index(shard)]
        np.testing.assert_array_equal(
            mini_fleet.arrays.values(shard), mini_fleet.source.values(shard)
        )


def test_requests_of_shards_add_up_to_those_of_the_fleet(mini_fleet: Fleet) -> None:
    whole = mini_fleet.arrays.requests("test")
    parts = [mini_fleet.arrays.requests("test", shard) for shard in mini_fleet.shards]
    np.testing.assert_array_equal(whole.ids, np.concatenate([part.ids for part in parts]))
    np.testing.assert_array_equal(whole.origins, np.concatenate([part.origins for part in parts]))
    for part, shard in zip(parts, mini_fleet.shards, strict=True):
        np.testing.assert_array_equal(part.rows + shard[0], part.tenant_numbers)
    only = whole.tenant_numbers[:2].tolist()
    np.testing.assert_array_equal(mini_fleet.arrays.requests("test", only=only).ids, whole.ids[:2])


def test_arrays_come_in_the_order_of_the_requests(mini_fleet: Fleet) -> None:
    requests = mini_fleet.arrays.requests("tuning", mini_fleet.shards[2])
    n_metrics, n_configs = len(mini_fleet.grid.metrics), len(mini_fleet.configs)
    ids, metrics, configs = mini_fleet.arrays.of(
        "tuning_losses", requests, ["tenant_number", "metric", "config"], (n_metrics, n_configs)
    )
    assert ids.shape == (requests.ids.size, n_metrics, n_configs)
    np.testing.assert_array_equal(
        ids[:, 0, 0], np.repeat(requests.tenant_numbers, requests.ids.shape[1])
    )
    assert metrics[0, :, 0].tolist() == list(mini_fleet.grid.metrics)
    assert configs[0, 0].tolist() == [config.name for config in mini_fleet.configs]


def test_a_table_of_another_shape_is_refused_with_both_counts(mini_fleet: Fleet) -> None:
    requests = mini_fleet.arrays.requests("test")
    with pytest.raises(
        ValueError,
        match=rf"holds {requests.ids.size * 4} rows for {requests.ids.size} requests; expected",
    ):
        mini_fleet.arrays.of("request_targets", requests, ["scale"], (5,))


def test_a_bound_holds_for_a_panel_where_all_metrics_share_it(mini_fleet: Fleet) -> None:
    values = mini_fleet.arrays.values(mini_fleet.shards[0])[:1]
    panel = mini_fleet.arrays.panel(values)
    assert (panel.lower, panel.upper, panel.n_series, panel.seasons) == (
        0.0,
        None,
        4,
        (1440, 10080),
    )
    mixed = mini_fleet.spec.model_copy(
        update={"bounds": {"cpu_util": Bounds(lower=-1.0, upper=2.0)}}
    )
    other = Fleet(mini_fleet.settings, mixed)
    other.grid = (
        mini_fleet.grid
    )  # its own telemetry would be another table, for bounds are part of a fleet's fingerprint
    panel = other.arrays.panel(values)
    assert (panel.lower, panel.upper) == (None, None)
    assert panel.limits.lower.tolist() == [-1.0, 0.0, 0.0, 0.0]
    assert panel.limits.upper.tolist() == [2.0, np.inf, np.inf, np.inf]
