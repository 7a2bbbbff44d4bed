"""Test the file of events between a run and the terminal that waits for it."""

from pathlib import Path

from tsfm_pipeline.progress import Event, EventReader, append_event


def test_events_are_read_once_each_and_a_half_written_one_later(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.touch()
    reader = EventReader(path)
    assert reader.new() == []
    start = Event("start", 1.5, "forecast_grid", 7, "What would …?")
    end = Event("end", 2.5, "forecast_grid", 7, "12 rows", n_done=3, n_total=3, n_kept=1)
    assert append_event(path, start)
    with path.open("rb+") as file:
        line = file.read()
        file.truncate(0)
    half = len(line) // 2
    with path.open("wb", buffering=0) as file:
        file.write(line[:half])
        assert reader.new() == []
        file.write(line[half:])
        assert reader.new() == [start]
    assert append_event(path, end)
    assert reader.new() == [end]
    assert reader.new() == []


def test_where_nobody_waits_nothing_is_created(tmp_path: Path) -> None:
    assert not append_event(tmp_path / "gone.jsonl", Event("run", 0.0))
    assert not any(tmp_path.iterdir())
