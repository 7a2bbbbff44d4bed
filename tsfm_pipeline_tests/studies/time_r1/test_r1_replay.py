"""Test runs and their records: replay, and checkpoints from candidate to promoted.

What belongs here: one small recipe that is run once, and what its record is good for. What does
not: what the tables hold (`test_r1_definitions`), and training.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from tsfm_pipeline.forecaster.registry import CheckpointError, StagedCheckpoint, staged_checkpoint
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.time_r1 import runs
from tsfm_pipeline.studies.time_r1.checkpoints import (
    MEASURED,
    POLICY_VARIABLE,
    load_promoted,
    policy_source,
    promoted,
    register,
)
from tsfm_pipeline.studies.time_r1.commands import application
from tsfm_pipeline.studies.time_r1.datasets import TableSet
from tsfm_pipeline.studies.time_r1.environment import environment, together
from tsfm_pipeline.studies.time_r1.making_training import trained
from tsfm_pipeline.studies.time_r1.operations import run_recipe
from tsfm_pipeline.studies.time_r1.own_policy import new_policy, save_policy
from tsfm_pipeline.studies.time_r1.promotion import HeldOut, decide, judge, verdicts
from tsfm_pipeline.studies.time_r1.replay import (
    compare,
    differences,
    largest_difference,
    require_same,
)
from tsfm_pipeline.studies.time_r1.run_records import Configuration, RunError, RunRecord, RunRecords
from tsfm_pipeline.studies.time_r1.runs import (
    StoredExperiment,
    adapter_digests,
    leave_record,
    record_of,
)
from tsfm_pipeline.studies.time_r1.scope import SCOPE
from tsfm_pipeline.studies.time_r1.sources import source_digest
from tsfm_pipeline.studies.time_r1.starts import policy_digest
from tsfm_pipeline.studies.time_r1.tables import ADAPTERS, EVALUATED, GRIP
from tsfm_pipeline.studies.time_r1.windows import Windows
from tsfm_pipeline_tests.studies.time_r1.small_recipe import RECIPE, SHAPE, write_recipe

pytestmark = pytest.mark.heavy
DRAWS = 200


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder in which the small recipe ran once; its file says something else since."""
    data = tmp_path_factory.mktemp("replay") / "data"
    settings = write_recipe(data, evaluate=["small_corpus"], test_windows=4)
    run_recipe(settings, "small")
    leave_record(SCOPE.open(settings, "small"))
    recipe = data / "time_r1" / "recipes" / "small.yaml"
    recipe.write_text(yaml.safe_dump({**RECIPE, "horizon": 4, "seed": 7}))
    return settings


@pytest.fixture(scope="module")
def record(settings: Settings) -> RunRecord:
    (only,) = RunRecords(settings).read()
    return only


@pytest.fixture(scope="module")
def candidate(settings: Settings, record: RunRecord) -> StagedCheckpoint:
    return register(settings, record.hash[:6])


