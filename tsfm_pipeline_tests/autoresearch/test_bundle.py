"""Test that a bundle is one file that gives the same answers as its parts on any machine, and that
damaged or foreign bundles are refused.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsfm_pipeline import __version__
from tsfm_pipeline.archetypes.features import retrieval_features
from tsfm_pipeline.archetypes.index import WindowIndex
from tsfm_pipeline.autoresearch import bundle as bundles
from tsfm_pipeline.autoresearch.bundle import (
    BundleError,
    BundleFacts,
    Checkpoint,
    FittedSearch,
    FixedChoice,
    Member,
    SearchBundle,
)
from tsfm_pipeline.autoresearch.engine import AutoresearchEngine
from tsfm_pipeline.autoresearch.priors import TenantExperience
from tsfm_pipeline.evaluation.protocol import PROTOCOL, TIERS
from tsfm_pipeline.forecaster import load_forecaster
from tsfm_pipeline.forecaster.engine import FrozenForecaster
from tsfm_pipeline_tests.autoresearch.conftest import search_policy
from tsfm_pipeline_tests.forecaster.conftest import random_module, save_checkpoint

NAMES = ("ctx32", "ctx64", "ctx96")
HORIZON, OFFSETS, WINDOW = 20, (20, 40, 96), 120
METRICS = ("share", "bytes", "bursts")


def fitted(
    seed: int, portfolio: tuple[str, ...], tuners: list[str], tenants: list[str]
) -> FittedSearch:
    """A search with random experience of its tuners."""
    rng = np.random.default_rng(seed)
    shape = (len(tuners), len(METRICS), len(portfolio), len(TIERS))
    windows = (
        rng.normal(size=(len(tuners), len(METRICS), WINDOW)).astype(np.float32).cumsum(axis=-1)
    )
    index = WindowIndex.fit(retrieval_features(windows)[:, None], tuners, None, WINDOW)
    losses = rng.uniform(0.5, 1.5, shape)
    losses[0, 0, 0] = np.nan
    fixed = dict.fromkeys(TIERS, FixedChoice(member=portfolio[0], stand_in=portfolio[-1]))
    policy = search_policy(portfolio, OFFSETS, HORIZON, temperature=0.05 + 0.1 * seed)
    experience = TenantExperience(losses, index.index.tenant_ids, rng.uniform(size=shape))
    return FittedSearch(policy, fixed, experience, index, np.array(tenants, dtype=np.str_))


@pytest.fixture(scope="module")
def bundle(forecaster: FrozenForecaster) -> SearchBundle:
    """Two folds that tune each other, and a live search that all tenants tuned."""
    first, second = ["a", "b", "c"], ["d", "e", "f, of a longer name"]
    facts = BundleFacts(
        fleet="small",
        metrics=METRICS,
        step_minutes=15.0,
        horizon=HORIZON,
        seasons=(96,),
        bounds={"share": (0.0, 1.0), "bytes": (0.0, None), "bursts": (0.0, None)},
        protocol=PROTOCOL,
        checkpoint=Checkpoint(
            name=forecaster.checkpoint.name, sha256=forecaster.checkpoint.sha256, dtype="float32"
        ),
        offsets=OFFSETS,
        members=tuple(Member(name=name) for name in NAMES),
        n_neighbours=2,
    )
    folds = {0: fitted(0, NAMES[:2], second, first), 1: fitted(1, NAMES[1:], first, second)}
    return SearchBundle(facts, folds, fitted(2, NAMES, first + second, []))


@pytest.fixture
def path(bundle: SearchBundle, tmp_path: Path) -> Path:
    bundle.write(tmp_path / "search.bundle")
    return tmp_path / "search.bundle"


@pytest.mark.parametrize("tenant", ["a", "f, of a longer name", "nobody's", None])
def test_what_is_opened_answers_as_what_was_written(
    bundle: SearchBundle,
    path: Path,
    forecaster: FrozenForecaster,
    telemetry: np.ndarray,
    tenant: str | None,
) -> None:
    opened = SearchBundle.open(path)
    assert opened.facts == bundle.facts
    mine, theirs = (which.engine(forecaster, tenant) for which in (bundle, opened))
    assert mine.policy == theirs.policy
    for tier in TIERS:
        ours, answer = (
            engine.forecast(which.panel(telemetry), tier, exclude_tenant=tenant)
            for engine, which in ((mine, bundle), (theirs, opened))
        )
        np.testing.assert_array_equal(answer.decision, ours.decision)
        np.testing.assert_array_equal(answer.quantiles, ours.quantiles)
        assert np.isfinite(answer.decision).all()


def test_a_tenant_is_answered_by_the_fold_that_tests_it_and_others_by_the_live_search(
    bundle: SearchBundle,
) -> None:
    for fold, search in bundle.folds.items():
        for tenant in search.tenants.tolist():
            assert bundle.search_of(tenant) is search, fold
            assert tenant not in search.priors.tenant_ids, "its policy has not seen it"
    assert bundle.search_of("nobody's") is bundle.search_of(None) is bundle.live


def test_the_search_of_the_only_fold_is_the_live_one(bundle: SearchBundle, tmp_path: Path) -> None:
    only = replace(bundle, folds={0: bundle.folds[0]}, live=bundle.folds[0])
    only.write(tmp_path / "one.bundle")
    opened = SearchBundle.open(tmp_path / "one.bundle")
    assert opened.live is opened.folds[0]
    assert not any(name.startswith("live/") for name in opened.to_arrays())


def test_a_bound_is_the_panel_s_where_all_metrics_share_it_else_each_series_has_its_own(
    bundle: SearchBundle, telemetry: np.ndarray
) -> None:
    panel = bundle.panel(telemetry)
    assert (panel.lower, panel.upper, panel.seasons) == (0.0, None, (96,))
    own = [bundle.facts.bounds[metric] for metric in bundle.facts.metrics]
    lower, upper = panel.limits.lower.tolist(), panel.limits.upper.tolist()
    assert lower == [-np.inf if low is None else low for low, _ in own]
    assert upper == [np.inf if high is None else high for _, high in own]


def test_equal_content_gives_equal_bytes(bundle: SearchBundle, path: Path, tmp_path: Path) -> None:
    SearchBundle.open(path).write(tmp_path / "again.bundle")
    assert (tmp_path / "again.bundle").read_bytes() == path.read_bytes()
    assert path.read_bytes().startswith(f"tsfm-search-bundle sha256={bundle.digest}\n".encode())
    changed = replace(bundle, facts=bundle.facts.model_copy(update={"n_neighbours": 3}))
    assert changed.digest != bundle.digest


def test_another_checkpoint_is_refused_with_both_names(
    bundle: SearchBundle, tmp_path: Path, forecaster: FrozenForecaster
) -> None:
    other = load_forecaster(
        save_checkpoint(tmp_path / "other", random_module(seed=1)), device="cpu"
    )
    assert other.checkpoint.sha256 != forecaster.checkpoint.sha256
    for tenant in ("a", None):
        with pytest.raises(ValueError, match="fitted with checkpoint") as refusal:
            bundle.engine(other, tenant)
        for info in (other.checkpoint, forecaster.checkpoint):
            assert repr(info.name) in str(refusal.value)
            assert info.sha256[:12] in str(refusal.value)


def test_a_search_is_lent_to_another_model_by_hand(
    bundle: SearchBundle, tmp_path: Path, telemetry: np.ndarray
) -> None:
    other = load_forecaster(
        save_checkpoint(tmp_path / "other", random_module(seed=1)), device="cpu"
    )
    engine = AutoresearchEngine(other, bundle.live.policy, bundle.live.priors, bundle.live.index)
    assert np.isfinite(engine.forecast(bundle.panel(telemetry), "standard").decision).all()


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "is damaged"),
        (_flipped, "is damaged"),
        (
            lambda content: content.replace(b"sha256=", b"sha256=0", 1)[:-1],
            "is not a search bundle",
        ),
        (lambda content: content[:40], "is not a search bundle"),
        (lambda content: b"", "is not a search bundle"),
        (lambda content: content.partition(b"\n")[2], "is not a search bundle"),
    ],
)
def test_a_file_that_is_not_what_was_written_is_refused(
    path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=words) as refusal:
        SearchBundle.open(path)
    assert str(path) in str(refusal.value)
    assert "search_bundle" in str(refusal.value), "what to do"


def test_every_single_byte_counts(path: Path) -> None:
    content = path.read_bytes()
    for place in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x20]) + content[place + 1 :])
        with pytest.raises(BundleError):
            SearchBundle.open(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        SearchBundle.open(tmp_path / "nowhere.bundle")


def with_document(
    bundle: SearchBundle, change: Callable[[dict[str, Any]], object]
) -> dict[str, np.ndarray]:
    """The bundle's arrays with another document."""
    arrays = bundle.to_arrays()
    document = json.loads(arrays["document"].tobytes())
    change(document)
    return arrays | {"document": np.frombuffer(json.dumps(document).encode(), dtype=np.uint8)}


