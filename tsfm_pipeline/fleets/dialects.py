"""Opening one file of a table, whatever dialect it is written in.

What belongs here: the separator of a CSV file, the lines above its header, InfluxDB's annotations,
columns of bytes, and the folders of a partitioned table. What does not: which column has which role
(`fleets.columns`), times (`fleets.times`), one column per series (`fleets.series_layout`).

The first lines of a CSV file decide how it is read. Lines that cannot be data are skipped:
`sep=;`, comments that begin with `#`, and the title of a Grafana panel. Anything else above the
header, and a file without a header, is refused with its line.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from tsfm_pipeline.fleets.source import TOO_MANY_VALUES, FleetDataError, cell_text
from tsfm_pipeline.fleets.times import form_of

NOT_UTF8 = "\ufffd"
SEPARATORS = ",;\t|"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_INFLUX = ("#group", "#datatype", "#default")
_INFLUX_OWN = ("", "result", "table")
"""Columns that InfluxDB adds to every answer; they describe the answer and not the series."""
_GRAFANA_HEADERS = ("Time", "Series")
_HEAD_LINES = 12
_MOST_HEAD_BYTES = 16 * 2**20
_MISSING = ("", "null", "nan", "none", "na", "n/a", "-", "\\n", "undefined")
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Block:
    """One header with its rows. skipped: lines of the file above the header. n_rows: None for all
    that follow. span: the bytes of the block. defaults: what an empty cell of a column means, where
    the file says so.
    """

    skipped: int = 0
    n_rows: int | None = None
    span: tuple[int, int] = (0, 0)
    defaults: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written. dropped: columns that describe the file and not its rows."""

    separator: str = ","
    blocks: tuple[Block, ...] = (Block(),)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    quotes_in_names: bool = False


def scan(path: Path, *, infer_rows: int = 0, decoded: bool = True) -> pl.LazyFrame:
    """Scan one file lazily, with the keys of its partition (folders like `week=3`) as columns of
    text. Every column of a CSV is text, unless types are to be inferred from `infer_rows` rows.
    decoded: columns of bytes are read as UTF-8, and anything else is an error once it is collected.

    Raises `FleetDataError` for a CSV file whose header is not what its first lines say.
    """
    frame = _scan_csv(path, infer_rows) if path.suffix == ".csv" else _scan_parquet(path, decoded)
    keys = partition_of(path)
    if not keys:
        return frame
    own = frame.collect_schema().names()
    return frame.with_columns(
        pl.lit(value, pl.String).alias(key) for key, value in keys.items() if key not in own
    )


