"""Jobs and the executor: which selections of assets have a name, and how many steps run at once.

What belongs here: selections and limits with their reasons. What does not: when jobs run
(`schedules`).
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.defs.assets.reports import GROUP as REPORTS
from tsfm_pipeline.defs.assets.serving import GROUP as SERVING
from tsfm_pipeline.defs.materialise import HEAVY_KEY, HEAVY_VALUE
from tsfm_pipeline.defs.resources import PROFILE_TAG
from tsfm_pipeline.settings import Profile

MAX_CONCURRENT = 2
"""Steps at once; a light one (DuckDB, numpy) may run beside a heavy one."""
MAX_HEAVY = 1
"""Heavy steps use every core or the GPU: two at once are slower than one after the other, and need
twice the memory.
"""

PRELOADED = (
    "tsfm_pipeline.definitions",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "upath.implementations.local",
)
"""What every step needs before its own work: the definitions, and what Dagster imports to open its
instance, which takes a second of processor time. Steps fork from one process that has imported
these modules. Dagster's private names are here because nothing public imports its storage.
"""

executor = dg.multiprocess_executor.configured(
    {
        "max_concurrent": MAX_CONCURRENT,
        "start_method": {"forkserver": {"preload_modules": list(PRELOADED)}},
        "tag_concurrency_limits": [{"key": HEAVY_KEY, "value": HEAVY_VALUE, "limit": MAX_HEAVY}],
    },
    name="multiprocess",
)


FULL_JOB = "full"
SERVING_JOB = "serving"


def build_jobs(partitions: dg.StaticPartitionsDefinition) -> list[Any]:
    """Return the jobs `demo`, `nightly`, `full`, `cheap`, `serving` and `reports_only` over the
    fleet partitions.
    """
    everything = dg.AssetSelection.all()

    def job(
        name: str,
        selection: dg.AssetSelection,
        description: str,
        profile: Profile | None = None,
        **tags: str,
    ) -> Any:
        """Return a job whose runs have the tag `fleet`. Its profile is the default config of its
        launchpad, of the schedule and of the sensor.
        """
        config = {"resources": {"workspace": {"config": {"profile": profile}}}} if profile else {}
        per_fleet = dg.PartitionedConfig(
            partitions_def=partitions,
            run_config_for_partition_key_fn=lambda fleet: config,
            tags_for_partition_key_fn=lambda fleet: {"fleet": fleet},
        )
        all_tags = tags | ({PROFILE_TAG: profile} if profile else {})
        return dg.define_asset_job(
            name, selection, config=per_fleet, description=description, tags=all_tags
        )

    return [
        job(
            "demo",
            everything,
            "The whole chain on one fleet, meant for the partition `demo`: a finished report in "
            "minutes.",
            purpose="demo",
        ),
        job(
            "nightly",
            everything,
            "The whole chain on one fleet; the nightly schedule requests it for every fleet with "
            "`nightly: true`.",
            purpose="nightly",
        ),
        job(
            FULL_JOB,
            everything,
            "The whole chain on one fleet under the full protocol; `changed_fleets` requests it, "
            "and it is the one to launch by hand.",
            profile="full",
            purpose="full",
        ),
        job(
            "cheap",
            everything,
            "The whole chain on one fleet in a fraction of the time, for a first look; its tables "
            "and reports are stored below <data_dir>/cheap, apart from those of a full run.",
            profile="cheap",
            purpose="cheap",
        ),
        job(
            SERVING_JOB,
            dg.AssetSelection.groups(SERVING) | dg.AssetSelection.assets("fleet_report"),
            "What follows from the online service's answers until now: outcomes, calibration, "
            "alerts, their evaluation, and the fleet's page with it. `nightly_calibration` "
            "requests it for every fleet that was served; the tables of the other groups must be "
            "current.",
            purpose="serving",
        ),
        job(
            "reports_only",
            dg.AssetSelection.groups(REPORTS),
            "All reports again from the existing tables, for instance after a change to a figure.",
            purpose="reports",
        ),
    ]
