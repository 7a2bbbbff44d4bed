"""The explanation of one tenant's recommendations in words and tables.

What belongs here: its sentences and tables, the same for terminal and page. What does not: the
figures themselves (`numbers`), markup.
"""

import math

from tsfm_pipeline.evaluation.methods import RULE_PREFIX
from tsfm_pipeline.reports.explain.model import ReservationRow, TenantExplanation, WeightRow
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    duration,
    method_label,
    number,
    percent,
    tier_label,
    whole,
)

BASES = {
    "full": "the configurations were validated on its own past",
    "shortened": "its own past is short or has gaps: only some configurations could be validated, "
    "or on fewer origins",
    "cold": "nothing of its own past could be validated: the experience of other tenants decides",
}


def answer(explanation: TenantExplanation) -> str:
    """Say what to reserve at the tenant's own tier, and on what basis."""
    made = [row for row in explanation.own if not math.isnan(row.reservation)]
    block = (
        f"{explanation.block_start} to {explanation.block_end} UTC "
        f"({duration(explanation.block_minutes)})"
    )
    who = f"{explanation.tenant_id}, {tier_label(explanation.tier, explanation.alpha)}"
    if not made:
        return f"{who}: there is no recommendation for {block}."
    basis = f"Basis: {explanation.basis}; {BASES[explanation.basis]}."
    values = ", ".join(f"{row.metric} {number(row.reservation)}" for row in made)
    return f"{who}: reserve {values} for every step of {block}. {basis}"


def points(explanation: TenantExplanation) -> list[tuple[str, str]]:
    """Return the reasons in short, a word and a sentence each."""
    own = explanation.own
    reasons = [
        (
            "Weights",
            ("; ".join(_chosen(row) for row in own if row.config) or "None")
            + f". Rule: {_rule(explanation.rule)}.",
        )
    ]
    if explanation.table_neighbours:
        nearest, *others = explanation.table_neighbours
        alike = f"{nearest.tenant_id} (similarity {nearest.similarity:.2f})"
        if others:
            alike += f" and {count(len(others), 'more tuning tenant')}"
        if explanation.archetype:
            alike += f"; by their votes it is of archetype {explanation.archetype}"
        reasons.append(("Look-alikes", f"{alike}."))
    shifted = [row for row in explanation.table_corrections if abs(row.shift) > 0]
    if shifted:
        moved = ", ".join(f"{row.metric} {_signed(row.shift)}" for row in shifted)
        reasons.append(("Level", f"Moved after past misses, in units of q.9 - q.5: {moved}."))
    if explanation.table_backtest:
        reasons.append(("Backtest", _backtest_sentence(explanation)))
    notes = sorted({row.note for row in own if row.note})
    return reasons + [("Note", f"{note}.") for note in notes]


def reservations(explanation: TenantExplanation) -> Table:
    """Return what to reserve per metric and tier, beside what rivals would reserve."""
    rows = explanation.table_reservations
    cells = tuple(
        (
            row.metric,
            row.tier,
            number(row.reservation),
            number(row.reservation_max),
            number(row.reservation_median),
            number(row.reservation_fixed),
            number(row.reservation_last_block),
            percent(row.expected_violation_rate),
            NO_FIGURE if math.isnan(row.reservation) else row.basis,
        )
        for row in rows
    )
    columns = (
        *("metric", "tier", "every step", "maximum", "median"),
        *("fixed configuration", "last block", "expected above", "basis"),
    )
    shown = frozenset(i for i, row in enumerate(rows) if row.own_tier)
    caption = f"{explanation.tenant_id}: what to reserve from {explanation.block_start} UTC"
    return Table(caption, columns, cells, frozenset({0, 1, 8}), shown)


def weights(explanation: TenantExplanation) -> Table:
    """Return the configurations with weight, and the fixed one, with their evidence in short."""
    cells = tuple(
        (
            row.metric,
            _config(row),
            percent(row.weight),
            number(row.posterior),
            number(row.mean_validation_loss),
            whole(row.n_validation_origins),
        )
        for row in explanation.table_weights
    )
    if explanation.scored_role == "tuning":
        caption = f"Configurations at its latest request, a tuning one, {_scored(explanation)}"
    else:
        caption = f"Weights at its latest scored request, {_scored(explanation)}"
    columns = (
        *("metric", "configuration", "weight", "relative loss"),
        *("mean loss", "validation origins"),
    )
    return Table(caption, columns, cells, frozenset({0, 1}))


