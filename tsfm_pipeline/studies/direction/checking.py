"""Checking one market by its name: what the command `market check` shows.

What belongs here: reading a market, judging it, and how often its labels hold. What does not: the
rules (`quality`), the labels (`labels`), what is printed (`commands`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.direction.bars import Bars
from tsfm_pipeline.studies.direction.labels import labels
from tsfm_pipeline.studies.direction.problem import Target
from tsfm_pipeline.studies.direction.quality import Finding, problems_of
from tsfm_pipeline.studies.direction.sources import SourceError, read_bars
from tsfm_pipeline.studies.direction.spec import MarketSpec, market_files


@dataclass(frozen=True)
class Checked:
    """One market after all rules.

    bars: None if the prices cannot be read. findings: errors first. base_rates: of each label, the
    share of the days with a known label on which it holds; empty if there are errors.
    """

    spec: MarketSpec
    bars: Bars | None
    findings: tuple[Finding, ...]
    base_rates: Mapping[Target, float]

    @property
    def n_errors(self) -> int:
        """How many findings refuse the market."""
        return sum(finding.severity == "error" for finding in self.findings)


def check_market(settings: Settings, name: str) -> Checked:
    """Read a market and apply every rule. Raises `MarketSpecError` for a wrong market file, and
    ValueError, with the known names, where there is none.
    """
    files = market_files(settings)
    spec = files.spec(name)
    findings = _of_the_second(spec, list(files.paths))
    try:
        bars = read_bars(spec)
    except SourceError as error:
        return Checked(spec, None, (*findings, Finding("error", "source", str(error))), {})
    findings += problems_of(bars, spec)
    usable = all(finding.severity != "error" for finding in findings)
    known = labels(bars, spec.study.labels) if usable else {}
    rates = {target: float(np.nanmean(values)) for target, values in known.items()}
    return Checked(spec, bars, findings, rates)


def _of_the_second(spec: MarketSpec, names: list[str]) -> tuple[Finding, ...]:
    """Return what is wrong with the market that must confirm a direction."""
    others = [name for name in names if name != spec.name]
    if spec.second is None or spec.second in others:
        return ()
    problem = f"field 'second': {spec.second!r} is no other market; allowed: {', '.join(others)}"
    return (Finding("error", "second", problem),)
