"""Jobs and the executor: which selections have a name, and how many steps run at once.

What belongs here: selections and limits with their reasons. What does not: when jobs run (`schedules`).
"""

from typing import Any

import dagster as dg

from tsfm_pipeline.defs.assets.reports import GROUP as REPORTS
from tsfm_pipeline.defs.materialise import HEAVY_KEY, HEAVY_VALUE

MAX_CONCURRENT = 2
"""Steps at once; a light one (DuckDB, numpy) may run beside a heavy one."""
MAX_HEAVY = 1
"""Heavy steps use every core or the GPU: two at once are slower than one after the other, and need the memory of both."""

executor = dg.multiprocess_executor.configured(
    {
        "max_concurrent": MAX_CONCURRENT,
        # Steps fork from one process that has imported the definitions once, instead of importing them anew each.
        "start_method": {"forkserver": {"preload_modules": ["tsfm_pipeline.definitions"]}},
        "tag_concurrency_limits": [{"key": HEAVY_KEY, "value": HEAVY_VALUE, "limit": MAX_HEAVY}],
    },
    name="multiprocess",
)


def build_jobs(partitions: dg.StaticPartitionsDefinition) -> list[Any]:
    """`demo`, `nightly` and `reports_only` over the fleet partitions."""
    everything = dg.AssetSelection.all()
    return [
        dg.define_asset_job(
            "demo",
            everything,
            description="The whole chain on one fleet, meant for the partition `demo`: a finished report in minutes.",
            partitions_def=partitions,
            tags={"purpose": "demo"},
        ),
        dg.define_asset_job(
            "nightly",
            everything,
            description="The whole chain on one fleet; the nightly schedule requests it for every fleet with `nightly: true`.",
            partitions_def=partitions,
            tags={"purpose": "nightly"},
        ),
        dg.define_asset_job(
            "reports_only",
            dg.AssetSelection.groups(REPORTS),
            description="All reports again from the tables that are there, for instance after a change to a figure.",
            partitions_def=partitions,
            tags={"purpose": "reports"},
        ),
    ]
