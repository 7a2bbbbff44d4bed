"""Test that the ablation report says what each step adds, and names every rival that the search
does not beat.
"""

import pytest

from tsfm_pipeline.reports.ablation import figures as ablation_figures
from tsfm_pipeline.reports.ablation import tables as ablation_tables
from tsfm_pipeline.reports.ablation import words as ablation
from tsfm_pipeline.reports.shared.style import to_png
from tsfm_pipeline_tests.reports.ablation import factory
from tsfm_pipeline_tests.reports.factory import changed, without_rows

FIGURES = (
    "steps_figure",
    "rivals_figure",
    "groups_figure",
    "selection_figure",
    "controls_figure",
    "floor_figure",
)


def test_steps_are_told_apart_by_their_own_interval():
    sentence = ablation.steps_answer(factory.ablation()).sentence
    lowered, rest = sentence.split("lower the cost: ")[1].split("; no effect is shown for: ")
    assert [step.split(" 0")[0] for step in lowered.split("), ")] == [
        "choose per request",
        "average (the default rule)",
        "correct the level",
    ]
    assert rest.startswith("shrink toward other tenants 0.995")
    assert "the search 0.940 (0.920 to 0.960) times" in sentence


def test_a_rival_that_is_cheaper_is_named():
    answer = ablation.rivals_answer(factory.ablation())
    assert answer.effect == "loss"
    assert "It loses to one configuration per tenant 1.044 (1.024 to 1.064)." in answer.sentence
    assert (
        "It does not demonstrably beat static ensemble 0.995 (0.975 to 1.015)." in answer.sentence
    )
    assert answer.sentence.endswith("So the search is not shown to beat all of them.")
    assert (
        "At matched compute (the same K forecasts) its ratio is static ensemble 0.995"
        in answer.sentence
    )
    assert "average by validation loss" not in answer.sentence, (
        "the search's own rules are no rivals"
    )


def test_every_rival_may_be_beaten():
    whole = factory.ablation()
    report = changed(
        whole, table_rivals=[row.flat() for row in whole.table_rivals if row.beaten == "yes"]
    )
    answer = ablation.rivals_answer(report)
    assert answer.effect == "gain"
    assert answer.sentence.endswith("So the search is shown to beat all of them.")


def test_groups_that_are_worse_off_are_named_with_their_interval():
    report = factory.ablation()
    harm = ablation.harm_answer(report)
    assert harm.effect == "loss"
    assert harm.sentence.count("idle-ish at ") == 3
    assert "idle-ish at standard 1.050 (1.030 to 1.070)" in harm.sentence
    assert ablation_tables.step_groups(report).emphasised
    spared = changed(
        report, table_steps=[row.flat() | {"harmed": False} for row in report.table_steps]
    )
    assert ablation.harm_answer(spared).sentence.startswith("No archetype is made worse")


def test_a_dimension_without_an_effect_is_named_as_such():
    sentence = ablation.dimensions_answer(factory.ablation()).sentence
    assert "resolution earns its place 0.900" in sentence
    assert "transform no effect shown 1.000 (0.980 to 1.020)" in sentence


def test_no_share_is_claimed_of_a_headroom_that_is_not_there():
    report = changed(
        factory.ablation(), standard_headroom_cross_fitted=-0.01, standard_headroom_captured=None
    )
    answer = ablation.headroom_answer(report)
    assert answer.effect == "null"
    assert "captures" not in answer.sentence


def test_no_share_is_claimed_of_a_headroom_that_is_hardly_there():
    report = changed(
        factory.ablation(), standard_headroom_captured=21.8, standard_headroom_captured_low=None
    )
    assert "too little to say" in ablation.headroom_answer(report).sentence


def test_only_fleets_whose_truth_is_known_have_a_floor():
    assert (
        "1.128 (1.108 to 1.148) times the irreducible loss"
        in ablation.floor_answer(factory.ablation()).sentence
    )
    assert ablation.floor_answer(factory.ablation(floor=False)).sentence == ""
    assert not ablation_tables.floor(factory.ablation(floor=False)).rows


@pytest.mark.heavy
@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_from_a_whole_a_partial_and_an_empty_report(name):
    draw = getattr(ablation_figures, name)
    whole, without_floor, empty = (
        to_png(draw(report), dpi=40)
        for report in (
            factory.ablation(),
            factory.ablation(floor=False),
            without_rows(factory.ablation()),
        )
    )
    assert len(whole) > len(empty) > 500
    assert (whole != without_floor) == (name == "floor_figure")


def test_known_events_are_worth_what_they_changed_and_unsaid_without_any() -> None:
    report = factory.ablation()
    answer = ablation.events_answer(report)
    assert answer.effect == "gain"
    assert answer.sentence.startswith("36 requests (12.5 %) had evidence from another kind of time")
    assert "by 2 known events; leaving it out cost 0.930 (0.910 to 0.950) times" in answer.sentence
    assert answer.sentence in ablation.ablation_answer(report).sentence
    assert ablation_tables.events(report).rows
    without = changed(report, table_events=[])
    assert ablation.events_answer(without).sentence == ""
