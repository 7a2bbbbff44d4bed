"""The study's report in tables.

What belongs here: tables about the experiments. What does not: sentences (`words`), figures
(`figures`), how they are computed (`numbers`, `importance`), the page (`page`).
"""

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    NO_FIGURE,
    count,
    milliseconds,
    number,
    percent_interval,
    ratio_interval,
    ratio_texts,
    whole,
)
from tsfm_pipeline.studies.policy_search.policy import DEFAULT
from tsfm_pipeline.studies.policy_search.report.model import (
    ExperimentRow,
    LookRow,
    PolicySearchReport,
)

LAST_KEPT = 20
LAST_EXPERIMENTS = 200
"""Lines of the ledger that the page shows; results.tsv has all of them."""
LONGEST_VALUE = 60


def front(report: PolicySearchReport) -> Table:
    """Return the policies of the front, lowest loss first."""
    cells = tuple(
        (
            row.policy,
            _ratio(row.objective),
            milliseconds(row.p95_ms),
            whole(row.tokens),
            whole(row.number),
            row.end,
            row.description or NO_FIGURE,
        )
        for row in report.front
    )
    columns = (
        "policy",
        "loss : default",
        "p95, predicted",
        "tokens",
        "experiment",
        "end",
        "description",
    )
    return Table("Policies on the front", columns, cells, frozenset({0, 5, 6}))


def kept(report: PolicySearchReport) -> Table:
    """Return the last kept policies, newest first."""
    rows = [row for row in report.table_experiments if row.end == "keep"]
    return _experiments("Kept policies, newest first", rows[::-1][:LAST_KEPT])


def ledger(report: PolicySearchReport) -> Table:
    """Return the last lines of the ledger, newest first."""
    rows = report.table_experiments[::-1][:LAST_EXPERIMENTS]
    return _experiments(f"The last {count(len(rows), 'experiment')}, newest first", rows)


def failures(report: PolicySearchReport) -> Table:
    """Return the experiments that crashed or timed out, newest first."""
    rows = [row for row in report.table_experiments if row.end in ("crash", "timeout")]
    return _experiments("Crashes and timeouts, newest first", rows[::-1][:LAST_EXPERIMENTS])


def _experiments(caption: str, rows: Sequence[ExperimentRow]) -> Table:
    cells = tuple(
        (
            whole(row.number),
            _time(row.time),
            row.driver,
            row.end,
            _ratio(row.objective),
            milliseconds(row.p95_ms),
            number(row.seconds),
            whole(row.n_changes),
            row.description or NO_FIGURE,
        )
        for row in rows
    )
    columns = (
        "number",
        "UTC",
        "driver",
        "end",
        "loss : default",
        "p95",
        "seconds",
        "fields changed",
        "description",
    )
    return Table(caption, columns, cells, frozenset({2, 3, 8}))


def policy(report: PolicySearchReport) -> Table:
    """Return the last kept policy, field by field, beside the default."""
    default = DEFAULT.model_dump(mode="json")
    cells = tuple(
        (name, *_beside(default.get(name), value))
        for name, value in json.loads(report.incumbent_changes).items()
    )
    caption = f"What the last kept policy changes ({report.incumbent})"
    return Table(caption, ("field", "default", "value"), cells, frozenset({0, 1, 2}))


def fields(report: PolicySearchReport) -> Table:
    """Return what became of the experiments that moved each field."""
    cells = tuple(
        (
            row.field,
            whole(row.n_tried),
            whole(row.n_values),
            whole(row.n_finished),
            whole(row.n_kept),
            whole(row.n_failed),
            _ratio(row.median_ratio),
            _ratio(row.best_ratio),
            _short(_value(json.loads(row.best_value))) if row.best_value else NO_FIGURE,
        )
        for row in report.table_fields
    )
    columns = (
        "field",
        "moved",
        "values",
        "finished",
        "kept",
        "failed",
        "median loss : parent",
        "best",
        "value in the best",
    )
    return Table(
        "Experiments that moved a field away from its value in their parent",
        columns,
        cells,
        frozenset({0, 8}),
    )


def importance(report: PolicySearchReport) -> Table:
    """Return the importance of every field that differs between experiments."""
    tried = {row.field: row.n_tried for row in report.table_fields}
    cells = tuple(
        (row.field, interval_text(row.importance), whole(tried.get(row.field)))
        for row in report.table_importance
    )
    columns = ("field", "drop of R2 (95 % of the draws)", "moved")
    return Table("Importance of the fields", columns, cells)


def gains(report: PolicySearchReport) -> Table:
    """Return the gain of each compared policy on choosing folds, confirming folds and test
    requests.
    """
    cells = tuple(
        (
            whole(row.promotion),
            row.challenger,
            row.fleet,
            percent_interval(*row.choosing),
            percent_interval(*row.confirming),
            percent_interval(*row.test),
            "promoted" if row.promoted else "refused",
        )
        for row in report.table_gains
    )
    columns = (
        "comparison",
        "policy",
        "fleet",
        "gain, choosing folds (95 %)",
        "confirming folds (corrected)",
        "test requests (95 %)",
        "verdict",
    )
    emphasised = frozenset(i for i, row in enumerate(report.table_gains) if row.promoted)
    return Table("Gain over the policy before", columns, cells, frozenset({1, 2, 6}), emphasised)


