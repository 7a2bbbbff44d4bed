"""Test `tsfm-pipeline benchmark`: which windows are scored, by which methods, and the aggregates."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch.bundle import (
    BundleFacts,
    Checkpoint,
    FittedSearch,
    FixedChoice,
    Member,
    SearchBundle,
)
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.cli.benchmark_methods import Methods
from tsfm_pipeline.cli.benchmarking import REFERENCE, aggregated, benchmark_of, data_sets_below
from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIERS
from tsfm_pipeline.fleets.saved_items import open_dataset
from tsfm_pipeline.forecaster import Panel
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline_tests.autoresearch.conftest import search_policy
from tsfm_pipeline_tests.cli.commands import Desk
from tsfm_pipeline_tests.fleets.saved_datasets import item, save
from tsfm_pipeline_tests.project import CHECKPOINT

QUARTER_HOURS = 700
"""Steps of the data set of quarter hours: windows of 48 steps, two of them."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk", {"CHECKPOINT": CHECKPOINT})


def wave(n_steps: int = QUARTER_HOURS, season: int = 96, seed: int = 0) -> np.ndarray:
    steps = np.arange(n_steps)
    noise = np.random.default_rng(seed).normal(0, 0.2, n_steps)
    return (5 + np.sin(steps * 2 * np.pi / season) + noise).astype(np.float32)


def benchmarked(desk: Desk, folder: Path, *options: str) -> tuple[pl.DataFrame, str]:
    out = desk.root / "out.parquet"
    done = desk.run("benchmark", folder, "--out", out, *options)
    assert done.exit_code == 0, done.output
    return pl.read_parquet(out), done.output


def test_each_variate_of_each_item_is_scored_in_each_window(desk: Desk) -> None:
    rows = [
        item("a", [wave(seed=1).tolist(), wave(seed=2).tolist()], freq="15T"),
        item("b", [wave(900, seed=3).tolist(), [None] * 900], freq="15T"),
    ]
    results, output = benchmarked(
        desk, save(desk.root / "d", rows), "--method", "last_value", "--method", "arima_101"
    )
    assert results["method"].to_list() == [REFERENCE, "last_value", "arima_101"]
    row = results.row(1, named=True)
    assert (row["dataset"], row["term"], row["horizon"]) == ("d", "short", 48)
    assert (row["n_windows_per_series"], row["n_series"]) == (2, 4)
    assert row["n_points"] == 3 * 2 * 48, "the variate without values is not scored"
    assert row["n_stand_ins"] == 2, "its two windows: there is no last value"
    assert "2 items, 2 windows of 48 steps" in output
    assert "geometric mean, as gift-eval" in output


def test_the_scores_of_the_last_value_by_hand(desk: Desk) -> None:
    # Daily steps: one window of 30, season 1. The history rises by 2 a step, so the seasonal error
    # is 2; the last value is 198, and the window holds 210.
    values = [2.0 * step for step in range(100)] + [210.0] * 30
    folder = save(desk.root / "d", [item("a", values, freq="D")])
    results, _ = benchmarked(desk, folder, "--method", "last_value")
    row = results.row(1, named=True)
    assert (row["mase"], row["mae"]) == (6.0, 12.0)
    assert row["crps"] == pytest.approx(12 / 210)
    assert results["mase_relative"].to_list() == [1.0, 1.0]


def test_months_are_read_and_m4_has_windows_of_its_own(desk: Desk) -> None:
    row = item("a", wave(200, 12).tolist(), freq="MS")
    save(desk.root / "sets" / "m4_monthly", [row])
    save(desk.root / "sets" / "hospital", [row])
    results, _ = benchmarked(desk, desk.root / "sets", "--method", "last_value")
    counted = results.filter(pl.col("method") == REFERENCE).select(
        "dataset", "horizon", "n_windows_per_series"
    )
    assert counted.rows() == [("hospital", 12, 2), ("m4_monthly", 18, 1)]


def test_a_data_set_without_windows_in_a_term_is_left_out_and_named(desk: Desk) -> None:
    save(desk.root / "sets" / "ds-0-D", [item("a", wave(400, 7).tolist(), freq="D")])
    save(desk.root / "sets" / "ds-1-D", [item("a", wave(100, 7).tolist(), freq="D")])
    results, output = benchmarked(
        desk, desk.root / "sets", "--method", "last_value", "--term", "medium"
    )
    assert set(results["dataset"]) == {"ds-0-D"}
    assert "ds-1-D/medium is left out: 1 items have fewer than 301 steps: 'a'" in output
    assert "shifted geometric mean, as boom" in output


