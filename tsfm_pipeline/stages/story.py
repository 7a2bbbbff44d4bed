"""What the fleet's HTML report shows besides the report JSONs: a gallery of requests, data quality, provenance.

What belongs here: choosing and cutting out what is shown. What does not: drawing and wording (`reporting`).
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.settings import TIERS
from tsfm_pipeline.stages.acceptance import git_commit
from tsfm_pipeline.stages.forecasts import grid_arrays
from tsfm_pipeline.stages.headline import request_losses
from tsfm_pipeline.stages.policies import read_shared_choices
from tsfm_pipeline.stages.scores import FIXED, SEARCH
from tsfm_pipeline.workspace import Fleet

GALLERY_TIER = "standard"
HISTORY_HORIZONS = 6
PACKAGES = ("dagster", "duckdb", "faiss-cpu", "numpy", "polars", "scikit-learn", "scipy", "statsmodels", "timesfm", "torch")


def gallery(fleet: Fleet) -> list[dict[str, Any]]:
    """Requests worth looking at: largest gains and losses against the fixed configuration, the middle, and the worst misses."""
    losses = request_losses(fleet).filter((pl.col("tier") == GALLERY_TIER) & pl.col("method").is_in([SEARCH, FIXED]))
    pairs = losses.pivot(on="method", index=["request_id", "metric", "tenant_number"], values="scaled_loss").drop_nulls()
    pairs = pairs.filter(pl.col(SEARCH).is_finite() & pl.col(FIXED).is_finite())
    pairs = pairs.with_columns((pl.col(SEARCH) - pl.col(FIXED)).alias("difference")).sort("difference", "request_id", "metric")
    if not pairs.height:
        return []
    middle = pairs.height // 2
    picks = {
        "largest gain of the search": pairs[0],
        "second largest gain": pairs[min(1, pairs.height - 1)],
        "the median request": pairs[middle],
        "second largest loss to the fixed configuration": pairs[max(pairs.height - 2, 0)],
        "largest loss to the fixed configuration": pairs[pairs.height - 1],
        "worst miss of the search": pairs.sort(SEARCH)[pairs.height - 1],
    }
    return [_record(fleet, title, row.row(0, named=True)) for title, row in picks.items()]


def _record(fleet: Fleet, title: str, row: dict[str, Any]) -> dict[str, Any]:
    number, metric = row["tenant_number"], list(fleet.grid.metrics).index(row["metric"])
    requests = fleet.requests("test", only=[number])
    position = int(np.flatnonzero(requests.ids.ravel() == row["request_id"])[0])
    deciles, actual, _ = grid_arrays(fleet, requests)
    shape = (len(fleet.grid.metrics), len(TIERS))
    (decision,) = fleet.arrays("autoresearch_forecasts", requests, ["decision"], shape)
    fold = int(requests.frame["fold"][position])
    fixed = read_shared_choices(fleet)[fold].tiers[GALLERY_TIER].fixed_config
    shard = next(shard for shard in fleet.shards if number in shard)
    series = fleet.values(shard)[number - shard[0], metric]
    origin = int(requests.origins.ravel()[position])
    first = max(0, origin + 1 - HISTORY_HORIZONS * fleet.spec.horizon)
    last = min(len(series), origin + 1 + fleet.spec.horizon)
    tier = list(TIERS).index(GALLERY_TIER)
    return {
        "title": title,
        "tenant_id": fleet.manifest["tenant_id"][number],
        "metric": row["metric"],
        "tier": GALLERY_TIER,
        "origin": fleet.grid.time_of(origin),
        "times": [fleet.grid.time_of(step) for step in range(first, last)],
        "history": series[first : origin + 1].astype(float).tolist(),
        "actual": actual[position, metric][: last - origin - 1].astype(float).tolist(),
        "decision_search": decision[position, metric, tier].astype(float).tolist(),
        "decision_fixed": decision_quantile(deciles[position, metric, fixed], TIERS[GALLERY_TIER]).astype(float).tolist(),
        "loss_search": row[SEARCH],
        "loss_fixed": row[FIXED],
    }


def data_quality(fleet: Fleet) -> dict[str, Any]:
    """Missing and duplicate values of the telemetry, and the requests that they made invalid."""
    manifest = fleet.manifest
    requests = fleet.tables.read("forecast_requests").filter(pl.col("role") == "test")
    headline = fleet.read_report("headline_report")
    return {
        "n_tenants": manifest.height,
        "n_steps": fleet.grid.n_steps,
        "n_missing": int(manifest["n_missing"].sum()),
        "n_duplicates": int(manifest["n_duplicates"].sum()),
        "n_gaps": int(manifest["n_gaps"].sum()),
        "longest_gap_steps": int(manifest["longest_gap"].max() or 0),  # type: ignore[arg-type]
        "n_requests": requests.height,
        "n_invalid_requests": headline["n_invalid_requests"],
        "n_excluded_series": headline["n_excluded_series"],
        "invalid_reasons": headline["invalid_reasons"],
    }


def provenance(fleet: Fleet) -> dict[str, Any]:
    """Everything that is needed to make the same report again."""
    settings = fleet.settings
    return {
        "fleet": fleet.name,
        "title": fleet.spec.title,
        "description": fleet.spec.description,
        "source": getattr(fleet.spec, "source", "generated by tsfm_pipeline.fleets.synthetic"),
        "checkpoint": settings.checkpoint,
        "checkpoint_sha256": fleet.context.checkpoint_digest,
        "dtype": settings.dtype,
        "settings": {"search": settings.search.model_dump(mode="json"), "evaluation": settings.evaluation.model_dump(mode="json")},
        "packages": {name: version(name) for name in PACKAGES},
        "validation_in_shared_passes": {
            key: value for key, value in fleet.read_report("rank_agreement").items() if key.startswith("rank_")
        },
        "fingerprints": dict(fleet.tables.expected),
        "git_commit": git_commit(),
        "reproduce": f"dagster asset materialize -m tsfm_pipeline.definitions --select '*' --partition {fleet.name}",
    }