@pytest.fixture
def command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command of the study on that data folder."""
    monkeypatch.setenv("TSFM_DATA_DIR", str(settings.data_dir))
    return lambda *arguments: CliRunner().invoke(application, list(arguments))


@pytest.fixture(autouse=True)
def no_policy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POLICY_VARIABLE, raising=False)


def test_a_run_leaves_one_record_of_what_it_was_made_from(
    record: RunRecord, command: Callable[..., Result]
) -> None:
    stored = record.configuration
    assert stored.recipe.horizon == 8, "the run's, not that of the changed file"
    assert stored.checkpoint == "bundled"
    assert stored.table_versions.keys() == stored.fingerprints.keys() >= {ADAPTERS, EVALUATED}
    assert record.environment == environment()
    assert set(record.digests.adapters) == {"sft_plain", "sft_draft", "grip", "grpo", "sft_more"}
    assert {figure.method for figure in record.figures} >= {"draft", "slow_thinking"}
    listed = command("runs")
    assert listed.exit_code == 0
    assert record.hash in listed.output


def test_a_replay_from_the_stored_configuration_is_identical_to_the_byte(
    record: RunRecord, command: Callable[..., Result]
) -> None:
    done = command("replay", record.hash[:5])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.output.splitlines()]
    verdicts_of = {" ".join(row[:-3]): row[-1] for row in rows if row and row[-1] == "equal"}
    assert verdicts_of.keys() == {
        "samples",
        "metrics",
        *(f"adapter {variant}" for variant in record.digests.adapters),
    }
    assert "different" not in done.output
    assert "the replay took" in done.output


def test_a_changed_adapter_sample_or_figure_is_detected(
    settings: Settings, record: RunRecord
) -> None:
    stored = StoredExperiment(settings, record.configuration, settings.data_dir)
    adapters = stored.tables.read(ADAPTERS)
    assert adapter_digests(adapters) == record.digests.adapters
    rows = adapters.to_dicts()
    weights = next(
        file
        for row in rows
        if row["variant"] == GRIP
        for file in row["files"]
        if file["name"].endswith(".safetensors")
    )
    weights["content"] = weights["content"][:-1] + bytes([weights["content"][-1] ^ 1])
    changed = adapter_digests(pl.DataFrame(rows, schema=adapters.schema))
    here = record.digests.model_copy(update={"adapters": changed, "samples": "0" * 64})
    different = [each.part for each in compare(record.digests, here) if not each.equal]
    assert different == ["samples", "adapter grip"]
    without = record.digests.model_copy(update={"adapters": {}})
    assert not compare(record.digests, without)[1].equal
    first, *others = record.figures
    figures = (first.model_copy(update={"mae": 1.01 * first.mae}), *others)
    assert largest_difference(record.figures, figures) == pytest.approx(1 - 1 / 1.01)
    assert largest_difference(record.figures, record.figures) == 0
    assert largest_difference(record.figures, tuple(others)) == float("inf")


def test_changed_or_missing_data_are_refused_by_the_name_of_the_data_set(
    settings: Settings, record: RunRecord, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("step,load\n0,1.5\n1,2.5\n")
    spec = TableSet(
        name="mine",
        kind="table",
        title="Mine",
        licence="MIT",
        path=str(file),
        url="https://example.org/mine.csv",
        sha256=None,
        time_format=None,
        time_column="step",
        step="1 step",
        season=1,
        channels={"load": "the load"},
        horizon=1,
        split={"shares": [0.5, 0.25, 0.25]},
    )
    stored = record.configuration.model_copy(
        update={
            "data_sets": {**record.configuration.data_sets, "mine": spec},
            "sources": {
                **record.configuration.sources,
                "mine": source_digest(spec, settings),
            },
        }
    )
    require_same(stored, settings)
    file.write_text("step,load\n0,1.5\n1,2.6\n")
    with pytest.raises(RunError, match="data set 'mine' has changed"):
        require_same(stored, settings)
    file.unlink()
    with pytest.raises(RunError, match=r"data set 'mine': no file .*mine\.csv"):
        require_same(stored, settings)
    absent = stored.model_copy(update={"sources": {**stored.sources, "mine": "missing"}})
    require_same(absent, settings)
    assert set(StoredExperiment(settings, absent, tmp_path).missing) == {"mine"}


def test_another_base_or_frozen_model_is_refused(
    settings: Settings, record: RunRecord, tmp_path: Path
) -> None:
    save_policy(new_policy(0, SHAPE), tmp_path / "base", {})
    profile = record.configuration.profile.model_copy(update={"model": str(tmp_path / "base")})
    update = {"profile": profile, "policy_sha256": policy_digest(profile)}
    stored = record.configuration.model_copy(update=update)
    require_same(stored, settings)
    save_policy(new_policy(1, SHAPE), tmp_path / "base", {})
    with pytest.raises(RunError, match=r"the base .*base has changed"):
        require_same(stored, settings)
    frozen = record.configuration.model_copy(update={"checkpoint_sha256": "0" * 64})
    with pytest.raises(RunError, match="the frozen model bundled has changed"):
        require_same(frozen, settings)


def test_other_packages_and_versions_of_tables_are_allowed_and_said(record: RunRecord) -> None:
    assert differences(record) == []
    older = Configuration.model_validate(
        {
            **record.configuration.model_dump(),
            "table_versions": {**record.configuration.table_versions, ADAPTERS: 99},
        }
    )
    mixed = together([{**record.environment, "torch": "1.0"}, record.environment])
    del mixed["threads"]
    told = differences(record.model_copy(update={"environment": mixed, "configuration": older}))
    assert len(told) == 3
    assert f"the run's was 1.0 and {torch.__version__}: allowed" in told[0]
    assert f"table {ADAPTERS} has version" in told[1]
    assert "number of threads is not known" in told[2]


@pytest.mark.parametrize(
    "package",
    [
        "jinja2",
        "numba",
        "numpy",
        "peft",
        "polars",
        "python",
        "safetensors",
        "scikit-learn",
        "scipy",
        "tokenizers",
        "torch",
        "transformers",
    ],
)
def test_another_version_of_a_package_is_another_hash(
    settings: Settings, record: RunRecord, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    here = environment()
    assert here[package] not in ("0", "not installed")
    monkeypatch.setattr(runs, "together", lambda _: {**here, package: "0"})
    stored = StoredExperiment(settings, record.configuration, settings.data_dir)
    assert record_of(stored).hash != record.hash
    monkeypatch.setattr(runs, "together", lambda _: {**here, "threads": "0"})
    assert record_of(stored).hash == record.hash, "threads do not count"


def test_a_record_from_before_a_package_counted_is_found_and_compared(record: RunRecord) -> None:
    before = {name: v for name, v in record.environment.items() if name != "numba"}
    (told,) = differences(record.model_copy(update={"environment": before}))
    assert told.startswith("numba is ")
    assert "the run's was unknown: allowed" in told


def test_an_unknown_an_ambiguous_and_a_short_hash_are_refused(
    record: RunRecord, tmp_path: Path, command: Callable[..., Result]
) -> None:
    records = RunRecords(Settings(data_dir=tmp_path))
    with pytest.raises(RunError, match="there are: none"):
        records.find("abcd")
    first, second = "abcd" + "0" * 12, "abcd" + "1" * 12
    assert records.add(record.model_copy(update={"hash": first}))
    assert records.add(record.model_copy(update={"hash": second}))
    with pytest.raises(RunError, match=f"{first}, {second}; give more digits"):
        records.find("abcd")
    with pytest.raises(RunError, match="begins with 'dddd'"):
        records.find("dddd")
    for short in ("abc", "", "ABCD", "abcd*"):
        with pytest.raises(RunError, match="is no hash of a run"):
            records.find(short)
    again = record.digests.model_copy(update={"metrics": "1" * 64})
    assert not records.add(record.model_copy(update={"hash": first})), "it has this record"
    assert records.add(record.model_copy(update={"hash": first, "digests": again}))
    assert records.find("abcd0").digests == again, "the newest one counts"
    assert command("replay", "dddd").exit_code == 2


def test_a_candidate_is_the_policy_of_the_run_and_nothing_uses_it(
    settings: Settings, record: RunRecord, candidate: StagedCheckpoint
) -> None:
    assert candidate.name == f"small-{record.hash[:8]}-grip"
    assert candidate.stage == "candidate"
    assert [each["variant"] for each in candidate.config["adapters"]] == ["sft_draft", "grip"]
    stored = StoredExperiment(settings, record.configuration, settings.data_dir)
    policy = trained(stored, stored.tables.read(ADAPTERS), GRIP)
    weights = load_file(candidate.folder / "model.safetensors")
    for name, tensor in policy.plain.state_dict().items():
        assert name == "lm_head.weight" or torch.equal(weights[name], tensor), name
    card = (candidate.folder / "MODEL_CARD.md").read_text()
    assert record.hash in card
    assert "small_corpus (MIT)" in card
    assert promoted(settings) is None
    assert policy_source(settings) == PROJECT_ROOT / "data/checkpoints/time-r1"
    assert register(settings, record.hash) == candidate, "it is there already"
    with pytest.raises(RunError, match="no policy 'sft_plain' that corrects drafts"):
        register(settings, record.hash, "sft_plain")


def test_exported_adapters_and_their_base_are_the_policy_of_the_run(
    settings: Settings,
    record: RunRecord,
    command: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert command("export-adapters", record.hash[:4], str(tmp_path)).exit_code == 0
    shutil.copytree(record.configuration.profile.model, tmp_path / "base")
    monkeypatch.setenv(POLICY_VARIABLE, str(tmp_path))
    used = load_promoted(settings)
    stored = StoredExperiment(settings, record.configuration, settings.data_dir)
    policy = trained(stored, stored.tables.read(ADAPTERS), GRIP)
    for name, tensor in policy.plain.state_dict().items():
        assert torch.equal(used.policy.plain.state_dict()[name], tensor), name
    assert used.facts["variant"] == "grip"
    assert "stage" not in used.facts
    for name in ("sft", "grip"):
        card = (tmp_path / name / "MODEL_CARD.md").read_text()
        assert record.hash in card
        assert "small_corpus (MIT)" in card
    assert "exact divergence" in card
    again = command("export-adapters", record.hash[:4], str(tmp_path))
    assert again.exit_code == 2, "nothing is overwritten"


def test_a_checkpoint_that_was_altered_or_lacks_a_card_is_refused(
    candidate: StagedCheckpoint, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in candidate.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert staged_checkpoint(copy).sha256 == candidate.sha256
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="the file was altered"):
        staged_checkpoint(copy)
    (copy / "MODEL_CARD.md").unlink()
    with pytest.raises(CheckpointError, match=r"no MODEL_CARD\.md"):
        staged_checkpoint(copy)
    weights.rename(copy / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt is a pickled checkpoint"):
        staged_checkpoint(copy)


def test_a_candidate_is_written_by_the_command_and_judged_by_the_gate(
    settings: Settings,
    record: RunRecord,
    candidate: StagedCheckpoint,
    command: Callable[..., Result],
) -> None:
    assert command("register", record.hash[:4]).stdout.strip() == candidate.name
    done = command("promote", candidate.name)
    assert done.exit_code == 1, done.output
    assert "refused: MASE of slow thinking over that of its draft is " in done.output
    assert "allowed: below 1 with an upper limit of at most 1" in done.output
    (row,) = verdicts(settings).filter(checkpoint=candidate.name).iter_rows(named=True)
    assert not row["promoted"]
    assert staged_checkpoint(candidate.folder).stage == "candidate"
    assert promoted(settings) is None
    assert command("promote", "nothing").exit_code == 2


def held_out(name: str, share: float, noise: float = 0.02) -> HeldOut:
    """Windows of 4 channels at 6 origins, whose forecast has `share` of its draft's error, give or
    take some.
    """
    rng = np.random.default_rng(0)
    n, horizon = 24, 8
    truth = rng.normal(size=(n, horizon))
    errors = rng.normal(size=(n, horizon))
    kept = share + noise * rng.normal(size=(n, 1))
    windows = Windows(
        data_set=name,
        step="1 hour",
        season=24,
        channels=tuple(f"c{i % 4}" for i in range(n)),
        origins=np.arange(n) // 4,
        past=rng.normal(size=(n, 32)),
        truth=truth,
        look_back=32,
    )
    return HeldOut(windows, np.ones(n), truth + errors, truth + kept * errors)


@pytest.mark.parametrize(
    ("shares", "reasons"),
    [
        ({"one": 0.8}, 0),
        ({"one": 0.7, "two": 0.9}, 0),
        ({"one": 0.7, "two": 1.0}, 1),
        ({"one": 1.0}, 1),
        ({"one": 1.2}, 2),
        ({"one": 0.5, "two": 0.6, "three": 1.05}, 1),
        ({"one": 0.2, "two": 1.05}, 2),
    ],
)
def test_the_gate_asks_for_a_gain_with_an_interval_and_for_no_harm(
    shares: dict[str, float], reasons: int
) -> None:
    sets = [held_out(name, share) for name, share in shares.items()]
    verdict = judge(sets, DRAWS, 0)
    assert len(verdict.reasons) == reasons, verdict
    assert verdict.promoted == (reasons == 0)
    assert set(verdict.by_data_set) == set(shares)


def test_a_policy_that_always_keeps_the_draft_gains_nothing() -> None:
    verdict = judge([held_out("one", 1.0, noise=0.0)], DRAWS, 0)
    assert verdict.gain.ratio == verdict.gain.high == 1
    assert not verdict.promoted


def test_one_channel_has_no_interval_and_is_refused() -> None:
    one = held_out("one", 0.5)
    rows = np.arange(0, 24, 4)
    alone = HeldOut(one.windows.at(rows), one.scale[rows], one.draft[rows], one.forecast[rows])
    verdict = judge([alone], DRAWS, 0)
    assert verdict.gain.ratio is not None
    assert "without an interval on 6 windows" in verdict.reasons[0]


def test_a_promoted_checkpoint_is_in_use_until_another_one_is_promoted(
    settings: Settings,
    record: RunRecord,
    candidate: StagedCheckpoint,
    command: Callable[..., Result],
) -> None:
    decide(settings, candidate, judge([held_out("one", 0.8)], DRAWS, 0))
    first = promoted(settings)
    assert first is not None
    assert first.name == candidate.name
    in_use = load_promoted(settings)
    assert in_use.source == candidate.folder
    assert in_use.asked_with.look_back == 96
    assert in_use.asked_with.contexts == (96,)
    assert in_use.facts == first.config
    assert set(MEASURED) <= set(in_use.facts)
    card = (candidate.folder / "MODEL_CARD.md").read_text()
    assert "| stage | promoted |" in card
    assert f"{first.config['gate']['ratio']:.4f}" in card
    other = register(settings, record.hash, "grpo")
    decide(settings, other, judge([held_out("one", 0.7)], DRAWS, 0))
    assert policy_source(settings) == promoted(settings)
    assert load_promoted(settings).source == other.folder
    decide(settings, first, judge([held_out("one", 0.8)], DRAWS, 0))
    assert load_promoted(settings).source == candidate.folder
    listed = command("checkpoints")
    assert listed.exit_code == 0
    assert candidate.name in listed.output
    assert verdicts(settings)["promoted"].to_list()[-3:] == [True, True, True]


def test_make_replay_asks_for_the_hash() -> None:
    done = subprocess.run(
        ["make", "--old-file=.venv/.installed-studies", "replay"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "make replay HASH=" in done.stderr