@pytest.mark.parametrize(
    ("freq", "options", "message"),
    [
        ("Q", (), "one step is 1 quarter"),
        ("D", ("--method", "prophet"), "--method 'prophet'; allowed: model, search, last_value"),
        ("D", ("--out", "x.txt"), "allowed: an ending .csv or .parquet"),
        ("D", ("--bundle", "nowhere", "--method", "search"), "nowhere cannot be read"),
    ],
)
def test_what_cannot_be_benchmarked_is_refused(
    desk: Desk, freq: str, options: tuple[str, ...], message: str
) -> None:
    folder = save(desk.root / "d", [item("a", wave(200, 7).tolist(), freq=freq)])
    done = desk.run("benchmark", folder, *(options or ("--method", "last_value")))
    assert done.exit_code == 2
    assert message in done.output


def test_a_folder_without_data_sets_says_how_to_get_one(desk: Desk) -> None:
    desk.root.mkdir()
    done = desk.run("benchmark", desk.root)
    assert done.exit_code == 2
    assert "no data set" in done.output
    assert "fleet fetch" in done.output


def test_data_sets_are_called_by_their_path_and_belong_to_a_benchmark_by_name(
    tmp_path: Path,
) -> None:
    for name in ("electricity/15T", "electricity/D"):
        save(tmp_path / name, [item("a", [1.0])])
    assert [name for name, _ in data_sets_below(tmp_path)] == ["electricity/15T", "electricity/D"]
    assert benchmark_of(["ds-0-T", "boom/ds-12-10S"]) == "boom"
    assert benchmark_of(["ds-0-T", "electricity/15T"]) == "gift-eval"


def results_of(method: str, mase: list[float], crps: list[float], mae: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "dataset": ["flat", "one", "two"],
            "term": "short",
            "method": method,
            "mase": mase,
            "crps": crps,
            "mae": mae,
        }
    )


RESULTS = pl.concat(
    [
        results_of(REFERENCE, [0.0, 2.0, 4.0], [0.5, 1.0, 1.0], [0.0, 1.0, 1.0]),
        results_of("model", [0.0, 1.0, 8.0], [0.25, 0.5, 0.5], [0.1, 1.0, 1.0]),
    ]
)


def test_boom_sets_zero_inflated_data_sets_apart_and_does_not_divide_them() -> None:
    row = aggregated(RESULTS, "boom").row(1, named=True)
    assert (row["n_scored"], row["n_apart"]) == (2, 1)
    assert row["mase_relative"] == pytest.approx(1.0, abs=1e-5), "of 1/2 and 8/4"
    assert row["crps_relative"] == pytest.approx(0.5)
    assert (row["mae_apart"], row["crps_apart"]) == pytest.approx((0.1, 0.25))


def test_a_named_data_set_is_set_apart_too() -> None:
    row = aggregated(RESULTS, "boom", apart=["two"]).row(1, named=True)
    assert (row["n_scored"], row["n_apart"]) == (1, 2)
    assert row["mase_relative"] == pytest.approx(0.5)


def test_gift_eval_takes_the_plain_geometric_mean_of_all() -> None:
    row = aggregated(RESULTS, "gift-eval").row(1, named=True)
    assert row["n_scored"] == 3
    assert row["mase_relative"] == pytest.approx(1.0), "0/0 is left out"
    assert row["crps_relative"] == pytest.approx(0.5)
    assert "mae_apart" not in row


