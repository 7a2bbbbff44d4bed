"""`python -m tsfm_pipeline.cli.run <fleet>`: materialise one fleet and print its headline; called
by `make demo`.

What belongs here: starting `dagster asset materialize` and printing the result from the reports.
What does not: the work of the assets.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tsfm_pipeline.catalogue.fleet import open_workspace_fleet
from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import write_atomically
from tsfm_pipeline.reports.headline.model import HeadlineReport
from tsfm_pipeline.reports.shared.files import read_report
from tsfm_pipeline.reports.shared.wording import percent, ratio_interval
from tsfm_pipeline.settings import Settings


def main(arguments: list[str]) -> int:
    """Run all steps on the named fleet; return Dagster's exit status."""
    if len(arguments) != 1:
        print("usage: python -m tsfm_pipeline.cli.run <fleet>", file=sys.stderr)
        return 2
    try:
        fleet = open_workspace_fleet(Settings(), arguments[0])
        environment = {**os.environ, "DAGSTER_HOME": str(_dagster_home(fleet.settings))}
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    started = time.monotonic()
    command = [
        "-m",
        "dagster",
        "asset",
        "materialize",
        "-m",
        "tsfm_pipeline.definitions",
        "--select",
        "*",
        "--partition",
        fleet.name,
    ]
    status = subprocess.run([sys.executable, *command], env=environment, check=False).returncode
    if status:
        print(
            f"\n{fleet.name}: failed; the first error above says what to do. Finished shards are "
            "kept: run the command again.",
            file=sys.stderr,
        )
        return status
    headline = HeadlineReport.from_flat(read_report(fleet, "headline_report"))
    print(
        f"\n{fleet.name}: finished in {time.monotonic() - started:.0f} s. Cost of the search "
        "relative to the best fixed configuration:"
    )
    for tier, own in headline.tiers.items():
        print(
            f"  {tier:9s} {ratio_interval(*own.ratio)}, {percent(own.win_rate.figure)} of "
            f"{own.n_requests_scored} requests won"
        )
    print(f"  report: {fleet.reports_dir / 'report.html'}")
    return 0


def _dagster_home(settings: Settings) -> Path:
    """Return DAGSTER_HOME, or else a folder beside the data, into which the program's dagster.yaml
    is copied once.
    """
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home)
    config = settings.dagster_home / "dagster.yaml"
    if not config.exists():
        write_atomically(
            config, lambda temporary: shutil.copyfile(packaged("dagster.yaml"), temporary)
        )
    return settings.dagster_home


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
