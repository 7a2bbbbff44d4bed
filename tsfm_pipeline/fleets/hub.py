"""Bringing one data set of a public benchmark from the Hugging Face hub.

What belongs here: where the benchmarks are published, the pinned commits, the download, and the
record of where a folder came from. What does not: reading the folder (`fleets.saved_items`).
`huggingface_hub` is imported only to download.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tsfm_pipeline.fleets.saved_folders import STATE_FILE
from tsfm_pipeline.fleets.source import SHOWN, FleetDataError

ORIGIN_FILE = "fetched.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Published:
    """A benchmark on the hub: its repository of data sets, and the commit that is taken."""

    repository: str
    revision: str


BENCHMARKS: Mapping[str, Published] = {
    "boom": Published("Datadog/BOOM", "69325b544c45ff0d6c43c7a99c49a6601a01725b"),
    "gift-eval": Published("Salesforce/GiftEval", "30841734ac5cfddbd0c3bad6d09d2b6b32becbb0"),
}
"""The commits are those that other public evaluations pin."""


def bring(benchmark: str, name: str, to: Path, revision: str | None = None) -> Path:
    """Download one data set into the folder `to`, and return that folder.

    name: the data set's folder in the benchmark's repository. revision: a commit, branch or tag
    (default: the pinned commit). The folder appears once it is complete.

    Raises `FleetDataError` for an unknown benchmark, a name that is not one data set, a folder that
    exists, and where the hub cannot be reached.
    """
    if benchmark not in BENCHMARKS:
        raise FleetDataError(f"no benchmark {benchmark!r}; allowed: {', '.join(BENCHMARKS)}")
    if not _NAME.fullmatch(name) or ".." in name:
        raise FleetDataError(
            f"{name!r} is not the name of a data set; allowed: the path of its folder in the "
            "benchmark, such as ds-0-T or electricity/15T"
        )
    to = to.expanduser().absolute()
    if to.exists():
        raise FleetDataError(f"{to} already exists; delete it, or give another folder with --to")
    published = BENCHMARKS[benchmark]
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=to.parent) as temporary:
        commit = _download(published, name, revision or published.revision, Path(temporary))
        folder = Path(temporary, name)
        _require_one_data_set(folder, benchmark, name, published, commit)
        record = {"repository": published.repository, "name": name, "revision": commit}
        (folder / ORIGIN_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.move(folder, to)
    return to


def origin_of(folder: Path) -> str | None:
    """Return where `bring` took a folder from, in words; None for a folder that it did not make."""
    path = folder.expanduser() / ORIGIN_FILE
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"{record['name']} of https://huggingface.co/datasets/{record['repository']} at commit "
        f"{record['revision']}"
    )


def _download(published: Published, name: str, revision: str, folder: Path) -> str:
    """Download a data set's files below `folder`, and return the commit that they are of."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        if not _COMMIT.fullmatch(revision):
            revision = str(HfApi().dataset_info(published.repository, revision=revision).sha)
        snapshot_download(
            published.repository,
            repo_type="dataset",
            revision=revision,
            allow_patterns=[f"{name}/*"],
            local_dir=folder,
        )
    except Exception as error:  # the client's transport has errors of its own, by release
        command = (
            f"hf download {published.repository} --repo-type dataset --revision {revision} "
            f"--include '{name}/*' --local-dir FOLDER"
        )
        raise FleetDataError(
            f"{name} of {published.repository} (revision {revision}) could not be brought from "
            f"the hub: {type(error).__name__}: {_first_line(error)}. Without a connection: run "
            f"`{command}` where there is one, copy the folder here, and give it to `tsfm-pipeline "
            "benchmark` or `tsfm-pipeline fleet init`"
        ) from error
    return revision


def _require_one_data_set(
    folder: Path, benchmark: str, name: str, published: Published, commit: str
) -> None:
    if (folder / STATE_FILE).is_file():
        return
    below = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob(STATE_FILE))
    if below:
        raise FleetDataError(
            f"{name} of {benchmark} holds {len(below)} data sets; give one of them: "
            f"{', '.join(f'{name}/{own}' for own in below)}"
        )
    held = sorted(path.name for path in folder.glob("*"))[:SHOWN] if folder.is_dir() else []
    what = f"holds {', '.join(held)} and no {STATE_FILE}" if held else "does not exist"
    raise FleetDataError(
        f"{name} {what} in {published.repository} at commit {commit}; allowed: the name of one of "
        f"its data sets, see https://huggingface.co/datasets/{published.repository}"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")
