"""The items of a folder that Hugging Face's `datasets` saved: their times, frequency and values.

What belongs here: the columns of BOOM and GIFT-Eval (`item_id`, `start`, `freq`, `target`), and
what is wrong with them. What does not: the files of the folder (`fleets.saved_folders`), the grid
of a fleet (`fleets.saved_dataset`), the windows of a benchmark (`evaluation.public_benchmarks`).

`target` is a list of numbers (one series) or a list of such lists (one per variate). The files are
mapped, not loaded: an item's values are read when they are asked for.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tsfm_pipeline.evaluation.frequencies import Frequency, frequency_of
from tsfm_pipeline.fleets.saved_folders import data_files
from tsfm_pipeline.fleets.source import FleetDataError, listed

COLUMNS = ("item_id", "start", "freq", "target")
LARGEST = 1e33
"""Values beyond it, as infinities, count as missing: the forecaster refuses them."""


@dataclass(frozen=True)
class Item:
    """One item: its id, the time of its first step (UTC), its number of variates and of steps.

    row: its place in the data set. univariate: its target is one list of numbers.
    """

    item_id: str
    row: int
    start: datetime
    n_variates: int
    n_steps: int
    univariate: bool


def variate_ids(item: Item) -> list[str]:
    """Return an id for each variate of an item, as GIFT-Eval calls them; the item's own id for a
    single one.
    """
    if item.n_variates == 1:
        return [item.item_id]
    return [f"{item.item_id}_dim{variate}" for variate in range(item.n_variates)]


@dataclass(frozen=True, eq=False)
class SavedDataset:
    """A folder of `datasets`, opened by `open_dataset`. left_out: its columns that are not read."""

    folder: Path
    files: tuple[Path, ...]
    table: pa.Table
    frequency: Frequency
    items: tuple[Item, ...]
    left_out: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the name of the folder, such as ds-0-T."""
        return self.folder.name

    def values(self, item: Item) -> NDArray[np.float32]:
        """Return the values of an item float32 [V, T], NaN where missing or not finite."""
        cell = self.table.column("target")[item.row].values
        series = [cell] if item.univariate else [own.values for own in cell]
        values = np.stack(
            [np.asarray(own.to_numpy(zero_copy_only=False), dtype=np.float64) for own in series]
        )
        with np.errstate(invalid="ignore"):
            return np.where(np.abs(values) <= LARGEST, values, np.nan).astype(np.float32)

    @cached_property
    def variate_names(self) -> tuple[str, ...]:
        """Return the names of the variates: those of the first column of texts that has one for
        each variate and the same ones in each item; empty where there is none.
        """
        for name in self.left_out:
            column = self.table.column(name)
            if not (_is_list(column.type) and _is_text(column.type.value_type)):
                continue
            names = {tuple(cell or ()) for cell in column.to_pylist()}
            given = names.pop() if len(names) == 1 else ()
            counts = {item.n_variates for item in self.items}
            if counts == {len(given)} and len(set(given)) == len(given) and all(given):
                return given
        return ()


def open_dataset(folder: Path) -> SavedDataset:
    """Open a folder and check its items.

    Raises `FleetDataError`, which names the folder, the file or the item and what is allowed.
    """
    folder = folder.expanduser().absolute()
    files = data_files(folder)
    table = _table(files)
    absent = [name for name in COLUMNS if name not in table.column_names]
    if absent:
        raise FleetDataError(
            f"{folder}: no column {', '.join(map(repr, absent))}; it holds "
            f"{', '.join(table.column_names)}. Allowed: the columns {', '.join(COLUMNS)}, as in "
            "BOOM and GIFT-Eval"
        )
    if not table.num_rows:
        raise FleetDataError(f"{folder}: no items; allowed: at least one")
    items = _items(folder, table)
    return SavedDataset(
        folder=folder,
        files=files,
        table=table,
        frequency=_frequency(folder, table),
        items=items,
        left_out=tuple(name for name in table.column_names if name not in COLUMNS),
    )


def _table(files: tuple[Path, ...]) -> pa.Table:
    parts = []
    for path in files:
        try:
            parts.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowInvalid, OSError) as error:
            reason = " ".join(str(error).split())
            raise FleetDataError(
                f"{path} is not an Arrow IPC stream: {reason}; copy or download it again (a file "
                "of a few lines of text is a pointer of Git LFS)"
            ) from error
    try:
        return pa.concat_tables(parts)
    except pa.ArrowInvalid as error:
        raise FleetDataError(f"{files[0].parent}: its data files differ in columns: {error}") from (
            error
        )


def _items(folder: Path, table: pa.Table) -> tuple[Item, ...]:
    ids = [str(value) for value in table.column("item_id").to_pylist()]
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise FleetDataError(
            f"{folder}, column 'item_id': {len(twice)} ids are given to more than one item: "
            f"{listed(twice)}; allowed: one item per id"
        )
    start = table.column("start")
    if pa.types.is_timestamp(start.type):
        start = start.cast(pa.timestamp("us", tz=start.type.tz), safe=False)
    starts = start.to_pylist()
    target = table.column("target")
    univariate = _is_list(target.type) and _is_number(target.type.value_type)
    if not univariate and not (
        _is_list(target.type)
        and _is_list(target.type.value_type)
        and _is_number(target.type.value_type.value_type)
    ):
        raise FleetDataError(
            f"{folder}, column 'target': it is {target.type}; allowed: a list of numbers, or a "
            "list of such lists, one per variate"
        )
    items = []
    for row, name in enumerate(ids):
        cell = target[row].values
        if cell is None:
            lengths = []
        elif univariate:
            lengths = [len(cell)]
        else:
            lengths = [0 if own.values is None else len(own.values) for own in cell]
        if not lengths or min(lengths) != max(lengths) or not lengths[0]:
            held = "nothing" if not lengths or not max(lengths) else f"{sorted(set(lengths))} steps"
            raise FleetDataError(
                f"{folder}, item {name!r}: its target holds {held}; allowed: at least one step, "
                "and as many in each variate"
            )
        items.append(
            Item(name, row, _time(folder, name, starts[row]), len(lengths), lengths[0], univariate)
        )
    return tuple(items)


def _time(folder: Path, item: str, start: Any) -> datetime:
    """Return a start as a time in UTC; one without a time zone is UTC."""
    time = _parsed(start) if isinstance(start, str) else start
    if isinstance(time, date) and not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    if not isinstance(time, datetime):
        raise FleetDataError(
            f"{folder}, item {item!r}: its start is {start!r}; allowed: a time, or its text in "
            "ISO 8601"
        )
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _parsed(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _frequency(folder: Path, table: pa.Table) -> Frequency:
    names = table.column("freq").unique().to_pylist()
    try:
        found = {frequency_of(str(name)) for name in names}
    except ValueError as error:
        raise FleetDataError(f"{folder}, column 'freq': {error}") from error
    if len(found) > 1:
        raise FleetDataError(
            f"{folder}, column 'freq': it holds {', '.join(sorted(map(repr, names)))}; allowed: "
            "one frequency in all items. Save the items of each frequency as a data set of its own"
        )
    return found.pop()


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
