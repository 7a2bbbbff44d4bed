"""Test a release (digest, provenance, measured card, report) and the second code location."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from tsfm_pipeline.forecaster import Panel, load_forecaster
from tsfm_pipeline.forecaster.registry import REGISTRY, CheckpointError
from tsfm_pipeline.pretraining.bars import BARS
from tsfm_pipeline.pretraining.card import write_card
from tsfm_pipeline.pretraining.export import export_release
from tsfm_pipeline.pretraining.release import main, release
from tsfm_pipeline.pretraining.report import read_variant, read_yardsticks, report_folder
from tsfm_pipeline.pretraining.rolling import model_method
from tsfm_pipeline.pretraining.sources import MissingDataError, Sources
from tsfm_pipeline.pretraining.trainer import Trainer
from tsfm_pipeline.settings import PROJECT_ROOT

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def released(
    finished: tuple[Trainer, Path], small_sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a release, measured on small data with three origins; its report lies under the
    data folder beside it.
    """
    base = tmp_path_factory.mktemp("release")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSFM_DATA_DIR", str(base / "data"))
        release(finished[1] / "state.pt", base / "tiny", small_sources, n_origins=3)
    return base / "tiny"


@pytest.fixture
def in_data_folder(released: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TSFM_DATA_DIR", str(released.parent / "data"))
    return report_folder("tiny")


def test_a_release_is_what_the_registry_reads_and_carries_its_provenance(released: Path):
    info = load_forecaster(released, device="cpu").checkpoint
    config = json.loads((released / "config.json").read_text())
    assert (info.name, info.licence, info.sha256) == ("tiny", "MIT", config["sha256"])
    assert config["provenance"]["commit"]
    assert config["provenance"]["hardware"]["device"] == "cpu"
    assert config["provenance"]["tokens"] == 20 * 512
    assert sorted(path.name for path in released.iterdir()) == [
        "MODEL_CARD.md",
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("checkpoint", ["tiny", "bundled"])
def test_altered_weights_are_refused(checkpoint: str, released: Path, tmp_path: Path):
    folder = released if checkpoint == "tiny" else REGISTRY["bundled"].path
    assert folder is not None
    shutil.copytree(folder, tmp_path / "altered")
    weights = tmp_path / "altered" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256"):
        load_forecaster(tmp_path / "altered", device="cpu")


def test_the_card_holds_what_was_measured(released: Path, in_data_folder: Path):
    card = (released / "MODEL_CARD.md").read_text()
    report = json.loads((in_data_folder / "checkpoint_report.json").read_text())
    assert len(report["bars"]) == 9
    for bar in report["bars"]:
        row = next(
            line
            for line in card.replace("\\", "").splitlines()
            if line.startswith(f"| {bar['title']} |")
        )
        assert f"| {bar['figure']:.3f} | {bar['must_reach']:.3f} |" in row
        assert bar["verdict"] in row
    assert "--steps 20 --seed 5" in card
    assert str(Path.home()) not in card
    assert str(released.parent) not in card


def test_a_training_state_is_compared_with_a_release_on_earlier_rows(
    finished: tuple[Trainer, Path], released: Path, small_sources: Sources, tmp_path: Path
):
    outside = shutil.copytree(small_sources.fleets, tmp_path / "outside")
    for name in ("smd", "asd"):
        table = pl.read_parquet(outside / f"{name}.parquet")
        pl.concat(
            table.with_columns(pl.lit(tenant).alias("tenant_id")) for tenant in "abcd"
        ).write_parquet(outside / f"{name}.parquet")
    done = subprocess.run(
        [
            sys.executable,
            PROJECT_ROOT / "benchmarks" / "earlier_rows.py",
            *(released, finished[1] / "state.pt"),
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(PROJECT_ROOT),
            "TSFM_BENCHMARKS_DIR": str(outside),
            "TSFM_FLEETS_DIR": str(outside),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (rows,) = json.loads(done.stdout)[f"percent_over_{released}"].values()
    assert set(rows) == {"smd", "asd", "nab", "ett"}
    assert all(
        figure == [0, 0] for figures in rows.values() for figure in figures.values()
    )  # the release was made of this state


def test_the_bundled_card_holds_the_bars_of_now():
    card = (PROJECT_ROOT / "data" / "checkpoints" / "bundled" / "MODEL_CARD.md").read_text()
    rows = [line.split(" | ") for line in card.replace("\\", "").splitlines()]
    limits = {row[0].removeprefix("| "): row[2:4] for row in rows if len(row) == 10}
    for bar in BARS:
        assert limits[bar.title] == [f"{bar.must_reach:.3f}", f"{bar.aim_for:.3f}"]


def test_the_report_has_markdown_and_figures_and_all_contexts(in_data_folder: Path):
    report = json.loads((in_data_folder / "checkpoint_report.json").read_text())
    assert all((in_data_folder / name).stat().st_size > 1000 for name in report["figures"])
    assert {"bars.png", "reliability.png", "context_length.png", "forecasts_1.png"} <= set(
        report["figures"]
    )
    assert report["contexts"] == ["ctx512", "ctx1024", "ctx2048"]
    assert set(report["chosen_context"]) == {"ett", "smd", "asd", "nab"}
    assert all(row["exact"] for row in report["constants"].values())
    assert report["fleets"]["asd"]["n_constant_left_out"] == 1
    assert "Chronos-Bolt base, published" in (in_data_folder / "checkpoint_report.md").read_text()


def test_figures_of_other_weights_are_refused(released: Path, in_data_folder: Path, tmp_path: Path):
    measured = read_yardsticks(in_data_folder)
    measured["checkpoint"]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="measure this release"):
        write_card(released, measured)


def test_variants_stand_in_the_card(released: Path, in_data_folder: Path):
    measured = read_yardsticks(in_data_folder)
    before = (released / "MODEL_CARD.md").read_text()
    text = write_card(
        released, measured | {"tried": {"without walks": read_variant(in_data_folder)}}
    ).read_text()
    (released / "MODEL_CARD.md").write_text(before)
    assert "| bar | must reach | tiny (this one) | without walks |" in text
    assert "What was tried" not in before


def test_an_export_without_measurement_says_so(finished: tuple[Trainer, Path], tmp_path: Path):
    export_release(finished[1] / "state.pt", tmp_path / "raw")
    assert "Not measured for this export." in (tmp_path / "raw" / "MODEL_CARD.md").read_text()


def test_a_history_shorter_than_the_context_is_used_whole_down_to_the_patch(released: Path):
    forecaster = load_forecaster(released, device="cpu")
    panel = Panel(np.random.default_rng(1).normal(size=(2, 300)).cumsum(1).astype(np.float32))
    origins = np.array([[250], [299]])
    long, short = (model_method(forecaster, context)(panel, origins, 12) for context in (4096, 224))
    assert np.isfinite(long).all()
    assert np.allclose(long[0], short[0], rtol=1e-5)
    assert not np.allclose(long[1], short[1], rtol=1e-5)


def test_without_data_nothing_is_released(
    finished: tuple[Trainer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TSFM_BENCHMARKS_DIR", raising=False)
    with pytest.raises(MissingDataError, match="TSFM_BENCHMARKS_DIR"):
        main([str(finished[1] / "state.pt"), str(tmp_path / "candidate")])
    assert list(tmp_path.iterdir()) == []


def test_the_second_code_location_loads_without_torch_and_holds_these_assets():
    code = (
        "import sys; from tsfm_pipeline.pretraining.definitions import defs; "
        "heavy = {'torch', 'timesfm', 'matplotlib', 'faiss', 'scipy'} & set(sys.modules); assert "
        "not heavy, heavy; "
        "graph = defs.resolve_asset_graph(); "
        "print(sorted((k.to_user_string(), graph.get(k).group_name) for k in "
        "graph.get_all_asset_keys()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert answer.returncode == 0, answer.stderr
    names = [
        "checkpoint_candidate",
        "checkpoint_report",
        "checkpoint_yardsticks",
        "model_card",
        "pretraining_run",
    ]
    assert answer.stdout.strip() == str([(name, "pretraining") for name in names])


def test_the_report_asset_shows_bars_and_figures(released: Path, in_data_folder: Path):
    from tsfm_pipeline.pretraining.definitions import (
        CheckpointUnderTest,
        checkpoint_report,
        model_card,
    )

    under_test = CheckpointUnderTest(checkpoint=str(released), origins_per_series=3)
    result = dg.materialize([checkpoint_report, model_card], resources={"under_test": under_test})
    metadata = result.asset_materializations_for_node("checkpoint_report")[0].metadata
    assert "The bars" in str(metadata["summary"].value)
    assert str(metadata["reliability"].value).startswith("![reliability](data:image/png;base64,")
    bars = json.loads((in_data_folder / "checkpoint_report.json").read_text())["bars"]
    assert metadata["smd_pb75"].value == pytest.approx(bars[5]["figure"])


def test_assets_fail_with_words_that_help(released: Path, monkeypatch: pytest.MonkeyPatch):
    from tsfm_pipeline.pretraining.definitions import (
        CheckpointUnderTest,
        checkpoint_yardsticks,
        pretraining_run,
    )

    monkeypatch.delenv("TSFM_BENCHMARKS_DIR", raising=False)
    under_test = CheckpointUnderTest(checkpoint=str(released), origins_per_series=3)
    with pytest.raises(dg.Failure, match="TSFM_BENCHMARKS_DIR"):
        dg.materialize([checkpoint_yardsticks], resources={"under_test": under_test})
    with pytest.raises(dg.Failure, match="exactly one of minutes and steps"):
        dg.materialize([pretraining_run])
