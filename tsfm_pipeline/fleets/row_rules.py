"""The rules that every row of a table must obey, and what its cells say over all rows.

What belongs here: rules of single rows, units of one kind, words for missing. What does not: typing
the rows and wording errors (`fleets.table_rows`), reading one cell (`fleets.numbers`), the grid
(`fleets.table_step`).
"""

import re
from collections.abc import Sequence

import polars as pl

from tsfm_pipeline.fleets.numbers import NO_LIMIT, hint, is_missing, measured
from tsfm_pipeline.fleets.source import SHOWN
from tsfm_pipeline.fleets.table_rows import Rule, TableFiles
from tsfm_pipeline.fleets.times import ALLOWED_TIMES, BAD_YEARS


def row_rules(files: TableFiles) -> list[Rule]:
    """Return the rules for single rows, which do not depend on the grid."""
    spec = files.spec
    tenant, time = pl.col("tenant"), pl.col("time")
    raw_time = pl.col("raw time")
    rules = [
        Rule(
            ", ".join(spec.tenant_columns) or "name of the file",
            "empty tenant ids",
            tenant.is_null() | (tenant.str.len_bytes() == 0),
            "an id in every row",
        ),
        Rule(
            spec.time_name,
            "empty timestamps",
            raw_time.is_null(),
            "a timestamp in every row",
        ),
        *_unreadable_times(files),
        Rule(
            spec.time_name,
            "unreadable timestamps",
            raw_time.is_not_null() & time.is_null(),
            ALLOWED_TIMES,
        ),
    ]
    for metric in files.metrics:
        value, (lower, upper) = pl.col(f"metric:{metric}"), spec.bounds_of(metric)
        if metric in files.text_metrics or spec.missing:
            rules.append(number_rule(files, metric))
        allowed = "finite numbers up to 3.4e38, empty or NaN where missing"
        rules.append(Rule(metric, "infinite values", value.is_infinite(), allowed))
        rules.append(
            Rule(
                metric,
                "values at an end of the 64-bit integers, which usually mean 'no limit'",
                pl.any_horizontal(value == end for end in NO_LIMIT),
                "loads; where the value is missing, an empty cell",
                hint=hint,
            )
        )
        allowed = (
            "values within the bounds of the fleet file; correct lower, upper or bounds "
            "there, or the table"
        )
        if lower is not None:
            rules.append(Rule(metric, f"values below {lower:g}", value < lower, allowed))
        if upper is not None:
            rules.append(
                Rule(
                    metric,
                    f"values above {upper:g}",
                    value.is_not_nan() & (value > upper),
                    allowed,
                )
            )
    if spec.metric_column is not None:
        nameless = pl.col("metric name").is_null() | (pl.col("metric name").str.len_bytes() == 0)
        rules.append(
            Rule(spec.metric_column, "empty metric names", nameless, "a metric in every row")
        )
    if spec.tier_column is not None:
        unknown = pl.col("tier").is_null() | ~pl.col("tier").is_in(list(spec.tiers))
        rules.append(Rule(spec.tier_column, "unknown tiers", unknown, ", ".join(spec.tiers)))
    return rules


def _unreadable_times(files: TableFiles) -> list[Rule]:
    """Return the rules for times that no form reads and of which it is known why."""
    unread = pl.col("raw time").is_not_null() & pl.col("time").is_null()
    rules = [
        Rule(
            files.spec.time_name,
            what,
            unread & pl.col("raw time").cast(pl.String).str.contains(pattern),
            "four digits of the year, and the year first, like 2024-03-31",
        )
        for what, pattern in BAD_YEARS.items()
        if any(re.match(pattern, text) for text in files.times.unreadable)
    ]
    if files.times.mixes_zones:
        rules.append(
            Rule(
                files.spec.time_name,
                "timestamps without a time zone, among others that have one",
                pl.col("zoneless"),
                "an offset (or Z) in every row, or in none",
            )
        )
    return rules


def number_rule(files: TableFiles, metric: str) -> Rule:
    """Return the rule that a cell of a metric is a number, or says that it is missing."""
    raw, value = pl.col(f"cell:{metric}"), pl.col(f"metric:{metric}")
    text = metric in files.text_metrics
    unread = raw.is_not_null() & (value.is_null() | value.is_nan())
    return Rule(
        metric,
        "values that are not numbers",
        unread & value.is_null() & ~is_missing(raw, files.spec, text=text),
        "numbers, or empty where missing",
        screen=unread,
        hint=hint,
    )


def unit_rules(files: TableFiles) -> list[Rule]:
    """Return the rules that the units in a metric's cells measure the same (`units: parse`)."""
    if files.spec.units != "parse":
        return []
    rules = []
    for metric in files.text_metrics:
        what = measured(pl.col(f"cell:{metric}"), files.spec)
        counts = files.counted(what.is_not_null(), what)
        if len(counts) > 1:
            usual = next(iter(counts))
            names = ", ".join(f"{what or 'no unit'} ({n} rows)" for what, n in counts.items())
            rules.append(
                Rule(
                    metric,
                    f"values that measure something else than the rest: {names}",
                    what != usual,
                    "units of one kind in one column, at every value but zero",
                )
            )
    return rules


def words_for_missing(files: TableFiles, suspects: Sequence[Rule]) -> tuple[str, ...]:
    """Return a note per metric whose cells say that a value is missing; `suspects` are the rules
    whose screen was true of a row (`TableFiles.check`). Empty cells are not counted.
    """
    notes = []
    for rule in suspects:
        words = files.counted(pl.lit(True) if rule.screen is None else rule.screen, _cell(rule))
        named = [f"{word!r} ({n})" for word, n in list(words.items())[:SHOWN]]
        more = f" and {len(words) - SHOWN} other words" if len(words) > SHOWN else ""
        notes.append(
            f"column {rule.column!r}: {sum(words.values())} cells are read as missing: "
            f"{', '.join(named)}{more}"
        )
    return tuple(notes)


def cells_breaking(files: TableFiles, rule: Rule) -> dict[str, int]:
    """Return the different cells of a metric that break its rule, with their numbers."""
    return files.counted(rule.bad, _cell(rule))


def _cell(rule: Rule) -> pl.Expr:
    return pl.col(f"cell:{rule.column}").cast(pl.String).str.strip_chars()
