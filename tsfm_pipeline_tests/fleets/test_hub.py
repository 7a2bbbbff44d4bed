"""Test `tsfm-pipeline fleet fetch` against a small server with the hub's answers, and without one.

The hub's client reads its address when it is imported, so each command has a process of its own.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tsfm_pipeline.fleets.hub import BENCHMARKS, bring, origin_of
from tsfm_pipeline.fleets.saved_items import open_dataset
from tsfm_pipeline.fleets.source import FleetDataError
from tsfm_pipeline.settings import PROJECT_ROOT
from tsfm_pipeline_tests.fleets.saved_datasets import item, save
from tsfm_pipeline_tests.http_server import QuietHandler, on_free_port

BOOM = BENCHMARKS["boom"]
NEWEST = "f" * 40


@contextmanager
def hub(files: dict[str, bytes], served: set[str] | None = None) -> Iterator[str]:
    """A server that publishes these files as Datadog/BOOM, at the pinned commit and at the newest;
    yields its address. served: gets the names of the files that it sends.
    """
    sent = set() if served is None else served

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            repository = f"datasets/{BOOM.repository}"
            if path == f"/api/{repository}/revision/main":
                self._send(json.dumps({"id": BOOM.repository, "sha": NEWEST}).encode())
                return
            for commit in (BOOM.revision, NEWEST):
                if path == f"/api/{repository}/tree/{commit}":
                    entries = [
                        {"type": "file", "path": name, "size": len(held), "oid": _digest(held)}
                        for name, held in files.items()
                    ]
                    self._send(json.dumps(entries).encode())
                    return
                name = path.removeprefix(f"/{repository}/resolve/{commit}/")
                if name in files:
                    sent.add(name)
                    self._send(files[name], commit)
                    return
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, body: bytes, commit: str | None = None) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if commit is not None:
                self.send_header("ETag", f'"{_digest(body)}"')
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    with on_free_port(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def _digest(held: bytes) -> str:
    return hashlib.sha1(held).hexdigest()


def fetch(
    tmp_path: Path, address: str, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """One `fleet fetch boom ...` in a process of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "hub"),
        "NO_PROXY": "127.0.0.1",
        "TSFM_FLEETS_DIR": str(tmp_path / "tables"),
        **variables,
    }
    command = [sys.executable, "-m", "tsfm_pipeline.cli", "fleet", "fetch", "boom", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=PROJECT_ROOT, env=environment, check=False
    )


def published(tmp_path: Path, *names: str) -> dict[str, bytes]:
    """The files of data sets of one item with these names, and a README, by path."""
    files = {"README.md": b"# BOOM"}
    for name in names:
        folder = save(tmp_path / "published" / name, [item("a", [1.0, 2.0, 3.0])])
        files |= {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return files


@pytest.mark.heavy
def test_one_data_set_is_brought_at_the_pinned_commit(tmp_path: Path) -> None:
    served: set[str] = set()
    with hub(published(tmp_path, "ds-0-T", "ds-0-T2"), served) as address:
        done = fetch(tmp_path, address, "ds-0-T")
    assert done.returncode == 0, done.stderr
    assert {str(Path(name).parent) for name in served} == {"ds-0-T"}
    folder = tmp_path / "tables" / "benchmarks" / "boom" / "ds-0-T"
    assert f"wrote {folder}" in done.stdout
    assert open_dataset(folder).items[0].n_steps == 3
    assert sorted(path.name for path in folder.parent.iterdir()) == ["ds-0-T"], "nothing else"
    origin = f"ds-0-T of https://huggingface.co/datasets/Datadog/BOOM at commit {BOOM.revision}"
    assert origin_of(folder) == origin


@pytest.mark.heavy
def test_a_branch_is_recorded_as_the_commit_that_it_was(tmp_path: Path) -> None:
    with hub(published(tmp_path, "ds-0-T")) as address:
        done = fetch(tmp_path, address, "ds-0-T", "--revision", "main", "--to", str(tmp_path / "x"))
    assert done.returncode == 0, done.stderr
    assert str(origin_of(tmp_path / "x")).endswith(NEWEST)


@pytest.mark.heavy
def test_a_name_that_is_no_data_set_or_several_is_refused(tmp_path: Path) -> None:
    with hub(published(tmp_path, "many/H", "many/D")) as address:
        several = fetch(tmp_path, address, "many")
        absent = fetch(tmp_path, address, "ds-9-T")
    assert several.returncode == absent.returncode == 2
    assert "many of boom holds 2 data sets; give one of them: many/D, many/H" in several.stderr
    assert "ds-9-T does not exist in Datadog/BOOM at commit" in absent.stderr
    assert not list((tmp_path / "tables" / "benchmarks" / "boom").iterdir()), "nothing is left"


@pytest.mark.heavy
def test_without_a_connection_the_message_says_what_to_do(tmp_path: Path) -> None:
    done = fetch(tmp_path, "http://127.0.0.1:9", "ds-0-T", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "ds-0-T of Datadog/BOOM" in done.stderr
    assert "could not be brought from the hub" in done.stderr
    assert f"hf download Datadog/BOOM --repo-type dataset --revision {BOOM.revision}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../secret", "/etc", "a/../b", "*", "", "a//b"])
def test_a_name_that_is_no_path_in_the_benchmark_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetDataError, match="is not the name of a data set"):
        bring("boom", name, tmp_path / "x")


def test_an_unknown_benchmark_and_an_existing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetDataError, match="no benchmark 'm5'; allowed: boom, gift-eval"):
        bring("m5", "a", tmp_path / "x")
    with pytest.raises(FleetDataError, match=r"already exists; delete it, or .* --to"):
        bring("boom", "ds-0-T", tmp_path)


def test_a_folder_that_was_not_fetched_has_no_origin(tmp_path: Path) -> None:
    assert origin_of(tmp_path) is None