def validation(explanation: TenantExplanation) -> Table:
    """Return what these configurations would have lost at each validation origin that has any
    evidence.
    """
    known = {
        (row.metric, row.config, row.offset_steps): row.loss
        for row in explanation.table_validation
        if not math.isnan(row.loss)
    }
    minutes = {row.offset_steps: row.offset_minutes for row in explanation.table_validation}
    offsets = sorted({offset for _, _, offset in known})
    cells = tuple(
        (
            row.metric,
            _config(row),
            *(number(known.get((row.metric, row.config, offset))) for offset in offsets),
        )
        for row in explanation.table_weights
        if offsets
    )
    return Table(
        f"Their losses at earlier origins, by how long before {_scored(explanation)}",
        ("metric", "configuration", *(_span(minutes[offset]) for offset in offsets)),
        cells,
        frozenset({0, 1}),
    )


def corrections(explanation: TenantExplanation) -> Table:
    """Return the corrections of the level, and the calibration of the constants."""
    cells = tuple(
        (
            row.metric,
            _signed(row.shift),
            percent(row.violation_rate),
            percent(row.violation_rate_target),
            number(row.peak_factor),
            whole(row.n_blocks),
        )
        for row in explanation.table_corrections
    )
    columns = (
        *("metric", "level shift", "above on tuning tenants", "target"),
        *("allowances for the maximum", "blocks"),
    )
    return Table("Corrections of the level and of the maximum", columns, cells)


def neighbours(explanation: TenantExplanation) -> Table:
    """Return the tuning tenants that the tenant was compared with."""
    cells = tuple(
        (row.tenant_id, row.archetype or NO_FIGURE, f"{row.similarity:.3f}")
        for row in explanation.table_neighbours
    )
    return Table(
        "Who it was compared with: tuning tenants, by their latest telemetry",
        ("tenant", "archetype", "similarity"),
        cells,
        frozenset({0, 1}),
    )


def backtest(explanation: TenantExplanation) -> Table:
    """Return what such constants would have cost at the tenant's own test requests."""
    cells = tuple(
        (
            row.metric,
            whole(row.n_requests),
            number(row.ratio_fixed),
            number(row.ratio_last_block),
            percent(row.violation_rate),
            percent(row.violation_rate_target),
            percent(row.covered),
        )
        for row in explanation.table_backtest
    )
    columns = (
        *("metric", "requests", "cost ratio to fixed", "to last block"),
        *("steps above", "target", "maximum held"),
    )
    return Table(f"Its own backtest, {explanation.tier} tier", columns, cells)


def misses(explanation: TenantExplanation) -> Table:
    """Return the latest test requests in which the load exceeded the reservation."""
    cells = tuple(
        (
            row.metric,
            f"{row.block_start} to {row.block_end[-5:]}",
            number(row.reservation),
            number(row.highest),
            number(row.highest - row.reservation),
            f"{row.n_above} of {row.n_observed}",
            _span(row.minutes_above),
        )
        for row in explanation.table_misses
    )
    columns = (
        *("metric", "block, UTC", "reserved", "highest load"),
        *("at most above by", "steps above", "for"),
    )
    return Table("Last misses", columns, cells, frozenset({0, 1}))


TABLES = (reservations, weights, validation, corrections, neighbours, backtest, misses)


def _chosen(row: ReservationRow) -> str:
    text = f"{row.metric} mostly {row.config} ({percent(row.config_weight)}"
    if not math.isnan(row.relative_validation_loss):
        text += f", loss {number(row.relative_validation_loss)} of the fixed configuration's"
    return f"{text}, {count(row.n_validation_origins, 'validation origin')})"


def _rule(name: str) -> str:
    return method_label(f"{RULE_PREFIX}{name}")


def _backtest_sentence(explanation: TenantExplanation) -> str:
    rows = explanation.table_backtest
    ratios = ", ".join(f"{row.metric} {number(row.ratio_fixed)}" for row in rows)
    text = (
        f"Cost of such constants at its {count(rows[0].n_requests, 'test request')}, relative to "
        f"the fixed configuration's: {ratios}."
    )
    if not explanation.table_misses:
        return f"{text} The load never exceeded them."
    latest = explanation.table_misses[0]
    return (
        f"{text} The load last exceeded one in the block from {latest.block_start} UTC: "
        f"{latest.metric}, by up to {number(latest.highest - latest.reservation)} for "
        f"{_span(latest.minutes_above)}."
    )


def _config(row: WeightRow) -> str:
    return f"{row.config} (fixed)" if row.is_fixed else row.config


def _scored(explanation: TenantExplanation) -> str:
    return f"{explanation.scored_request} UTC" if explanation.scored_request else NO_FIGURE


def _span(minutes: float) -> str:
    """Return minutes in the largest unit that divides them, in short: "2 h", "7 d"."""
    for unit, length in (("d", 1440), ("h", 60)):
        if minutes >= length and minutes % length == 0:
            return f"{minutes / length:g} {unit}"
    return f"{minutes:g} min"


def _signed(value: float) -> str:
    if math.isnan(value):
        return NO_FIGURE
    return f"+{number(value)}" if value > 0 else number(value)
