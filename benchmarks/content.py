"""Compare the content of two lakes, regardless of how their files are split and compressed.

`python benchmarks/content.py LAKE_DIR [OTHER]` prints one JSON object. With one lake, it is the
SHA-256 of every table's content as `{"<fleet>/<table>": digest}`. With two lakes, it lists their
differences, and the exit status is 1 if there are any. The content of a table is its sorted rows as
Arrow IPC without metadata. Reports beside the lakes (`../reports/<fleet>/*.json`) are compared
value by value, except for fingerprints and clock readings; with `--float-digits 12`, numbers are
compared to 12 significant digits. A folder that is missing or holds no table is an error (status
2).

What belongs here: comparing stored results. What does not: making them.
"""

import argparse
import hashlib
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

CLOCKED = ("C4", "C5")
"""Acceptance criteria that measure latency."""
NOT_COMPARED = re.compile(
    r"_ms$|_per_s$|achieved_share_of_floor$|^largest_k_within_budget$|^time$|^git_commit$|fingerprint$"
    rf"|^n_(pass|fail|null|na)$|^verdict_({'|'.join(CLOCKED)})$"
)
"""Keys of reports whose values depend on a clock or on the version of the code."""


def table_digest(folder: Path) -> str:
    """Return the SHA-256 of a table's content. `folder` holds its parts and its record, of this
    schema version or the previous one.
    """
    record = json.loads((folder / "_table.json").read_text())
    names = [part if isinstance(part, str) else part["name"] for part in record["parts"]]
    frame = pl.scan_parquet([folder / name for name in names], glob=False).collect()
    keys = [name for name, dtype in frame.schema.items() if not dtype.is_nested()]
    with io.BytesIO() as buffer:
        frame.sort(keys, maintain_order=True).rechunk().write_ipc(
            buffer, compat_level=pl.CompatLevel.oldest()
        )
        return hashlib.sha256(buffer.getvalue()).hexdigest()


def digests(lake: Path) -> dict[str, str]:
    """Return the digest of every finished table by `<fleet>/<table>`.

    Raises FileNotFoundError if `lake` is not a folder or holds no finished table.
    """
    if not lake.is_dir():
        raise FileNotFoundError(f"there is no folder {lake.absolute()}; give the folder of a lake")
    records = sorted(lake.glob("*/*/_table.json"))
    if not records:
        raise FileNotFoundError(
            f"{lake.absolute()} holds no finished table: no file matches "
            "<fleet>/<table>/_table.json; give the folder of a lake, e.g. data/lake"
        )
    return {
        f"{path.parent.parent.name}/{path.parent.name}": table_digest(path.parent)
        for path in records
    }


def reports(lake: Path) -> dict[str, Any]:
    """Return the reports beside a lake by `<fleet>/<name>`."""
    paths = sorted((lake.parent / "reports").glob("*/*.json"))
    return {f"{path.parent.name}/{path.name}": json.loads(path.read_text()) for path in paths}


def differences(one: Any, other: Any, where: str, digits: int | None = None) -> Iterator[str]:
    """Yield where two JSON values differ, and how. Skip keys that are not compared."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.get("id") == other.get("id") and one.get("id") in CLOCKED:
            return
        for key in sorted(one.keys() | other.keys()):
            if NOT_COMPARED.search(key):
                continue
            if key in one and key in other:
                yield from differences(one[key], other[key], f"{where}.{key}", digits)
            else:
                yield f"{where}.{key}: only in {'the first' if key in one else 'the other'}"
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{where}[{i}]", digits)
    elif _rounded(one, digits) != _rounded(other, digits):
        yield f"{where}: {one!r} and {other!r}"


def _rounded(value: Any, digits: int | None) -> Any:
    return float(f"{value:.{digits}g}") if digits and isinstance(value, float) else value


def compare(one: Path, other: Path, digits: int | None = None) -> list[str]:
    """Return the differences between two lakes and the reports beside them, one line each; empty if
    they hold the same.
    """
    of_one, of_other = digests(one), digests(other)
    lines = [
        f"{table}: only in {one if table in of_one else other}"
        for table in sorted(of_one.keys() ^ of_other.keys())
    ]
    lines += [
        f"{table}: other content"
        for table in sorted(of_one.keys() & of_other.keys())
        if of_one[table] != of_other[table]
    ]
    return lines + list(differences(reports(one), reports(other), "reports", digits))


def main() -> int:
    """Print the digests or the differences that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake", type=Path, metavar="LAKE_DIR")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER")
    parser.add_argument(
        "--float-digits",
        type=int,
        help="significant digits in which the reports' numbers must agree; default: all",
    )
    options = parser.parse_args()
    try:
        if options.other is None:
            print(json.dumps(digests(options.lake), indent=1))
            return 0
        lines = compare(options.lake, options.other, options.float_digits)
    except FileNotFoundError as error:
        parser.error(str(error))
    print(json.dumps({"equal": not lines, "differences": lines}, indent=1))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
