"""The bars of the study: what it must reach, and whether it does.

What belongs here: the limits, which were set before anything was measured, and the table about
them. What does not: the figures (`numbers`), and sentences about them (`words`).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from tsfm_pipeline.reports.shared.model import Estimate
from tsfm_pipeline.reports.shared.table import Table
from tsfm_pipeline.reports.shared.wording import (
    interval,
    milliseconds,
    number,
    percent_interval,
    ratio_interval,
)
from tsfm_pipeline.studies.time_r1.methods import DRAFT, SFT_PLAIN_GREEDY, SLOW_THINKING
from tsfm_pipeline.studies.time_r1.report.model import Question, SlowThinkingReport

MASE_IS_SET_FOR: Question = ("ETTh1", 24, "own")
"""The only question that limits of MASE were set for."""
PLAIN_MASE, SLOW_MASE = 1.00, 0.85
OVER_PLAIN = 0.9
"""Slow thinking must lower the MASE of the supervised policy without a draft by a tenth."""
FREE_RATE, CONSTRAINED_RATE = 0.995, 1.0
KL_NATS = 0.1
P95_MS, P95_IS_SET_FOR = 1500.0, 128
"""Milliseconds, and the steps of the request that this limit was set for."""
FORMAT_LOSS = 0.05
"""Of the tags on validation windows, in nats per token."""


class Bar(NamedTuple):
    """What is asked, what was measured, and whether it is met; None where it was not measured."""

    asked: str
    measured: str
    met: bool | None


def bars(report: SlowThinkingReport) -> list[Bar]:
    """Return every bar that applies to the headline."""
    return [*_errors(report), *_others(report)]


def bars_table(report: SlowThinkingReport) -> Table:
    """Return the bars with their verdicts."""
    said = {True: "PASS", False: "FAIL", None: "not measured"}
    cells = tuple((bar.asked, said[bar.met], bar.measured) for bar in bars(report))
    columns = ("bar", "verdict", "measured")
    return Table("Bars that were set before anything was measured", columns, cells, frozenset({0}))


def bars_sentence(report: SlowThinkingReport) -> str:
    """Say how many bars are met."""
    found = [bar.met for bar in bars(report)]
    return (
        f"Bars met: {found.count(True)} of {len(found)}; missed: {found.count(False)}; not "
        f"measured: {found.count(None)}. A bar is met by the figure; its interval stands beside it."
    )


def _errors(report: SlowThinkingReport) -> Iterator[Bar]:
    plain, slow = report.method(SFT_PLAIN_GREEDY), report.method(SLOW_THINKING)
    if report.headline == MASE_IS_SET_FOR:
        for row, most, who in (
            (plain, PLAIN_MASE, "greedy SFT without a draft"),
            (slow, SLOW_MASE, "slow thinking"),
        ):
            if row is not None:
                met = row.mase.figure <= most
                yield Bar(f"MASE of {who}: at most {most:.2f}", interval(*row.mase), met)
    over_draft, over_plain = report.over(DRAFT), report.over(SFT_PLAIN_GREEDY)
    yield Bar(
        "MASE of slow thinking over its draft's: at most 1",
        ratio_interval(*over_draft),
        _at_most(over_draft.figure, 1.0),
    )
    yield Bar(
        f"MASE of slow thinking over that of greedy SFT without a draft: at most {OVER_PLAIN:g}",
        ratio_interval(*over_plain),
        _at_most(over_plain.figure, OVER_PLAIN),
    )


def _others(report: SlowThinkingReport) -> Iterator[Bar]:
    for mode, least, how in (
        ("free", FREE_RATE, "without a grammar"),
        ("constrained", CONSTRAINED_RATE, "with the grammar"),
    ):
        row = report.parsing(mode)
        rate = math.nan if row is None else row.rate.figure
        yield Bar(
            f"Readable completions {how}: at least {100 * least:g} %",
            "–" if row is None else percent_interval(*row.rate),
            _at_most(least, rate),
        )
    kl = report.exact_kl
    met = None if math.isnan(kl.figure) else kl.figure < KL_NATS
    yield Bar(
        f"Exact KL divergence: below {KL_NATS:g} nats per token of the answer", interval(*kl), met
    )
    yield _latency(report)
    held = [r for r in report.table_warm_ups if (r.run, r.part) == ("sft_draft", "validation")]
    loss = held[-1].template if held else math.nan
    yield Bar(
        f"Loss of the tags after SFT with the draft: at most {FORMAT_LOSS:g} nats per token",
        number(loss),
        _at_most(loss, FORMAT_LOSS),
    )
    kept = report.kept_validation("grip")
    gain = Estimate() if kept is None else kept.gain
    yield Bar(
        "Gain of GRIP in reward on validation windows: above two standard errors",
        interval(*gain),
        None if math.isnan(gain.low) else gain.low > 0,
    )


def _latency(report: SlowThinkingReport) -> Bar:
    """Return the bar on the latency. Requests of another horizon are shown and judge nothing."""
    cost = report.cost()
    p95 = math.nan if cost is None else cost.p95_ms
    asked = (
        f"Latency of a request of {P95_IS_SET_FOR} steps, 95th percentile: at most "
        f"{milliseconds(P95_MS)}"
    )
    if report.horizon == P95_IS_SET_FOR:
        return Bar(asked, milliseconds(p95), _at_most(p95, P95_MS))
    return Bar(asked, f"{milliseconds(p95)} with {report.horizon} steps", None)


def _at_most(figure: float, most: float) -> bool | None:
    return None if math.isnan(figure) or math.isnan(most) else figure <= most
