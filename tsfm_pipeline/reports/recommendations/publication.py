"""Publication: the recommendations as files for people and programs, and the dated copies that
later runs review.

What belongs here: `recommendations.parquet`, `.csv` and `.vpa.json` below the fleet's reports,
prices, and the record table `recommendation_history`. What does not: making recommendations
(`steps.recommendations`), reviewing them (`reports.recommendations.review`).
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.catalogue.records import HISTORY, RecordTable, read_record
from tsfm_pipeline.files import write_atomically, write_text_atomically

SEEN_RUNS = 60
"""Number of latest dated copies that a review covers: two months of nightly runs."""
HOURS_PER_DAY = 24.0
SIGNIFICANT_DIGITS = 6
TIME = "%Y-%m-%dT%H:%M:%SZ"
VPA_FORMAT = "tsfm-pipeline/v1"


@dataclass(frozen=True)
class Run:
    """One dated copy: its number (counted from 1, never reused), the fingerprint of the table that
    it copies, and its path.
    """

    number: int
    fingerprint: str
    path: Path

    def read(self) -> pl.DataFrame:
        """Return the recommendations of that run."""
        return read_record(self.path)


def publish(fleet: Fleet) -> dict[str, Any]:
    """Write the files and the dated copy of the table `recommendations`; return counts and the
    paths of the files.
    """
    table = fleet.tables.read("recommendations")
    handed_out = with_money(
        table, fleet, slack="expected_slack", shortfall="expected_shortfall"
    ).drop("tenant_number")
    figures = [name for name, dtype in handed_out.schema.items() if dtype.is_float()]
    people = handed_out.with_columns(
        pl.col(figures).cast(pl.Float64).round_sig_figs(SIGNIFICANT_DIGITS)
    )
    folder = fleet.reports_dir
    paths = {
        ending: folder / f"recommendations.{ending}" for ending in ("parquet", "csv", "vpa.json")
    }
    write_atomically(paths["parquet"], handed_out.write_parquet)
    write_atomically(paths["csv"], partial(people.write_csv, datetime_format=TIME))
    text = json.dumps(vpa_document(fleet, people), indent=1, allow_nan=False)
    write_text_atomically(paths["vpa.json"], text + "\n")
    run = remember(fleet, table)
    own = table.filter("own_tier")
    return {
        "n_series": own.height,
        "n_not_made": int((~own["made"]).sum()),
        "run": run.number,
        **{f"file_{ending.replace('.', '_')}": str(path) for ending, path in paths.items()},
    }


def with_money(frame: pl.DataFrame, fleet: Fleet, *, slack: str, shortfall: str) -> pl.DataFrame:
    """Return the frame with `slack_cost_per_day` and `sla_cost_per_day` if the fleet has prices,
    else the frame itself.

    slack, shortfall: columns with means per step, in units of the row's metric. A unit of slack
    costs the metric's price per hour. A unit of shortfall costs alpha / (1 - alpha) times as much
    at the row's tier: at these prices the reservation has the least cost. Null where the metric has
    no price.
    """
    if not fleet.spec.prices:
        return frame
    prices = {metric: fleet.spec.prices.get(metric) for metric in fleet.grid.metrics}
    per_day = pl.col("metric").replace_strict(prices, return_dtype=pl.Float64) * HOURS_PER_DAY
    shortages = {tier: alpha / (1 - alpha) for tier, alpha in fleet.protocol.tiers.items()}
    dearer = pl.col("tier").replace_strict(shortages, return_dtype=pl.Float64)
    return frame.with_columns(
        (pl.col(slack) * per_day).alias("slack_cost_per_day"),
        (pl.col(shortfall) * per_day * dearer).alias("sla_cost_per_day"),
    )


def vpa_document(fleet: Fleet, table: pl.DataFrame) -> dict[str, Any]:
    """Return the recommendations of every tenant's own tier in the shape of the status of
    Kubernetes' VerticalPodAutoscaler.

    Per metric, in its own units: target, the reservation for all steps of the block, or for its
    maximum where the series is intermittent (the condition says which are); upperBound, the
    reservation for the block's maximum (the target where there is none); lowerBound, the median of
    the block's pooled distribution, which half of the steps would exceed, or the target where that
    is lower. A metric without a recommendation is left out, and the condition says why.
    """
    items = []
    for (tenant,), rows in table.filter("own_tier").group_by("tenant_id", maintain_order=True):
        made, unmade = rows.filter("made"), rows.filter(~pl.col("made"))
        seldom = pl.col("demand_interval").is_not_null()
        told = pl.concat([unmade, made.filter(seldom)])
        notes = {row["metric"]: row["note"] for row in told.iter_rows(named=True)}
        peak = pl.coalesce("reservation_max", "reservation")
        bounds = {
            "lowerBound": pl.min_horizontal("reservation_median", "reservation"),
            "target": pl.when(seldom).then(peak).otherwise(pl.col("reservation")),
            "upperBound": peak,
        }
        recommended = {
            name: dict(made.select("metric", bound.alias("value")).iter_rows())
            for name, bound in bounds.items()
        }
        condition: dict[str, Any] = {
            "type": "RecommendationProvided",
            "status": "True" if made.height else "False",
        }
        if notes:
            condition["message"] = "; ".join(f"{metric}: {note}" for metric, note in notes.items())
        items.append(
            {
                "metadata": {"name": tenant},
                "spec": {
                    "tier": rows["tier"][0],
                    "blockStart": rows["block_start"][0],
                    "blockEnd": rows["block_end"][0],
                },
                "status": {
                    "conditions": [condition],
                    "recommendation": {
                        "containerRecommendations": [{"containerName": tenant, **recommended}]
                        if made.height
                        else []
                    },
                },
            }
        )
    times = [
        {**item, "spec": {key: _text(value) for key, value in item["spec"].items()}}
        for item in items
    ]
    return {
        "apiVersion": VPA_FORMAT,
        "kind": "CapacityRecommendationList",
        "metadata": {"name": fleet.name},
        "items": times,
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else value.strftime(TIME)


def spanned(blocks: pl.DataFrame) -> tuple[str, str]:
    """Return the start of the first of these blocks and of the last one, as text."""
    first, last = blocks.select(
        pl.col("block_start").min().alias("first"), pl.col("block_start").max().alias("last")
    ).row(0)
    return f"{first:{TIME}}", f"{last:{TIME}}"


def remember(fleet: Fleet, table: pl.DataFrame) -> Run:
    """Append a dated copy to the record table `recommendation_history`, unless the latest copy is
    of the same table.

    Copies carry the label `<number>-<start of the latest block>-<fingerprint>`, and are never
    rewritten or dropped.
    """
    runs, fingerprint = past_runs(fleet), fleet.tables.expected["recommendations"]
    if runs and runs[-1].fingerprint == fingerprint:
        return runs[-1]
    number = runs[-1].number + 1 if runs else 1
    begins = spanned(table)[1].replace("-", "").replace(":", "")
    path = RecordTable(fleet.records_dir / HISTORY).append(
        table, f"{number:06d}-{begins}-{fingerprint}"
    )
    return Run(number, fingerprint, path)


def past_runs(fleet: Fleet) -> list[Run]:
    """Return the latest `SEEN_RUNS` dated copies, oldest first."""
    runs = []
    for path in RecordTable(fleet.records_dir / HISTORY).paths()[-SEEN_RUNS:]:
        number, _, fingerprint, *_ = path.stem.split("-")
        runs.append(Run(int(number), fingerprint, path))
    return runs
