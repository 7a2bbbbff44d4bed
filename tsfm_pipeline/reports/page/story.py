"""What the HTML report shows besides the report JSONs: a gallery of requests, data quality and
provenance.

What belongs here: selecting and collecting these records. What does not: drawing and wording
(`gallery`, `background`).
"""

import json
import shlex
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from tsfm_pipeline import __version__, distribution
from tsfm_pipeline.catalogue.fleet import Fleet
from tsfm_pipeline.evaluation.losses import decision_quantile
from tsfm_pipeline.evaluation.methods import FIXED, SEARCH
from tsfm_pipeline.reports.acceptance.model import CriteriaReport
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.latency.model import LatencyReport, size_name
from tsfm_pipeline.reports.shared.files import cohort_figures, read_report
from tsfm_pipeline.settings import EvaluationSettings, SearchSettings, Settings
from tsfm_pipeline.steps.evidence import grid_arrays
from tsfm_pipeline.steps.headline import request_losses
from tsfm_pipeline.steps.policies import read_shared_choices
from tsfm_pipeline.steps.requests import tenants_without_requests

HISTORY_HORIZONS = 6
MOST_TENANTS = 5
PACKAGES = (
    "dagster",
    "duckdb",
    "faiss-cpu",
    "numpy",
    "polars",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "timesfm",
    "torch",
)


