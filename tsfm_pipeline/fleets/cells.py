"""What the cells of a table say, over all rows: units of one kind, words for missing.

What belongs here: facts about the cells of one metric that need all rows. What does not: reading
one cell (`fleets.numbers`), rules of single rows (`fleets.table_rows`).
"""

from collections.abc import Sequence

import polars as pl

from tsfm_pipeline.fleets.numbers import measured
from tsfm_pipeline.fleets.source import SHOWN
from tsfm_pipeline.fleets.table_rows import Rule, TableFiles


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
