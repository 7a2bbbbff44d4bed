import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from tsfm_pipeline.reports.ablation import figures as ablation_figures
from tsfm_pipeline.reports.across_fleets.figures import forest_figure
from tsfm_pipeline.reports.cold_start.figures import cold_start_figure, retrieval_figure
from tsfm_pipeline.reports.headline.figures import archetype_figure, headline_figure
from tsfm_pipeline.reports.latency.figures import latency_figure
from tsfm_pipeline.reports.page.gallery import gallery_caption, gallery_figure
from tsfm_pipeline.reports.quality.figures import quality_figure
from tsfm_pipeline.reports.recommendations.figures import recommendation_figure
from tsfm_pipeline.reports.shared.model import Figures
from tsfm_pipeline.reports.shared.style import (
    FIXED_COLOUR,
    FIXED_TEXT_COLOUR,
    INK_COLOUR,
    MUTED_COLOUR,
    OTHER_TIERS,
    SEARCH_COLOUR,
    TIER_COLOURS,
    tier_styles,
    to_png,
    to_svg,
)
from tsfm_pipeline.reports.sla.figures import sla_figure
from tsfm_pipeline_tests.reports import factory
from tsfm_pipeline_tests.reports.ablation.factory import evidence

pytestmark = pytest.mark.heavy
FIGURES = [
    (headline_figure, factory.headline),
    (archetype_figure, factory.headline),
    (latency_figure, factory.latency),
    (cold_start_figure, factory.cold_start),
    (retrieval_figure, factory.cold_start),
    (sla_figure, factory.sla),
    (quality_figure, factory.quality),
    (recommendation_figure, factory.recommendations),
    (ablation_figures.steps_figure, factory.ablation),
    (ablation_figures.rivals_figure, factory.ablation),
    (ablation_figures.groups_figure, factory.ablation),
    (ablation_figures.selection_figure, factory.ablation),
    (ablation_figures.controls_figure, factory.ablation),
    (ablation_figures.floor_figure, factory.ablation),
    (forest_figure, evidence),
    (gallery_figure, factory.gallery_record),
]
IDS = [draw.__name__ for draw, _ in FIGURES]


def texts(figure) -> str:
    return " ".join(ElementTree.fromstring(to_svg(figure)).itertext())


def without_figures(
    value,
    names=("ratio", "p50", "p95", "p99", "rate", "low", "high", "accuracy", "decision", "loss"),
):
    """The report with every such figure null."""
    if isinstance(value, Figures):
        return type(value).from_flat(without_figures(value.flat(), names))
    if isinstance(value, dict):
        return {
            k: None if _is_figure(v) and any(n in k for n in names) else without_figures(v, names)
            for k, v in value.items()
        }
    return [without_figures(item, names) for item in value] if isinstance(value, list) else value


