"""Test that evidence across fleets counts no tenant twice, names what is out of date and leaves it
out, and does not fail because of another fleet's table.
"""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.protocol import TIERS
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.fleets import SyntheticFleet, TableFleet
from tsfm_pipeline.parts import SCHEMA_VERSION
from tsfm_pipeline.reports.across_fleets.model import EvidenceReport, PooledRow
from tsfm_pipeline.reports.across_fleets.numbers import (
    CURRENT,
    NO_SCORES,
    NOT_CURRENT,
    Scored,
    evidence_report,
    report_of,
)
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline_tests.conftest import MINI
from tsfm_pipeline_tests.project import Project


def _scores(ratio: float, n_tenants: int, half_width: float = 0.03) -> pl.DataFrame:
    figures = {"ratio": ratio, "ratio_low": ratio - half_width, "ratio_high": ratio + half_width}
    counts = {"n_requests": 12 * n_tenants, "n_tenants": n_tenants, "n_days": 7}
    rest = {"win_rate": 0.55, "win_rate_low": 0.5, "win_rate_high": 0.6, "violation_rate": 0.2}
    fixed = {"ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    methods = {
        "search": figures,
        "static_ensemble": {key: 1.05 * figure for key, figure in figures.items()},
        "fixed_quantile": fixed,
    }
    return pl.DataFrame(
        [
            {"tier": tier, "method": method, **own, **rest, **counts}
            for tier in TIERS
            for method, own in methods.items()
        ]
    )


def _synthetic(name: str, n_tenants: int, seed: int, ratio: float) -> Scored:
    spec = SyntheticFleet(
        name=name, title=name, kind="synthetic", tenants=2 * n_tenants, days=30, seed=seed
    )
    return Scored(spec, CURRENT, "", _scores(ratio, n_tenants))


def _real(name: str, ratio: float) -> Scored:
    return Scored(
        TableFleet(name=name, title=name, kind="table", path="x.parquet", source="x"),
        CURRENT,
        "",
        _scores(ratio, 17),
    )


def _pooled(report: EvidenceReport, tier: str = "standard") -> dict[str, PooledRow]:
    return {row.group: row for row in report.table_pooled if row.tier == tier}


def test_fleets_of_one_seed_share_tenants_and_the_largest_counts() -> None:
    fleets = [
        _synthetic("demo", 24, 1, 0.5),
        _synthetic("sample", 200, 1, 0.9),
        _synthetic("other", 60, 2, 0.92),
    ]
    report = report_of(fleets)
    rows = {row.fleet: row for row in report.table_effects if row.tier == "standard"}
    assert {name: row.pooled for name, row in rows.items()} == {
        "demo": False,
        "sample": True,
        "other": True,
    }
    assert rows["demo"].contained_in == "sample"
    assert _pooled(report)["synthetic"].n_fleets == 2
    assert _pooled(report)["synthetic"].ratio.figure == pytest.approx(0.91, abs=0.005)
    [spread] = [row for row in report.table_seeds if row.tier == "standard"]
    assert (spread.n_seeds, spread.lowest, spread.highest) == (2, 0.9, 0.92)


def test_all_seeds_together_count_as_one_fleet_beside_the_real_ones() -> None:
    seeds = [_synthetic(f"seed-{seed}", 60, seed, 0.9) for seed in range(5)]
    report = report_of([*seeds, _real("smd", 0.7), _real("asd", 1.0)])
    pooled = _pooled(report)
    assert {group: row.n_fleets for group, row in pooled.items()} == {
        "real": 2,
        "synthetic": 5,
        "all": 3,
    }
    ratio = pooled["all"].ratio
    assert ratio.figure == pytest.approx((0.9 * 0.7 * 1.0) ** (1 / 3), rel=0.02)
    assert ratio.low < pooled["all"].normal_low < ratio.figure
    assert report.flat()["standard_all_ratio"] == ratio.figure


def test_rivals_are_pooled_in_the_same_way() -> None:
    report = report_of([_synthetic("seed", 60, 1, 0.9), _real("smd", 0.7)])
    rows = {row.method: row.ratio for row in report.table_methods if row.tier == "premium"}
    assert set(rows) == {"search", "static_ensemble"}
    assert rows["static_ensemble"].figure == pytest.approx(1.05 * rows["search"].figure)


def test_a_fleet_without_an_interval_is_shown_and_not_pooled() -> None:
    alone = Scored(_real("one", 0.9).spec, CURRENT, "", _scores(0.9, 1, float("nan")))
    report = report_of([alone])
    assert [row.pooled for row in report.table_effects] == [False] * 3
    assert "table_pooled" not in report.flat()