def fixed(report: PolicySearchReport) -> Table:
    """Return what the search gains over the fixed configuration, by tier and by archetype."""
    cells = tuple(
        (
            " ".join((row.fleet, row.group)).strip(),
            row.tier,
            whole(row.n_tenants),
            percent_interval(*row.default),
            percent_interval(*row.incumbent),
        )
        for row in report.table_fixed
    )
    columns = ("fleet", "tier", "tenants", "gain, default policy", "gain, last kept policy")
    unshown = frozenset(i for i, row in enumerate(report.table_fixed) if not row.incumbent.low > 0)
    caption = "Gain over the fixed configuration (95 % interval); bold: not shown to be above 0"
    return Table(caption, columns, cells, frozenset({0, 1}), unshown)


def promotions(report: PolicySearchReport) -> Table:
    """Return every comparison on the confirming folds with all of its reasons, newest first."""
    rows = report.table_promotions[::-1]
    cells = tuple(
        (
            whole(row.number),
            row.challenger,
            "promoted" if row.promoted else "refused",
            whole(row.n_experiments),
            "; ".join(row.reasons),
        )
        for row in rows
    )
    columns = ("comparison", "policy", "verdict", "after experiments", "reasons")
    emphasised = frozenset(i for i, row in enumerate(rows) if row.promoted)
    return Table("Comparisons, newest first", columns, cells, frozenset({1, 2, 4}), emphasised)


def looks(report: PolicySearchReport) -> Table:
    """Return the looks at test requests, over all tenants of a fleet."""
    return _looks("Looks at test requests", [row for row in report.table_looks if not row.group])


def looks_by_group(report: PolicySearchReport) -> Table:
    """Return the looks at test requests by archetype."""
    rows = [row for row in report.table_looks if row.group]
    return _looks("Looks at test requests, by archetype", rows)


def _looks(caption: str, rows: Sequence[LookRow]) -> Table:
    cells = tuple(
        (
            whole(row.promotion) if row.promotion else "earlier",
            _time(row.time),
            row.challenger,
            " ".join((row.fleet, row.group)).strip(),
            row.tier,
            ratio_interval(*row.ratio),
            whole(row.n_tenants),
            whole(row.n_requests),
        )
        for row in rows
    )
    columns = (
        "comparison",
        "UTC",
        "policy",
        "fleet",
        "tier",
        "new : old (95 % interval)",
        "tenants",
        "requests",
    )
    return Table(caption, columns, cells, frozenset({2, 3, 4}))


def yardstick(report: PolicySearchReport) -> Table:
    """Return what no experiment may change."""
    rows = (
        ("yardstick", report.yardstick),
        ("fleets", names_text(report.fleets)),
        ("folds of tuning tenants", whole(report.n_folds)),
        ("choosing folds", names_text(tuple(map(str, report.choosing_folds)))),
        ("confirming folds", names_text(tuple(map(str, report.confirming_folds)))),
        ("latency budget", milliseconds(report.budget_ms)),
        ("first line, UTC", _time(report.first_time)),
        ("last line, UTC", _time(report.last_time)),
    )
    return Table("What no experiment may change", ("", "value"), rows, frozenset({0, 1}))


def interval_text(estimate: Estimate) -> str:
    """Return a figure between -1 and 1 with its interval."""
    value, low, high = estimate
    if not all(math.isfinite(each) for each in estimate):
        return NO_FIGURE
    return f"{value:.3f} ({low:.3f} to {high:.3f})".replace("-", "−")


def names_text(names: Sequence[str]) -> str:
    """Return names separated by commas."""
    return ", ".join(names) or NO_FIGURE


def _beside(default: Any, value: Any) -> tuple[str, str]:
    """Return the default and another value as text; of names, only those that differ."""
    if not (_are_names(default) and _are_names(value)):
        return _value(default), _value(value)
    lost = [name for name in default if name not in value]
    gained = [name for name in value if name not in default]
    parts = [("without", lost), ("with", gained)]
    text = "; ".join(f"{word} {', '.join(names)}" for word, names in parts if names)
    return count(len(default), "name"), f"{count(len(value), 'name')}: {text or 'another order'}"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _value(value: Any) -> str:
    """Return a value of a policy file for people: 0.5, "none", "1, 7", "spread -0.75"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if value in ("Infinity", math.inf):
        return "infinity"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _ratio(value: float) -> str:
    return ratio_texts(value)[0]


def _time(value: datetime | None) -> str:
    return f"{value:%Y-%m-%d %H:%M}" if value else NO_FIGURE
