"""Test who counts as a series of the served fleet."""

import pytest

from tsfm_pipeline.autoresearch.bundle import BundleFacts, Checkpoint, Member, SearchBundle
from tsfm_pipeline.evaluation.protocol import PROTOCOL
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline_tests.autoresearch.test_bundle import HORIZON, METRICS, NAMES, OFFSETS, fitted

pytestmark = pytest.mark.heavy  # a bundle's index imports scikit-learn


@pytest.fixture(scope="module")
def bundle() -> SearchBundle:
    """Two folds that tune each other, one tenant with a slash in its name."""
    first, second = ["a", "ns/pod"], ["d", "e"]
    facts = BundleFacts(
        fleet="small",
        metrics=METRICS,
        step_minutes=15.0,
        horizon=HORIZON,
        seasons=(96,),
        bounds={"share": (0.0, 1.0), "bytes": (0.0, None), "bursts": (0.0, None)},
        protocol=PROTOCOL,
        checkpoint=Checkpoint(name="bundled", sha256="0" * 64, dtype="float32"),
        offsets=OFFSETS,
        members=tuple(Member(name=name) for name in NAMES),
        n_neighbours=2,
    )
    folds = {0: fitted(0, NAMES[:2], second, first), 1: fitted(1, NAMES[1:], first, second)}
    return SearchBundle(facts, folds, fitted(2, NAMES, [*first, *second, "tuner"], []))


def test_every_tenant_of_the_fleet_is_served(bundle: SearchBundle) -> None:
    markets = Markets.of(bundle)
    for tenant in ("a", "d", "e", "ns/pod", "tuner"):
        for metric in METRICS:
            assert markets.metric_of(f"{tenant}/{metric}") == (tenant, metric)


@pytest.mark.parametrize(
    "market_id",
    ["a", "a/", "/share", "share", "a/other", "z/share", "ns/share", "a/share/", "A/share"],
)
def test_any_other_name_is_no_market_of_the_fleet(bundle: SearchBundle, market_id: str) -> None:
    markets = Markets.of(bundle)
    assert markets.metric_of(market_id) is None
    assert markets.segments_of(market_id) == {}


def test_what_is_known_of_a_market(bundle: SearchBundle) -> None:
    markets = Markets.of(bundle, lambda horizon: 100 + horizon)
    assert markets.bounds["bytes"] == (0.0, None)
    assert markets.segments_of("a/share") == {"metric": "share"}
    assert (markets.step_minutes, markets.seasons) == (15.0, (96,))
    assert markets.steps_back(15.0, 12) == 112
    assert markets.steps_back(5.0, 12) == 0


def test_without_a_bundle_every_market_is_unmatched() -> None:
    markets = Markets.of(None)
    assert markets.metric_of("a/share") is None
    assert markets.steps_back(5.0, 12) == 0
