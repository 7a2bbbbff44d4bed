"""Provide a checkpoint and outside data that are small enough for tests of seconds, and the real
outside data where available.
"""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tsfm_pipeline.baselines.point import LastValue, SeasonalNaive
from tsfm_pipeline.forecaster.architecture import Architecture
from tsfm_pipeline.pretraining.corpus import PoolShape
from tsfm_pipeline.pretraining.options import TrainOptions
from tsfm_pipeline.pretraining.published import published_protocols
from tsfm_pipeline.pretraining.reproduction import REFERENCE_ORIGINS
from tsfm_pipeline.pretraining.rolling import (
    at_levels,
    by_group,
    change_quantiles,
    panel_of,
    series_losses,
    windows,
)
from tsfm_pipeline.pretraining.sources import FLEET_NAMES, SMD_METRICS, MissingDataError, Sources
from tsfm_pipeline.pretraining.train import run
from tsfm_pipeline.pretraining.trainer import Trainer

CPU = torch.device("cpu")
SMALL = Architecture(
    model_dims=32,
    ff_dims=32,
    num_layers=2,
    num_heads=2,
    output_quantile_len=128,
    context_limit=16_384,
)
OPTIONS = TrainOptions(
    seed=5,
    steps=20,
    batch_patches=512,
    warmup_steps=2,
    learning_rate=5e-3,
    pool=PoolShape(blocks=2, block_series=16, renew_every=8),
)
SHARED = Path(__file__).resolve().parents[3] / "shared"
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A run of twenty steps, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(OPTIONS, SMALL, CPU)
    assert run(trainer, folder, log_every=5)
    return trainer, folder


@pytest.fixture(scope="session")
def real_sources() -> Sources:
    """The real outside data, or a skip that says what is missing."""
    environment = {
        "TSFM_BENCHMARKS_DIR": str(SHARED / "benchmarks"),
        "TSFM_FLEETS_DIR": str(SHARED / "fleets"),
        **os.environ,
    }
    try:
        return Sources.from_environment(environment)
    except MissingDataError as error:
        pytest.skip(str(error))


def waves(rng: np.random.Generator, n: int, period: int) -> np.ndarray:
    return np.abs(2 + np.sin(2 * np.pi * np.arange(n) / period) + 0.3 * rng.normal(size=n))


@pytest.fixture(scope="session")
def small_sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Made-up files in the form of the real ones, with our own naive rows as the reference (nab's
    aws_cpu one series short).
    """
    folder, rng = tmp_path_factory.mktemp("outside"), np.random.default_rng(3)
    for name in ("ETTh1", "ETTh2"):
        table = {"date": np.arange(14_500), **{f"c{i}": waves(rng, 14_500, 24) for i in range(7)}}
        pl.DataFrame(table).write_csv(folder / f"{name}.csv")

    def clock(n: int, minutes: int) -> list[datetime]:
        return [START + timedelta(minutes=minutes * i) for i in range(n)]

    n = 5000
    smd = {
        "tenant_id": ["a"] * n,
        "timestamp": clock(n, 1),
        **{m: waves(rng, n, 1440) for m in SMD_METRICS},
    }
    pl.DataFrame(smd).write_parquet(folder / "smd.parquet")
    n = 3000
    asd = {
        "tenant_id": ["a"] * n,
        "timestamp": clock(n, 5),
        "m00": waves(rng, n, 288),
        "m01": np.full(n, 0.5),
    }
    pl.DataFrame(asd).write_parquet(folder / "asd.parquet")
    n, names = 2000, ("ec2_cpu_1", "ec2_cpu_2", "ec2_network_in_1")
    nab = [
        pl.DataFrame(
            {"series_id": [name] * n, "timestamp": clock(n, 5), "value": waves(rng, n, 288)}
        )
        for name in names
    ]
    pl.concat(nab).with_row_index().filter(pl.col("index") % 97 != 5).drop("index").write_parquet(
        folder / "nab_aws_raw.parquet"
    )
    (folder / "reference_figures.json").write_text("{}")
    sources = Sources(folder, folder)
    (folder / "reference_figures.json").write_text(json.dumps(reference_of(sources)))
    return sources


def reference_of(sources: Sources) -> dict[str, dict[str, dict]]:
    naive = {"last": LastValue(), "seasonal": SeasonalNaive()}
    published: dict[str, dict] = {}
    for key, baseline in (("naive", naive["last"]), ("sn", naive["seasonal"])):
        for protocol, figures in published_protocols(sources, baseline.forecast).items():
            published.setdefault(protocol, {})[key] = figures
    reference: dict[str, dict[str, dict]] = {"published_protocols": published}
    for name in FLEET_NAMES:
        fleet = sources.fleet(name)
        reference[name] = {}
        for horizon in fleet.horizons:
            asked, panel = windows(fleet, horizon, REFERENCE_ORIGINS), panel_of(fleet)
            forecasts = {
                key: at_levels(baseline.forecast(panel, asked.origins, horizon))
                for key, baseline in naive.items()
            }
            forecasts["last_dq"] = change_quantiles(panel, asked.origins, horizon)
            for key, forecast in forecasts.items():
                for group, figures in by_group(
                    fleet, series_losses(fleet, asked.actual, forecast)
                ).items():
                    entry = reference[name].setdefault(f"{group}|H{horizon}", {"methods": {}})
                    entry["n_series"] = len(fleet.rows_of(group)) + (group == "aws_cpu")
                    entry["methods"][key] = figures
    return reference


@pytest.fixture(autouse=True)
def thread_as_before() -> Iterator[None]:
    """Take back what training sets for its thread, because later tests run in the same one."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    torch.set_flush_denormal(False)
