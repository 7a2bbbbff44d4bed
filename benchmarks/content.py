"""Do two lakes hold the same, whatever their files look like?

`python benchmarks/content.py LAKE_DIR [OTHER]` prints one JSON object: the SHA-256 of every table's
content as `{"<fleet>/<table>": digest}`, or, given another lake, what differs between the two, and
ends with status 1 if anything does. The content of a table is its rows, sorted, as Arrow IPC
without metadata, so that how it is split and compressed does not count. Reports that lie beside the
lakes (`../reports/<fleet>/*.json`) are compared value by value, but for what a clock measured and
for fingerprints; with `--float-digits 12` up to so many digits.

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
"""Acceptance criteria that are about latency."""
NOT_COMPARED = re.compile(
    r"_ms$|_per_s$|achieved_share_of_floor$|^largest_k_within_budget$|^time$|^git_commit$|fingerprint$"
    rf"|^n_(pass|fail|null|na)$|^verdict_({'|'.join(CLOCKED)})$"
)
"""Keys of reports that a clock or the code's version decide."""


def table_digest(folder: Path) -> str:
    """SHA-256 of a table's content; `folder` holds its parts and its record, of this schema version
    or the one before.
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
    """The digest of every finished table by `<fleet>/<table>`."""
    records = sorted(lake.glob("*/*/_table.json"))
    return {
        f"{path.parent.parent.name}/{path.parent.name}": table_digest(path.parent)
        for path in records
    }


def reports(lake: Path) -> dict[str, Any]:
    """The reports beside a lake by `<fleet>/<name>`."""
    paths = sorted((lake.parent / "reports").glob("*/*.json"))
    return {f"{path.parent.name}/{path.name}": json.loads(path.read_text()) for path in paths}


def differences(one: Any, other: Any, where: str, digits: int | None = None) -> Iterator[str]:
    """Where two JSON values differ, and how; keys that are not compared are passed over."""
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
    """What differs between two lakes and the reports beside them, a line each; nothing where they
    hold the same.
    """
    ours, theirs = digests(one), digests(other)
    found = [
        f"{table}: only in {one if table in ours else other}"
        for table in sorted(ours.keys() ^ theirs.keys())
    ]
    found += [
        f"{table}: other content"
        for table in sorted(ours.keys() & theirs.keys())
        if ours[table] != theirs[table]
    ]
    return found + list(differences(reports(one), reports(other), "reports", digits))


def main() -> int:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lake", type=Path, metavar="LAKE_DIR")
    parser.add_argument("other", type=Path, nargs="?", metavar="OTHER")
    parser.add_argument(
        "--float-digits",
        type=int,
        help="significant digits of reports' numbers that must agree; default: all",
    )
    chosen = parser.parse_args()
    if chosen.other is None:
        print(json.dumps(digests(chosen.lake), indent=1))
        return 0
    found = compare(chosen.lake, chosen.other, chosen.float_digits)
    print(json.dumps({"equal": not found, "differences": found}, indent=1))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
