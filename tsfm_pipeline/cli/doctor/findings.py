"""Findings of the doctor, and how they are shown: one table per section, or one JSON object.

What belongs here: the shape of a finding, its look. What does not: finding anything.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import typer

from tsfm_pipeline.cli.screen import say, show

Verdict = Literal["ok", "warning", "problem"]
STYLES: dict[Verdict, str] = {"ok": "", "warning": "yellow", "problem": "red"}
"""Also the order, best first."""
TABLE = "table "
"""How the name of a finding about a table begins."""
MOST_NAMES = 4
"""Tables of one finding that are named on the screen; in JSON each has its own."""


class Finding(NamedTuple):
    """One thing that was looked at: what, what was found, how good that is, and what to do."""

    what: str
    finding: str
    status: Verdict = "ok"
    remedy: str = ""


class Section(NamedTuple):
    """Findings that belong together; `key` names them in JSON."""

    key: str
    title: str
    findings: list[Finding]


def worst(sections: Iterable[Section]) -> Verdict:
    """Return the worst verdict of all findings."""
    order = list(STYLES)
    verdicts = (finding.status for section in sections for finding in section.findings)
    return max(verdicts, key=order.index, default="ok")


def print_json(sections: Sequence[Section]) -> None:
    """Print {status, sections: {key: {title, findings: {what: {finding, status, remedy}}}}}."""
    content = {
        section.key: {
            "title": section.title,
            "findings": {
                finding.what: {
                    "finding": finding.finding,
                    "status": finding.status,
                    "remedy": finding.remedy,
                }
                for finding in section.findings
            },
        }
        for section in sections
    }
    typer.echo(json.dumps({"status": worst(sections), "sections": content}, indent=1))


def print_tables(sections: Sequence[Section]) -> None:
    """Print a table per section, and how many findings want attention."""
    for section in sections:
        rows = _folded(section.findings)
        styles = [STYLES[row.status] for row in rows]
        cells = [(row.what, row.status, row.finding, row.remedy) for row in rows]
        show(section.title, ("what", "status", "finding", "remedy"), cells, styles)
    statuses = [finding.status for section in sections for finding in section.findings]
    verdict = worst(sections)
    counted = [
        f"{n} {word}{'' if n == 1 else 's'}"
        for word in ("problem", "warning")
        if (n := statuses.count(word))
    ]
    say(", ".join(counted) or "all is well", STYLES[verdict] or "green")


def _folded(findings: Sequence[Finding]) -> list[Finding]:
    """Tables of which the same is said, one after the other, in one row."""
    rows = []
    for _, group in groupby(findings, lambda f: f[1:] if f.what.startswith(TABLE) else f):
        same = list(group)
        if len(same) > 1:
            names = [finding.what.removeprefix(TABLE) for finding in same]
            few = len(names) <= MOST_NAMES
            what = f"tables {', '.join(names)}" if few else f"{len(names)} tables"
            rows.append(same[0]._replace(what=what))
        else:
            rows += same
    return rows
