"""Test the online service where its files fail: a full disk, and published files that are damaged.
Answers go on in both cases.

What belongs here: files under a service that listens. What does not: the recorder and the reading
of published files by themselves (`serving/test_recorder`, `serving/test_published`).
"""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tsfm_pipeline_tests.faults.test_full_disk import OWN_MOUNTS, can_mount
from tsfm_pipeline_tests.serving.live import Model, live, until
from tsfm_pipeline_tests.serving.test_app import published_calibration

DISK_BYTES = 65_536
GARBAGE = {"garbage": b"\x00\xff" * 500, "cut-off": b'{"as_of": "2026-', "empty": b""}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_published_file_that_is_replaced_by_garbage_changes_nothing_but_the_log(
    garbage: bytes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A test that started the service in this process may have sent its log elsewhere.
    monkeypatch.setattr(logging.getLogger("tsfm_pipeline.serving"), "propagate", True)
    version = published_calibration(tmp_path)
    with live(Model(), published_dir=tmp_path, reload_s=0.01) as running:
        until(lambda: running.forecast().json()["conformal"] is not None)
        with caplog.at_level(logging.WARNING):
            (tmp_path / "calibration.json").write_bytes(garbage)
            (tmp_path / "rollout.json").write_bytes(garbage)
            until(lambda: running.client.get("/ready").json()["calibration"]["problem"])
            until(lambda: running.client.get("/ready").json()["rollout"]["problem"])
        assert running.forecast(market_id="other").json()["conformal"]["version"] == version
        for name in ("calibration.json", "rollout.json"):
            (line,) = {text for text in caplog.messages if name in text}
            assert "cannot be read; the last good content stays" in line
        newer = published_calibration(tmp_path, horizon=24)
        until(lambda: running.forecast().json()["conformal"]["version"] == newer)


FILLING = """
import sys
from pathlib import Path
from tsfm_pipeline_tests.serving import live
from tsfm_pipeline.serving import build, recorder

disk = Path(sys.argv[1])

def quick(*arguments):
    return recorder.Recorder(*arguments, every_s=0.2)

build.Recorder = quick
with live.live(live.Model(), records_dir=disk / "records") as running:
    written, failed = (f'tsfm_recorded_total{{result="{r}"}}' for r in ("written", "failed"))

    def count(sample):
        return running.metric(sample) if sample in running.client.get("/metrics").text else 0

    running.forecast()
    live.until(lambda: count(written) == 1)
    (disk / "other").write_bytes(bytes(int(sys.argv[2]) - 2 * 16_384))
    filler = (disk / "rest").open("wb", buffering=0)
    try:
        while True:
            filler.write(bytes(1_024))
    except OSError as error:
        print(error)
    assert running.forecast(market_id="b").status_code == 200
    live.until(lambda: count(failed) == 1)
    assert running.forecast(market_id="c").json()["meta"]["runtime"] == "local"
    live.until(lambda: count(failed) == 2)
    (disk / "other").unlink()
    assert running.forecast(market_id="d").status_code == 200
    live.until(lambda: count(written) == 2)
print("files:", sorted(p.suffix for p in (disk / "records").iterdir()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="a small disk needs `unshare --map-root-user --mount`")
def test_a_full_disk_costs_records_but_no_answer_and_with_room_they_go_on(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size={DISK_BYTES} tsfm {tmp_path}"
    command = [*OWN_MOUNTS, "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, "-c"]
    command += [FILLING, str(tmp_path), str(DISK_BYTES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert "No space left on device" in run.stdout
    assert "1 records are lost: no room to write" in run.stderr
    assert "files: ['.parquet', '.parquet']" in run.stdout