def test_no_current_fleet_is_a_report_too() -> None:
    spec = _real("smd", 1.0).spec
    report = report_of(
        [Scored(spec, NO_SCORES, "materialise headline_scores of smd to include it")]
    )
    assert (report.n_fleets, report.n_current) == (1, 0)
    assert report.table_fleets[0].status == NO_SCORES
    assert "table_effects" not in report.flat()


def test_a_fleets_own_tiers_have_effects_of_their_own() -> None:
    scores = (
        _scores(0.9, 17)
        .filter(pl.col("tier") == "standard")
        .with_columns(pl.lit("gold").alias("tier"))
    )
    own = replace(_real("own", 0.9), scores=scores, tiers={"gold": 0.85})
    report = report_of([own, _real("smd", 0.7)])
    assert report.tiers == ["premium", "gold", "standard", "basic"]
    [gold] = [row for row in report.table_effects if row.tier == "gold"]
    assert (gold.fleet, gold.violation_rate_target) == ("own", 0.15)


@pytest.fixture
def many(mini_project: Project, tmp_path: Path) -> Project:
    """The miniature fleet beside one that was never run, one whose run is under way, one made by
    other code, and one without its file.
    """
    project = mini_project.copy_to(tmp_path / "many")
    for name in ("never", "writing", "stale"):
        project.add_fleet(name, kind="synthetic", tenants=16, days=14)
    project.add_fleet("gone", kind="table", path="gone.parquet", source="a file that was deleted")
    for name in ("writing", "stale", "gone"):
        folder = project.table_dir(name, "headline_scores")
        folder.mkdir(parents=True)
        (folder / "part-00000.parquet").write_bytes(
            project.parts(MINI, "headline_scores")[0].read_bytes()
        )
        if name != "writing":
            record = {
                "schema_version": SCHEMA_VERSION,
                "fingerprint": fingerprint("other code"),
                "parts": ["part-00000.parquet"],
            }
            (folder / "_table.json").write_text(json.dumps(record))
    return project


def test_what_other_fleets_lack_is_listed_and_stops_nothing(
    many: Project, mini_fleet: Fleet
) -> None:
    report = evidence_report(many.settings)
    status = {row.fleet: row.status for row in report.table_fleets}
    assert status == {
        MINI: CURRENT,
        "never": NO_SCORES,
        "writing": NO_SCORES,
        "stale": NOT_CURRENT,
        "gone": NOT_CURRENT,
    }
    assert report.not_current == ("gone", "stale")
    notes = {row.fleet: row.note for row in report.table_fleets}
    assert notes["stale"].startswith("re-materialise headline_scores of stale: ")
    assert "made by other code, settings or inputs" in notes["stale"]
    assert "gone.parquet" in notes["gone"]
    headline = read_report(mini_fleet, "headline_report")
    assert [row.fleet for row in report.table_effects] == [MINI] * 3
    for row in report.table_effects:
        assert row.ratio.figure == headline[f"{row.tier}_ratio"]


def test_a_fleet_that_another_run_holds_is_read_all_the_same(many: Project) -> None:
    with many.fleet(MINI).tables.lock("another-run"):
        assert evidence_report(many.settings).n_current == 1


def test_one_run_of_one_fleet_writes_the_evidence_of_all(many: Project) -> None:
    """`headline_scores` of one partition and the report without one, as `--select '*'` runs
    them (the shared fleet is made with that).
    """
    success, log = many.materialise_here(MINI, ["headline_scores", "evidence_report"])
    assert success, log[-3000:]
    folder = many.data_dir / "reports"
    report = json.loads(
        (folder / "evidence_report.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} in JSON"),
    )
    assert report["n_current"] == 1
    assert (folder / "evidence_report.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "evidence_report.md").read_text()
    assert page.startswith("# Does the search pay, and where not?")
    assert "scores are outdated: gone, stale. Re-materialise headline\\_scores." in page
    assert "the scores of fleet stale are not current" in log


def test_a_ratio_whose_interval_reaches_zero_is_shown_and_not_pooled() -> None:
    wide = _real("smd", 0.7)
    assert wide.scores is not None
    scores = wide.scores.with_columns(ratio_low=pl.lit(0.0))
    report = report_of([replace(wide, scores=scores), _real("asd", 0.9)])
    rows = {row.fleet: row for row in report.table_effects if row.tier == "standard"}
    assert {name: row.pooled for name, row in rows.items()} == {"smd": False, "asd": True}
    assert rows["smd"].ratio.low == 0.0
    assert _pooled(report)["real"].ratio.figure == 0.9
