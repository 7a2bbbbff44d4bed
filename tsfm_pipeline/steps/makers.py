"""The makers: the functions that make, describe and check each table of a fleet.

What belongs here: one `Maker` per table. What does not: the functions themselves (the other modules
of `steps`), the properties of a table (`catalogue.tables`). Functions are named and not imported,
so that a step loads only what its own table needs, and a name can be sent to another machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

_MODEL = "tsfm_pipeline.forecaster:load_forecaster"
_STEPS = "tsfm_pipeline.steps"


@dataclass(frozen=True)
class Maker:
    """The function that makes a table, as `module:function`, and what belongs to it.

    function: `make(member)` for a table that is made in one piece, `make(member, shard)` for a
    sharded one, with `forecaster=` if `needs_model` is set. describe: `describe(member)` returns
    the metadata that the UI shows of the finished table. provenance: `provenance(member)` returns
    further fields of the table's record. leakage: `leakage(member)`, with `forecaster=` as above,
    returns how much forecasts change when the future is replaced by noise. heavy: the function uses
    every core or the GPU. kinds: tags of the asset. behind: functions that make the arguments;
    their code counts as code of the table, although `function` does not name them. share:
    `share(member)` returns what every shard needs whole; it is called once, before the first shard,
    and its result is the last argument of `function`.
    """

    function: str
    needs_model: bool = False
    heavy: bool = False
    kinds: tuple[str, ...] = ()
    describe: str = ""
    provenance: str = ""
    leakage: str = ""
    behind: tuple[str, ...] = ()
    share: str = ""

    @property
    def code(self) -> tuple[str, ...]:
        """Every function whose code determines the content of the table."""
        named = (self.function, self.provenance, self.share, *self.behind)
        return tuple(function for function in named if function)


def with_model(function: str, **fields: str) -> Maker:
    """Return the maker of a table that the frozen model makes."""
    return Maker(
        function, needs_model=True, heavy=True, kinds=("torch",), behind=(_MODEL,), **fields
    )


MAKERS: Mapping[str, Maker] = {
    "tenant_telemetry": Maker(
        f"{_STEPS}.workloads:tenant_telemetry_shard",
        heavy=True,
        provenance=f"{_STEPS}.workloads:tenant_telemetry_provenance",
        describe=f"{_STEPS}.workloads:describe_telemetry",
        behind=("tsfm_pipeline.fleets:open_fleet",),
    ),
    "tenant_manifest": Maker(
        f"{_STEPS}.workloads:tenant_manifest",
        describe=f"{_STEPS}.workloads:describe_manifest",
    ),
    "tenant_features": Maker(f"{_STEPS}.archetypes:tenant_features_shard"),
    "archetype_index": Maker(f"{_STEPS}.archetypes:archetype_index", heavy=True, kinds=("faiss",)),
    "archetype_retrieval": Maker(
        f"{_STEPS}.archetypes:archetype_retrieval_shard", kinds=("faiss",)
    ),
    "forecast_requests": Maker(
        f"{_STEPS}.requests:forecast_requests",
        describe=f"{_STEPS}.requests:describe_requests",
    ),
    "request_targets": Maker(f"{_STEPS}.forecasts:request_targets_shard"),
    "config_portfolio": with_model(
        f"{_STEPS}.portfolio:config_portfolio",
        describe=f"{_STEPS}.portfolio:describe_portfolio",
    ),
    "forecast_grid": with_model(
        f"{_STEPS}.forecasts:forecast_grid_shard",
        leakage=f"{_STEPS}.leakage:grid_leakage",
    ),
    "validation_losses": with_model(
        f"{_STEPS}.forecasts:validation_losses_shard",
        leakage=f"{_STEPS}.leakage:validation_leakage",
    ),
    "baseline_forecasts": Maker(
        f"{_STEPS}.forecasts:baseline_forecasts_shard",
        kinds=("statsmodels",),
        leakage=f"{_STEPS}.leakage:baseline_leakage",
    ),
    "tuning_losses": Maker(f"{_STEPS}.forecasts:tuning_losses_shard"),
    "config_priors": Maker(
        f"{_STEPS}.policies:config_priors_shard",
        kinds=("faiss",),
        share=f"{_STEPS}.policies:tuning_experience",
    ),
    "search_policy": Maker(
        f"{_STEPS}.policies:search_policy",
        describe=f"{_STEPS}.policies:describe_policies",
    ),
    "search_bundle": Maker(
        f"{_STEPS}.bundle:search_bundle",
        behind=("tsfm_pipeline.autoresearch.bundle:SearchBundle",),
    ),
    "autoresearch_forecasts": Maker(f"{_STEPS}.forecasts:autoresearch_forecasts_shard"),
    "irreducible_losses": Maker(f"{_STEPS}.irreducible:irreducible_losses_shard", kinds=("scipy",)),
    "scored_forecasts": Maker(f"{_STEPS}.scores:scored_forecasts_shard"),
    "cold_start_tuning_losses": with_model(f"{_STEPS}.cold_start:cold_start_tuning_losses_shard"),
    "cold_start_losses": with_model(
        f"{_STEPS}.cold_start:cold_start_losses_shard",
        share=f"{_STEPS}.cold_start:cold_start_experience",
    ),
    "forecast_quality": Maker(f"{_STEPS}.quality:forecast_quality_shard"),
    "headline_scores": Maker(f"{_STEPS}.headline:headline_scores", kinds=("duckdb",)),
    "block_calibration": Maker(f"{_STEPS}.blocks:block_calibration"),
    "recommendation_scores": Maker(f"{_STEPS}.blocks:recommendation_scores_shard"),
    "recommendations": Maker(
        f"{_STEPS}.recommendations:recommendations_shard",
        needs_model=True,
        heavy=True,
        kinds=("torch", "csv", "json"),
        behind=(_MODEL,),
    ),
    "served_forecasts": Maker(
        f"{_STEPS}.serving_records:served_forecasts",
        describe=f"{_STEPS}.serving_records:describe_served",
    ),
    "served_outcomes": Maker(
        f"{_STEPS}.serving_records:served_outcomes",
        describe=f"{_STEPS}.serving_records:describe_outcomes",
    ),
    "conformal_calibration": Maker(
        f"{_STEPS}.serving_calibration:conformal_calibration", kinds=("json",)
    ),
    "band_alerts": Maker(
        f"{_STEPS}.serving_alerts:band_alerts",
        describe=f"{_STEPS}.serving_alerts:describe_alerts",
    ),
    "rollout_decision": Maker(f"{_STEPS}.serving_rollout:rollout_decision", kinds=("json",)),
}
"""The maker of every table of a fleet."""