def search_bundle(path: Path, horizon: int) -> Path:
    """A search with random experience of two tuning tenants, for one metric at 15 minutes."""
    names, tuners, window = ("ctx64", "ctx256"), ["x", "y"], 120
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(2, 1, window)).astype(np.float32).cumsum(axis=-1)
    index = WindowIndex.fit(retrieval_features(windows)[:, None], tuners, None, window)
    shape = (2, 1, len(names), len(TIERS))
    experience = TenantExperience(
        rng.uniform(0.5, 1.5, shape), index.index.tenant_ids, rng.uniform(size=shape)
    )
    fixed = dict.fromkeys(TIERS, FixedChoice(member=names[0], stand_in=names[0]))
    offsets = (horizon, 2 * horizon)
    search = FittedSearch(
        search_policy(names, offsets, horizon), fixed, experience, index, np.array([], dtype=str)
    )
    facts = BundleFacts(
        fleet="small",
        metrics=("target",),
        step_minutes=15.0,
        horizon=horizon,
        seasons=(96,),
        bounds={"target": (None, None)},
        protocol=PROTOCOL,
        checkpoint=Checkpoint(
            name="bundled", sha256=checkpoint_digest(CHECKPOINT), dtype="float32"
        ),
        offsets=offsets,
        members=tuple(Member(name=name) for name in names),
        n_neighbours=1,
    )
    SearchBundle(facts, {0: search}, search).write(path)
    return path


@pytest.mark.heavy
def test_the_model_and_both_searches_answer_every_window(desk: Desk) -> None:
    rows = [item("a", [wave(seed=1).tolist(), wave(seed=2).tolist()], freq="15T")]
    folder = save(desk.root / "d", rows)
    methods = ("model", "search", "ctx64", "ctx2048")
    results, _ = benchmarked(desk, folder, *(f"--method={name}" for name in methods))
    by = {row["method"]: row for row in results.iter_rows(named=True)}
    assert by["ctx64"]["n_stand_ins"] == 0
    for name in ("model", "search"):
        assert by[name]["n_stand_ins"] == 0
        assert 0 < by[name]["mase"] < 1.2, "of the order of the season's own change"
    assert len({by[name]["crps"] for name in (*methods, REFERENCE)}) == 4
    assert by["ctx2048"]["n_stand_ins"] == 4, "700 steps do not fill it"
    assert by["ctx2048"]["crps"] == by[REFERENCE]["crps"], "so the reference answers"

    bundle = search_bundle(desk.root / "search.bundle", 48)
    fitted, _ = benchmarked(desk, folder, "--method=search", f"--bundle={bundle}")
    row = fitted.row(1, named=True)
    assert (row["n_stand_ins"], row["n_series"]) == (0, 2)
    assert row["crps"] not in (by["search"]["crps"], by[REFERENCE]["crps"])


@pytest.mark.heavy
def test_no_method_sees_what_comes_after_the_origin(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSFM_CHECKPOINT", str(CHECKPOINT))
    monkeypatch.setenv("TSFM_DEVICE", "cpu")
    values = wave()[None]
    dataset = open_dataset(save(desk.root / "d", [item("a", values[0].tolist(), freq="15T")]))
    origins = np.array([[560, 603]])
    changed = values.copy()
    changed[:, 561:] = 1e3
    for names, bundle in (
        (("model", "search", "ctx64", "arima_101"), None),
        (("search",), search_bundle(desk.root / "search.bundle", 48)),
    ):
        methods = Methods(names, bundle)
        for name in names:
            first, second = (
                methods.forecast(
                    name, dataset, Panel(held, seasons=(96,)), origins, 48, dataset.items[0]
                )
                for held in (values, changed)
            )
            np.testing.assert_array_equal(first[:, 0], second[:, 0], err_msg=name)
            assert not np.array_equal(first[:, 1], second[:, 1]), name


@pytest.mark.heavy
def test_a_bundle_of_another_horizon_is_refused_with_both(desk: Desk) -> None:
    folder = save(desk.root / "d", [item("a", wave().tolist(), freq="15T")])
    bundle = search_bundle(desk.root / "search.bundle", 12)
    done = desk.run("benchmark", folder, "--method", "search", "--bundle", bundle)
    assert done.exit_code == 2
    assert "windows of 48 steps" in done.output
    assert "a horizon of 12 steps" in done.output
    alone = desk.run("benchmark", folder, "--method", "model", "--bundle", bundle)
    assert alone.exit_code == 2
    assert "add --method search" in alone.output


def test_a_constant_series_has_no_mase_and_does_not_fail(desk: Desk) -> None:
    folder = save(desk.root / "ds-1-D", [item("a", [0.0] * 200, freq="D")])
    results, _ = benchmarked(desk, folder, "--method", "last_value")
    assert all(math.isnan(value) for value in results["mase"])
    assert results["mae"].to_list() == [0.0, 0.0]
