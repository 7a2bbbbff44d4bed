"""Print the asset graph as text, for the snapshot `graph.txt`, so that a review shows every change
of an interface.

    python -m tsfm_pipeline_tests.defs.graph > tsfm_pipeline_tests/defs/graph.txt

What belongs here: what users and other systems may rely on. What does not: descriptions and
metadata, which may change at will.
"""

import dagster as dg

from tsfm_pipeline.defs.build import build_definitions
from tsfm_pipeline.settings import PROJECT_ROOT, Settings


def describe(definitions: dg.Definitions) -> str:
    """Key, group, dependencies, owners, kinds, code version, partitions, step tags and checks of
    every asset; then jobs and automations.
    """
    blocks = []
    for asset in sorted(definitions.assets or (), key=lambda asset: asset.key.to_user_string()):
        assert isinstance(asset, dg.AssetsDefinition)
        (spec,) = asset.specs
        checks = [
            f"{check.name}{' (blocking)' if check.blocking else ''}" for check in asset.check_specs
        ]
        lines = {
            "deps": ", ".join(sorted(dep.asset_key.to_user_string() for dep in spec.deps)),
            "owners": ", ".join(spec.owners),
            "kinds": ", ".join(sorted(spec.kinds)),
            "code version": spec.code_version,
            "partitions": ", ".join(spec.partitions_def.get_partition_keys())
            if spec.partitions_def
            else "",
            "step tags": ", ".join(
                f"{key}={value}" for key, value in sorted(asset.op.tags.items())
            ),
            "checks": ", ".join(checks),
        }
        described = [f"  {name}: {text}" for name, text in lines.items() if text]
        blocks.append("\n".join([f"{spec.group_name} / {spec.key.to_user_string()}", *described]))
    for job in definitions.jobs or ():
        tags = ", ".join(f"{key}={value}" for key, value in sorted(job.tags.items()))
        blocks.append(f"job {job.name}\n  run tags: {tags}")
    for kind, members in (("schedule", definitions.schedules), ("sensor", definitions.sensors)):
        blocks += [
            f"{kind} {member.name}\n  at first: {member.default_status.value}"
            for member in members or ()
        ]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    print(describe(build_definitions(Settings(specs_dir=PROJECT_ROOT / "data" / "fleets"))), end="")
