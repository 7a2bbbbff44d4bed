"""Findings of the doctor, and how they are shown: one table per section, or one JSON object.

What belongs here: the parts of a finding, and how it is printed. What does not: the examinations.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import typer

from tsfm_pipeline.cli.screen import say, show

Verdict = Literal["ok", "warning", "problem"]
STYLES: dict[Verdict, str] = {"ok": "", "warning": "yellow", "problem": "red"}
"""The order of the keys is that of severity, mildest first."""
TABLE = "table "
"""Start of the name of a finding about a table."""
MOST_NAMES = 4
"""Number of tables up to which a row on the screen names them; JSON has one finding per table."""


class Finding(NamedTuple):
    """The result of one examination: its subject, what was found, a verdict, and what to do."""

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
    """Print a table per section, and the number of problems and warnings."""
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
    """Return the findings with neighbouring tables that share a finding in one row."""
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