def version_0(bundle: SearchBundle) -> dict[str, np.ndarray]:
    """A bundle of an imagined schema version 0, whose members were names without a kind."""

    def without_kinds(document: dict[str, Any]) -> None:
        document |= {
            "schema_version": 0,
            "members": [member["name"] for member in document["members"]],
        }

    return with_document(bundle, without_kinds)


def test_the_version_before_is_read_by_its_upgrade(
    bundle: SearchBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kinds(
        document: dict[str, Any], arrays: bundles.Arrays
    ) -> tuple[dict[str, Any], bundles.Arrays]:
        return document | {
            "members": [{"name": name, "kind": "configuration"} for name in document["members"]]
        }, arrays

    monkeypatch.setitem(bundles.UPGRADES, 0, kinds)
    upgraded = SearchBundle.from_arrays(version_0(bundle))
    assert upgraded.facts == bundle.facts
    assert upgraded.digest == bundle.digest


def test_a_version_without_an_upgrade_and_one_of_the_future_are_refused_by_name(
    bundle: SearchBundle,
) -> None:
    with pytest.raises(
        BundleError, match=f"schema version 0, written by tsfm-pipeline {__version__}"
    ):
        SearchBundle.from_arrays(version_0(bundle))
    future = with_document(
        bundle, lambda document: document.update(schema_version=7, written_by="tsfm-pipeline 9.1")
    )
    with pytest.raises(
        BundleError, match=r"schema version 7, written by tsfm-pipeline 9\.1.*reads up to 1.*update"
    ):
        SearchBundle.from_arrays(future)


def test_a_member_of_an_unknown_kind_is_refused_by_name(bundle: SearchBundle) -> None:
    arrays = with_document(bundle, lambda document: document["members"][1].update(kind="model"))
    with pytest.raises(BundleError, match=r"members of kind model.*knows: configuration"):
        SearchBundle.from_arrays(arrays)


def test_a_search_over_strangers_is_refused(bundle: SearchBundle) -> None:
    with pytest.raises(
        ValueError, match="ctx96: in a portfolio, but not among the members ctx32, ctx64"
    ):
        replace(bundle, facts=bundle.facts.model_copy(update={"members": bundle.facts.members[:2]}))


def test_a_bundle_whose_look_alikes_lie_in_qdrant_answers_the_same(
    bundle: SearchBundle, forecaster: FrozenForecaster, telemetry: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("qdrant_client", reason="the extra [qdrant] is not installed")
    from tsfm_pipeline.serving.archetypes import export_bundle, in_qdrant

    assert len(set(export_bundle(bundle, str(tmp_path)))) == len(bundle.folds) + 1
    stored = in_qdrant(bundle, str(tmp_path))
    assert stored.digest == bundle.digest
    for tenant in ("a", "nobody's"):
        ours, theirs = (
            which.engine(forecaster, tenant).forecast(bundle.panel(telemetry), "premium")
            for which in (bundle, stored)
        )
        np.testing.assert_array_equal(ours.decision, theirs.decision)
