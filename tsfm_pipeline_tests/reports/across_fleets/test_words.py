"""Test that the evidence report says where the search pays, where it does not, what follows, and
what is left out.
"""

from tsfm_pipeline.reports.across_fleets.figures import forest_figure
from tsfm_pipeline.reports.across_fleets.model import EvidenceReport
from tsfm_pipeline.reports.across_fleets.words import evidence_answer, evidence_markdown
from tsfm_pipeline.reports.shared.style import to_png, to_svg
from tsfm_pipeline_tests.reports.ablation import factory
from tsfm_pipeline_tests.reports.factory import changed


def test_gains_and_failures_are_named_with_their_intervals():
    answer = evidence_answer(factory.evidence())
    assert answer.effect == "gain"
    assert "on 4 of 5 fleets: smd 0.750 (0.720 to 0.780), " in answer.sentence
    assert "No effect is shown on asd 1.010 (0.980 to 1.040)." in answer.sentence
    assert "does not demonstrably pay on asd (premium, standard, basic)." in answer.sentence


def test_the_pooled_effect_says_over_what_and_the_spread_over_which_seeds():
    sentence = evidence_answer(factory.evidence()).sentence
    assert "0.870 (0.470 to 1.270) over 2 real fleets" in sentence
    assert "0.880 (0.780 to 0.980) over the 2 real fleets and the synthetic one" in sentence
    assert "which few fleets do not support, 0.800 to 0.950" in sentence
    assert "Over 2 seeds of the synthetic fleet it lies between 0.900 and 0.920." in sentence


def test_what_is_not_current_is_said_with_what_to_do():
    assert evidence_answer(factory.evidence()).sentence.endswith(
        "Left out because their scores are outdated: nab. Re-materialise headline_scores."
    )


def test_one_fleet_alone_is_not_pooled():
    whole = factory.evidence().flat()
    report = changed(
        factory.evidence(),
        table_effects=[row for row in whole["table_effects"] if row["fleet"] == "asd"],
        table_pooled=[
            row | {"n_fleets": 1} for row in whole["table_pooled"] if row["group"] == "real"
        ],
    )
    answer = evidence_answer(report)
    assert answer.effect == "null"
    assert "on none of 1 fleet." in answer.sentence
    assert "Pooled" not in answer.sentence
    assert "**Pooled effects**" not in evidence_markdown(report)


def test_the_page_holds_sentence_figure_method_and_tables():
    page = evidence_markdown(factory.evidence(), "evidence_report.png")
    assert "](evidence_report.png)" in page
    assert "DerSimonian and Laird" in page
    assert "| no: its tenants are in synthetic |" in page
    for caption in (
        "The search on every fleet",
        "Pooled effects",
        "Spread over fleet seeds",
        "All methods pooled, standard tier",
        "Fleets",
    ):
        assert f"**{caption}**" in page


def test_no_scores_at_all_make_a_page_and_a_figure_too():
    empty = EvidenceReport(n_fleets=1, n_current=0, not_current=("smd",), pools={}, table_fleets=())
    assert (
        "No fleet has current scores at the standard tier. Left out because their scores are outdated: smd."
        in evidence_answer(empty).sentence
    )
    assert to_png(forest_figure(empty), dpi=40).startswith(b"\x89PNG")


def test_the_forest_plot_has_a_row_per_fleet_and_tier_and_marks_what_is_not_pooled():
    svg = to_svg(forest_figure(factory.evidence()))
    for label in (
        "asd",
        "smd",
        "demo *",
        "synthetic-seed-2",
        "real fleets, pooled",
        "synthetic fleets, pooled",
        "all fleets, pooled",
    ):
        assert f">{label}<" in svg
    assert svg.count(">standard<") == 5 + 3
    assert "0.750 (0.720 to 0.780)" in svg