def gallery(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the requests of the gallery: the largest gains and losses against the fixed
    configuration, the worst misses and the median.

    Each kind shows the most extreme request, and the most extreme request of another tenant. A
    request that is of several kinds is shown once.
    """
    losses = request_losses(fleet, [SEARCH, FIXED], [fleet.protocol.headline_tier])
    pairs = losses.pivot(
        on="method", index=["request_id", "metric", "tenant_number"], values="scaled_loss"
    ).drop_nulls()
    pairs = pairs.filter(pl.col(SEARCH).is_finite() & pl.col(FIXED).is_finite())
    pairs = pairs.with_columns((pl.col(SEARCH) - pl.col(FIXED)).alias("difference")).sort(
        "difference", "request_id", "metric"
    )
    if not pairs.height:
        return []
    titles: dict[tuple[int, str], list[str]] = {}

    def show(title: str, row: dict[str, Any]) -> None:
        titles.setdefault((row["request_id"], row["metric"]), []).append(title)

    for title, ranked in (
        ("largest gain of the search", pairs),
        ("largest loss to the fixed configuration", pairs.reverse()),
        ("worst miss of the search", pairs.sort(SEARCH, descending=True, maintain_order=True)),
    ):
        first = ranked.row(0, named=True)
        show(title, first)
        if (
            other_tenants := ranked.filter(pl.col("tenant_number") != first["tenant_number"])
        ).height:
            show(f"{title}, another tenant", other_tenants.row(0, named=True))
    show("median request", pairs.row(pairs.height // 2, named=True))
    shown = {(row["request_id"], row["metric"]): row for row in pairs.iter_rows(named=True)}
    return [_record(fleet, "; ".join(names), shown[key]) for key, names in titles.items()]


def _record(fleet: Fleet, title: str, row: dict[str, Any]) -> dict[str, Any]:
    number, metric = row["tenant_number"], list(fleet.grid.metrics).index(row["metric"])
    requests = fleet.arrays.requests("test", only=[number])
    position = int(np.flatnonzero(requests.ids.ravel() == row["request_id"])[0])
    deciles, actual, _ = grid_arrays(fleet, requests)
    name, alphas = fleet.protocol.headline_tier, fleet.protocol.tiers
    limits = fleet.arrays.limits.take(np.array([metric]))
    shape = (len(fleet.grid.metrics), len(alphas))
    (decision,) = fleet.arrays.of("autoresearch_forecasts", requests, ["decision"], shape)
    fold = int(requests.frame["fold"][position])
    fixed = read_shared_choices(fleet)[fold].tiers[name].fixed_config
    ((_, values),) = fleet.arrays.values_by_shard(requests.tenant_numbers)
    series = values[0, metric]
    origin = int(requests.origins.ravel()[position])
    first = max(0, origin + 1 - HISTORY_HORIZONS * fleet.spec.horizon)
    last = min(len(series), origin + 1 + fleet.spec.horizon)
    tier = list(alphas).index(name)
    return {
        "title": title,
        "tenant_id": fleet.manifest["tenant_id"][number],
        "metric": row["metric"],
        "tier": name,
        "origin": fleet.grid.time_of(origin),
        "times": [fleet.grid.time_of(step) for step in range(first, last)],
        "history": series[first : origin + 1].astype(float).tolist(),
        "actual": actual[position, metric][: last - origin - 1].astype(float).tolist(),
        "decision_search": decision[position, metric, tier].astype(float).tolist(),
        "decision_fixed": limits.clip(
            decision_quantile(deciles[position, metric, fixed], alphas[name])
        )
        .astype(float)
        .tolist(),
        "loss_search": row[SEARCH],
        "loss_fixed": row[FIXED],
    }


def data_quality(fleet: Fleet) -> dict[str, Any]:
    """Return what the telemetry has and lacks, the tenants that lack most or were left out, and the
    requests that are invalid because of it.
    """
    grid = fleet.grid
    missing, observed = pl.col("n_missing"), pl.col("n_observed")
    manifest = fleet.manifest.with_columns(
        (missing / (missing + observed)).fill_nan(0.0).alias("missing_share")
    )
    incomplete = manifest.filter((missing > 0) | (pl.col("n_duplicates") > 0)).sort(
        "missing_share", "tenant_id", descending=[True, False]
    )
    headline = HeadlineReport.from_flat(read_report(fleet, "headline_report"))
    requests = fleet.tables.read("forecast_requests").filter(pl.col("role") == "test")
    n_missing = int(manifest["n_missing"].sum())
    return {
        "n_tenants": manifest.height,
        "n_metrics": len(grid.metrics),
        "step_minutes": grid.step_minutes,
        "n_steps": grid.n_steps,
        "first_time": grid.time_of(0),
        "last_time": grid.time_of(grid.n_steps - 1),
        "n_missing": n_missing,
        "missing_share": n_missing / max(n_missing + int(manifest["n_observed"].sum()), 1),
        "n_duplicates": int(manifest["n_duplicates"].sum()),
        "n_gaps": int(manifest["n_gaps"].sum()),
        "longest_gap_steps": int(manifest["longest_gap"].max() or 0),  # type: ignore[arg-type]
        "n_requests": headline.n_requests,
        "n_invalid_requests": headline.n_invalid_requests,
        "n_excluded_series": headline.n_excluded_series,
        "n_tenants_without_requests": headline.n_tenants_without_requests,
        "invalid_reasons": headline.invalid_reasons,
        "left_out": {**fleet.source.left_out, **tenants_without_requests(requests)},
        "table_incomplete": incomplete.select(
            "tenant_id", "missing_share", "n_gaps", "longest_gap", "n_duplicates"
        )
        .head(MOST_TENANTS)
        .to_dicts(),
    }


def headline_figures(fleet: Fleet) -> dict[str, Any]:
    """Return the few figures whose history shows how a fleet's forecasts develop.

    Cost ratio, win rate and violations per tier, p95 latency, verdicts, and counts.
    """
    headline = HeadlineReport.from_flat(read_report(fleet, "headline_report"))
    accepted = CriteriaReport.from_flat(read_report(fleet, "acceptance_criteria"))
    latency = LatencyReport.from_flat(read_report(fleet, "latency_report"))
    figures: dict[str, Any] = {}
    for tier, own in headline.tiers.items():
        figures |= {
            f"{tier}_ratio": own.ratio.figure,
            f"{tier}_win_rate": own.win_rate.figure,
            f"{tier}_violation_rate_search": own.violation_rate_search,
        }
    return {
        **figures,
        "p95_latency_ms": latency.sizes[size_name(latency.portfolio_size)].p95_latency_ms.figure,
        "n_criteria_pass": accepted.n_pass,
        "n_criteria_fail": accepted.n_fail,
        "n_criteria_null": accepted.n_null,
        "n_criteria_na": accepted.n_na,
        "n_test_tenants": headline.n_test_tenants,
        "n_requests": headline.n_requests,
        "n_invalid_requests": headline.n_invalid_requests,
        "n_tenants": fleet.manifest.height,
    }


def provenance(fleet: Fleet) -> dict[str, Any]:
    """Return everything that is needed to reproduce the report."""
    settings, commit = fleet.settings, distribution.commit()
    origins = fleet.tables.read("forecast_requests").filter(pl.col("role") == "test")["origin_time"]
    return {
        "fleet": fleet.name,
        "profile": settings.profile,
        "title": fleet.spec.title,
        "description": fleet.spec.description,
        "source": getattr(fleet.spec, "source", "generated by tsfm_pipeline.fleets.synthetic"),
        "test_from": origins.min(),
        "test_to": origins.max(),
        "horizon_minutes": fleet.spec.horizon * fleet.grid.step_minutes,
        "checkpoint": settings.checkpoint,
        "checkpoint_sha256": fleet.context.checkpoint_digest,
        "dtype": settings.dtype,
        **cohort_figures(fleet),
        "settings": {
            "search": settings.search.model_dump(mode="json"),
            "evaluation": settings.evaluation.model_dump(mode="json"),
        },
        "packages": {name: version(name) for name in PACKAGES},
        "validation_in_shared_passes": {
            key: value
            for key, value in read_report(fleet, "rank_agreement").items()
            if key.startswith("rank_")
        },
        "fingerprints": dict(fleet.tables.expected),
        "version": __version__,
        "git_commit": commit,
        "reproduce": _commands(fleet, commit),
    }


def _commands(fleet: Fleet, commit: str | None) -> list[str]:
    """Return shell lines that reproduce the report in a checkout of the project."""
    changed = "".join(
        f"{name}={shlex.quote(value)} " for name, value in changed_settings(fleet.settings).items()
    )
    lines = [f"git checkout {commit.removesuffix('+')}"] if commit else []
    if commit and commit.endswith("+"):
        lines.append("# the files differed from that commit: the figures may differ too")
    return [
        *lines,
        "python -m pip install --constraint constraints.txt --editable .",
        f"{changed}dagster asset materialize -m tsfm_pipeline.definitions --select '*' "
        f"--partition {fleet.name}",
    ]


def changed_settings(settings: Settings) -> dict[str, str]:
    """Return the environment variables that turn the default settings into these.

    Paths and the device differ between machines and are left out.
    """
    whole = {
        name: getattr(settings, name)
        for name in ("profile", "checkpoint", "dtype", "shard_tenants")
    }
    changed = {
        f"TSFM_{name}".upper(): str(value)
        for name, value in whole.items()
        if value != Settings.model_fields[name].default
    }
    usual = Settings(
        profile=settings.profile, search=SearchSettings(), evaluation=EvaluationSettings()
    )
    for section in ("search", "evaluation"):
        own, default = (getattr(one, section).model_dump(mode="json") for one in (settings, usual))
        changed |= {
            f"TSFM_{section}__{name}".upper(): json.dumps(value)
            for name, value in own.items()
            if value != default[name]
        }
    return changed