def _is_figure(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize(("draw", "make"), FIGURES, ids=IDS)
def test_equal_reports_give_identical_bytes(draw, make):
    assert to_svg(draw(make())) == to_svg(draw(make()))
    assert to_png(draw(make()), dpi=50) == to_png(draw(make()), dpi=50)


@pytest.mark.parametrize(("draw", "make"), FIGURES, ids=IDS)
def test_an_svg_is_labelled_and_holds_no_date_address_or_unscoped_id(draw, make):
    svg = to_svg(draw(make()))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert len(root.get("aria-label")) > 10
    assert "://" not in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(set(ids)) == len(ids)
    assert {*re.findall(r'(?:url\(|href=")#([^")]+)', svg)} == set(ids)


@pytest.mark.parametrize(("draw", "make"), FIGURES[:-1], ids=IDS[:-1])
def test_null_figures_and_missing_tables_are_drawn_without_error(draw, make):
    report = make()
    assert "<svg" in to_svg(draw(without_figures(report)))
    assert "<svg" in to_svg(draw(factory.without_rows(report)))


def test_the_users_own_matplotlib_settings_neither_change_a_figure_nor_are_changed():
    before = to_svg(sla_figure(factory.sla()))
    with matplotlib.rc_context({"font.size": 20, "svg.fonttype": "path"}):
        assert to_svg(sla_figure(factory.sla())) == before
        assert matplotlib.rcParams["font.size"] == 20


def test_a_png_is_written_where_a_path_is_given(tmp_path):
    content = to_png(sla_figure(factory.sla()), tmp_path / "sla.png", dpi=50)
    assert content.startswith(b"\x89PNG")
    assert (tmp_path / "sla.png").read_bytes() == content


def test_methods_are_sorted_by_the_standard_tiers_ratio():
    labels = [
        tick.get_text() for tick in headline_figure(factory.headline()).axes[0].get_yticklabels()
    ]
    assert labels[0] == "search, per request"
    assert labels[-1].startswith("percentile")
    assert labels.index("static ensemble") < labels.index("fixed configuration (the one to beat)")


def test_a_ratio_off_the_scale_is_named():
    assert "2.40" in texts(headline_figure(factory.headline()))


def test_the_searchs_own_rules_are_no_rivals_in_the_headline():
    shown = texts(headline_figure(factory.headline()))
    assert "average by validation loss" not in shown
    assert "one configuration per tenant" in shown


def test_text_in_figures_can_be_read_on_white():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(colour):
        return 1.05 / (luminance(colour) + 0.05)

    assert min(map(contrast, (INK_COLOUR, MUTED_COLOUR, SEARCH_COLOUR, FIXED_TEXT_COLOUR))) >= 4.5
    assert (
        min(
            map(
                contrast,
                (FIXED_COLOUR, *TIER_COLOURS.values(), *(colour for colour, _ in OTHER_TIERS)),
            )
        )
        >= 3.0
    )


def test_a_fleet_without_archetypes_is_shown_per_metric():
    shown = texts(archetype_figure(factory.headline(archetypes=())))
    assert "cpu_util" in shown
    assert "b2b-saas" not in shown


def test_names_are_shown_as_they_are_and_not_read_as_mathematics():
    report = factory.headline(archetypes=("$x^$ <b>", "a" * 90))
    shown = texts(archetype_figure(report))
    assert "$x^$ <b>" in shown
    assert "a" * 39 + "…" in shown
    assert "a" * 41 not in shown


def test_a_gallery_record_from_json_is_the_same_figure():
    record = factory.gallery_record()
    as_json = record | {"times": [time.isoformat() for time in record["times"]]}
    assert to_svg(gallery_figure(as_json)) == to_svg(gallery_figure(record))


def test_a_gallery_caption_says_when_how_often_it_fell_short_and_what_it_cost():
    record = factory.gallery_record()
    record["actual"] = [1.0] * 15 + [None] * 10 + [0.0] * 35
    assert gallery_caption(record) == (
        "median tenant",
        "tenant-0007, cpu_util, standard tier · after 2024-01-16 03:29 · short in 30.0 % of the "
        "steps, fixed 30.0 % · "
        "scaled cost 1.21, fixed 1.34",
    )


def test_missing_observations_are_gaps_in_the_gallery():
    record = factory.gallery_record()
    record["actual"] = [None] * 30 + record["actual"][30:]
    record["history"] = [float("nan")] * 1440
    axes = gallery_figure(record).axes[1]
    assert np.isnan(axes.lines[0].get_ydata()[:30]).all()


@pytest.mark.parametrize(
    ("key", "words"), [("decision_fixed", "same horizon"), ("times", "times for 1440 steps")]
)
def test_a_gallery_record_whose_lengths_differ_is_refused(key, words):
    record = factory.gallery_record()
    record[key] = record[key][:-1]
    with pytest.raises(ValueError, match=f"tenant-0007.*{words}"):
        gallery_figure(record)


def test_a_fleets_own_tiers_can_be_told_apart():
    styles = tier_styles(["gold", "standard", "iron"])
    assert list(styles) == ["gold", "standard", "iron"]
    assert len(set(styles.values())) == 3
    shown = texts(headline_figure(factory.headline(alphas={"gold": 0.95, "iron": 0.5})))
    assert "gold (19 : 1)" in shown
    assert "iron (1 : 1)" in shown