def first_rows(path: Path, n_rows: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return the first rows of a file, to look at: in bytes that are not UTF-8, `NOT_UTF8` stands
    for what cannot be read.
    """
    frame = scan(path, decoded=False)
    rows = (frame if columns is None else frame.select(columns)).head(n_rows).collect()
    return rows.with_columns(
        pl.Series(
            name,
            [None if cell is None else cell.decode("utf-8", "replace") for cell in rows[name]],
            dtype=pl.String,
        )
        for name, dtype in rows.schema.items()
        if dtype == pl.Binary
    )


def partition_of(path: Path) -> dict[str, str | None]:
    """Return the keys and values of the folders `key=value` right above a file, outermost first."""
    keys: dict[str, str | None] = {}
    for folder in path.parents:
        key, equals, value = folder.name.partition("=")
        if not key or not equals:
            break
        keys = {unquote(key): None if value == _NULL_PARTITION else unquote(value)} | keys
    return keys


def dialect_of(path: Path) -> Dialect:
    """Return how a CSV file is written, from its first lines; read once as long as the file stays
    the same. Raises as `scan`.
    """
    status = path.stat()
    return _dialect(path, status.st_size, status.st_mtime_ns)


def dialect_notes(path: Path) -> tuple[str, ...]:
    """Return notes for people about the dialect of a file."""
    return dialect_of(path).notes if path.suffix == ".csv" else ()


def _scan_parquet(path: Path, decoded: bool) -> pl.LazyFrame:
    """Scan a Parquet file; columns of bytes are read as UTF-8, as ClickHouse means them."""
    frame = pl.scan_parquet(path, glob=False, hive_partitioning=False)
    as_bytes = [name for name, dtype in frame.collect_schema().items() if dtype == pl.Binary]
    return frame.with_columns(pl.col(as_bytes).cast(pl.String)) if as_bytes and decoded else frame


def _scan_csv(path: Path, infer_rows: int) -> pl.LazyFrame:
    dialect = dialect_of(path)
    frames = []
    for block in dialect.blocks:
        whole = len(dialect.blocks) == 1
        frame = pl.scan_csv(
            path if whole else _content(path, block),
            separator=dialect.separator,
            skip_lines=block.skipped if whole else 0,
            n_rows=block.n_rows,
            infer_schema=infer_rows > 0,
            infer_schema_length=infer_rows or None,
            with_column_names=_unquoted if dialect.quotes_in_names else None,
            glob=False,
        )
        filled = [pl.col(column).fill_null(word) for column, word in block.defaults]
        frames.append(frame.with_columns(filled) if filled else frame)
    rows = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
    return rows.drop(dialect.dropped, strict=False) if dialect.dropped else rows


def _content(path: Path, block: Block) -> io.BytesIO:
    """Return the bytes of one block. polars takes two scans of one file that skip different lines
    for the same (1.44), so that blocks are not scanned in the file.
    """
    begin, end = block.span
    with path.open("rb") as file:
        file.seek(begin)
        return io.BytesIO(file.read(end - begin))


def _unquoted(names: list[str]) -> list[str]:
    """Return names with the doubled quotes of CSV as single ones, which polars leaves double."""
    return [name.replace('""', '"') for name in names]


@lru_cache(maxsize=4096)
def _dialect(path: Path, size: int, modified_ns: int) -> Dialect:
    lines = _first_lines(path)
    if not any(lines):
        return Dialect()  # polars says that the file is empty
    if lines[0].startswith(_INFLUX):
        return _influx(path)
    separator, skipped, notes = None, 0, []
    while skipped < len(lines):
        line = lines[skipped]
        declared = line.strip('"')
        if declared.lower().startswith("sep=") and len(declared) == 5:
            separator = declared[4]
        elif line.startswith("#"):
            notes.append(f"line {skipped + 1} is a comment and is not read: {line[:60]}")
        elif line.strip():
            break
        skipped += 1
    separator, n_titles = _above_header(path, lines, skipped, separator)
    if n_titles:
        notes.append(f"line {skipped + 1} is a title and is not read: {lines[skipped][:60]}")
    skipped += n_titles
    if separator != ",":
        notes.append(f"values are separated by {_NAMES.get(separator, repr(separator))}")
    cells = _cells(lines[skipped:], separator)
    if cells and cells[0][:3] == list(_INFLUX_OWN):
        return _influx(path)
    _require_header(path, skipped, cells, lines)
    names = cells[0] if cells else []
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        notes.append(f"several columns have the same name: {', '.join(twice)}")
    quotes = '""' in next((line for line in lines[skipped:] if line.strip()), "")
    return Dialect(separator, (Block(skipped),), (), tuple(notes), quotes)


@contextmanager
def long_rows_named(paths: Sequence[Path]) -> Iterator[None]:
    """Add the first row that has more values than columns to an error that says there is one."""
    try:
        yield
    except FleetDataError as error:
        if TOO_MANY_VALUES not in str(error):
            raise
        found = next(filter(None, map(_long_row, paths)), None)
        if found is None:
            raise
        path, number, values, n_columns = found
        where = f" of {path.name}" if len(paths) > 1 else ""
        raise FleetDataError(
            f"{error}; row {number}{where} (row 1 is the first under the header) has {len(values)} "
            f"values in {n_columns} columns: {cell_text(', '.join(map(repr, values)))}"
        ) from error


def _long_row(path: Path) -> tuple[Path, int, list[str], int] | None:
    """Return the first row of a CSV file that has more values than columns, with its number and
    that of the columns; None where there is none, and for files of several blocks.
    """
    if path.suffix != ".csv":
        return None
    dialect = dialect_of(path)
    if len(dialect.blocks) > 1:
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for _ in range(dialect.blocks[0].skipped):
            next(file, None)
        rows = csv.reader(file, delimiter=dialect.separator)
        n_columns = len(next(rows, []))
        for number, row in enumerate(rows, 1):
            if len(row) > n_columns:
                return path, number, row, n_columns
    return None


def _first_lines(path: Path) -> list[str]:
    """Return the first lines of a file without their ends."""
    with path.open("rb") as file:
        content = file.read(2**16)
        while content.count(b"\n") < _HEAD_LINES and len(content) < _MOST_HEAD_BYTES:
            more = file.read(2**20)
            if not more:
                break
            content += more
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FleetDataError(f"{path}: text in UTF-16; allowed: UTF-8. Save the file as UTF-8")
    text = content.decode("utf-8-sig", errors="replace")
    lines = text.split("\n")
    whole = lines if len(lines) <= _HEAD_LINES else lines[:_HEAD_LINES]
    return [line.removesuffix("\r") for line in whole]


def separator_of(lines: Sequence[str]) -> str:
    """Return what separates the values of these lines, the header first. Commas, unless another
    separator cuts every line into as many values as the header and commas do not.
    """

    def cuts(separator: str) -> bool:
        counts = [len(cells) for cells in _cells(lines, separator)]
        return len(counts) > 0 and counts[0] > 1 and set(counts) == {counts[0]}

    if not lines or cuts(","):
        return ","
    others = [separator for separator in SEPARATORS[1:] if cuts(separator)]
    return others[0] if len(others) == 1 else ","


def _cells(lines: Sequence[str], separator: str) -> list[list[str]]:
    """Return the values of each line that is not empty."""
    try:
        cells = list(csv.reader((line for line in lines if line.strip()), delimiter=separator))
    except csv.Error:
        return []
    return [[cell.strip() for cell in row] for row in cells]


def _above_header(
    path: Path, lines: list[str], skipped: int, separator: str | None
) -> tuple[str, int]:
    """Return the separator, and how many lines from `skipped` on are the title of a Grafana panel:
    one value, then, after empty lines, a header that begins with Time.

    Raises `FleetDataError` for another line above the header: it has fewer values than the line of
    words that follows, and below that line stand times or numbers.
    """
    rows = lines[skipped:]
    for n_above in range(len(rows) - 1):
        own = separator or separator_of([row for row in rows[n_above:] if row.strip()])
        cells = _cells(rows[n_above:], own)
        if not rows[n_above].strip() or len(cells) < 2 or not 1 < len(cells[0]) == len(cells[1]):
            continue
        titles = _cells(rows[:n_above], own)
        kinds = [{_kind(cell) for cell in row} - {""} for row in cells[:2]]
        if kinds[0] != {"word"} or kinds[1] == {"word"} or not n_above:
            break
        if len(titles) == len(titles[0]) == 1 and cells[0][0] in _GRAFANA_HEADERS:
            return own, n_above
        where = skipped + n_above + 1
        raise FleetDataError(
            f"{path}, line {skipped + 1}: {rows[0][:60]!r} stands above the names of the columns, "
            f"which are in line {where}; allowed: the names in the first line. Delete the lines "
            f"above line {where}"
        )
    return separator or separator_of(rows), 0


def _require_header(path: Path, skipped: int, cells: list[list[str]], lines: list[str]) -> None:
    """Raise `FleetDataError` where the header reads as a row of data: each of its values is a time,
    a number or a word like a value below it, and not all are words.
    """
    if len(cells) < 2:
        return
    header, rows = cells[0], cells[1:]
    kinds = [_kind(name) for name in header]
    below = [{_kind(row[j]) for row in rows if j < len(row)} - {""} for j in range(len(header))]
    if set(kinds) <= {"word", ""} or any(
        kind and own and kind not in own for kind, own in zip(kinds, below, strict=True)
    ):
        return
    hint = (
        f"Line {skipped} begins with '#' and is taken for a comment; if it holds the names, delete "
        "the '#'"
        if skipped and lines[skipped - 1].startswith("#")
        else "Add one, like 'time,host,cpu'"
    )
    raise FleetDataError(
        f"{path}, line {skipped + 1}: {', '.join(header)[:100]!r} reads as a row of data and not "
        f"as a header; allowed: a first line with the names of the columns. {hint}"
    )


def _kind(cell: str) -> str:
    """Return whether a value is a time, a number or a word; '' where it is missing."""
    if cell.lower() in _MISSING:
        return ""
    try:
        float(cell)
    except ValueError:
        return "time" if form_of(cell) is not None else "word"
    return "word" if cell[0].isalpha() else "number"


def _influx(path: Path) -> Dialect:
    """Return the dialect of InfluxDB's answers: tables one below the other, each with a header of
    its own and, if it is annotated, lines that begin with `#` above it.
    """
    blocks: list[Block] = []
    annotated: dict[str, list[str]] = {}
    header: list[str] = []
    first_line = first_byte = offset = number = 0

    def finish() -> None:
        if number > first_line + 1 and header:
            named = zip(header, annotated.get("#default", []), strict=False)
            defaults = tuple((n, word) for n, word in named if word and n not in _INFLUX_OWN)
            n_rows = number - first_line - 1
            blocks.append(Block(first_line, n_rows, (first_byte, offset), defaults))
        header.clear()

    with path.open("rb") as file:
        for line in file:
            if line.startswith(b"#") or not line.strip():
                finish()
                if line.strip():
                    name, *values = _cells([line.decode("utf-8", "replace")], ",")[0]
                    annotated[name] = ["", *values]
                else:
                    annotated = {}
            elif not header:
                header += _cells([line.decode("utf-8", "replace")], ",")[0]
                first_line, first_byte = number, offset
            number, offset = number + 1, offset + len(line)
        finish()
    if not blocks:
        raise FleetDataError(f"{path}: InfluxDB's answer has no rows; allowed: at least one table")
    tables = f"{len(blocks)} tables" if len(blocks) > 1 else "one table"
    return Dialect(",", tuple(blocks), _INFLUX_OWN, (f"read as InfluxDB's CSV, {tables}",))
