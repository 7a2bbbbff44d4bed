"""The experiment ledger as a markdown table, for Dagster metadata.

What belongs here: choosing and formatting the columns that people compare between runs. What does not: writing the ledger
(`stages.acceptance`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tsfm_pipeline.reporting.wording import interval

TIER = "standard"


def ledger_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line per materialisation, newest first: time, commit, checkpoint, requests, and the standard tier's ratio with its interval."""
    lines = ["| time (UTC) | commit | checkpoint | requests | ratio, standard tier |", "|---|---|---|---|---|"]
    for row in reversed(rows):
        ratio = interval(
            *(float("nan") if row[key] is None else row[key] for key in (f"{TIER}_ratio", f"{TIER}_ratio_low", f"{TIER}_ratio_high"))
        )
        commit = (row["git_commit"] or "none")[:10]
        lines.append(f"| {str(row['time'])[:16]} | {commit} | {row['checkpoint_sha256'][:10]} | {row['n_requests']} | {ratio} |")
    return "\n".join(lines)
