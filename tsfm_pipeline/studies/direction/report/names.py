"""Scorers, labels and families as people read them.

What belongs here: plain names, made from the names in tables by rules. What does not: sentences
(`words`).
"""

import re
from collections.abc import Mapping

from tsfm_pipeline.studies.direction import references

FAMILIES: dict[str, str] = {
    "untrained": "one indicator, untrained",
    "volatility": "volatility logit",
    "garch": "GARCH models",
    "indicators": "trained on indicators",
    "patchtst": "PatchTST",
    "mean": "frozen model, its mean",
    "spread": "frozen model, its spread",
    "probability": "frozen model, its P",
    "covariates": "frozen model with covariates",
    "probe": "probe on hidden states",
    "fine_tuned": "fine-tuned model",
    "other": "others",
}
"""Every family in the order of tables and figures, with its plain name."""
READINGS = ("mean", "spread", "probability")
"""Ways to read a score from the quantiles of one forecast."""
OF_THE_MODEL = (*READINGS, "covariates", "probe", "fine_tuned")
"""Families that use the foundation model."""
_BEGINNINGS: Mapping[str, str] = {
    references.VOLATILITY: "volatility",
    references.UNTRAINED: "untrained",
    references.PATCHTST: "patchtst",
    "garch": "garch",
    "egarch": "garch",
    "indicator": "indicators",
    "all_logit": "indicators",
    "boosted": "indicators",
    "covariates": "covariates",
    "probe": "probe",
    "fine_tuned": "fine_tuned",
}
_PHRASES: Mapping[str, str] = {
    "volatility_logit": "volatility logit",
    "indicator_logit": "logit of the indicators",
    "all_logit": "logit of indicators and volatilities",
    "boosted": "boosted trees, all features",
    "garch": "GJR-GARCH",
    "untrained_rsi": "minus RSI, untrained",
    "untrained_last_return": "minus last return, untrained",
    "untrained_drawdown": "distance below the year's high, untrained",
    "untrained_ewma": "EWMA volatility, untrained",
    "untrained_atr": "average true range, untrained",
    "untrained_volume": "volume against its mean, untrained",
}
"""Names whose words do not say what they are."""
_WORDS: Mapping[str, str] = {
    "patchtst": "PatchTST",
    "revin": "RevIN",
    "egarch": "EGARCH",
    "bce": "BCE",
    "vix": "VIX",
    "log": "log",
    "probability": "P",
}
_BEFORE: Mapping[str, str] = {
    "zero_shot": "frozen model",
    "covariates": "with covariates",
    "probe": "probe",
    "fine_tuned": "fine-tuned",
    "untrained": "untrained",
}
LABEL_TEXTS: Mapping[str, str] = {
    "touch_up": "touch up",
    "touch_down": "touch down",
    "touch_up_scaled": "touch up, in volatilities",
    "touch_down_scaled": "touch down, in volatilities",
    "close_up": "close up by the threshold",
    "sign": "sign",
}


def family_of(scorer: str) -> str:
    """Return the key of a scorer's family in `FAMILIES`."""
    if scorer.startswith("zero_shot"):
        reading = scorer.rsplit("_", 1)[-1]
        return reading if reading in READINGS else "other"
    found = [family for start, family in _BEGINNINGS.items() if scorer.startswith(start)]
    return found[0] if found else "other"


def scorer_label(scorer: str) -> str:
    """Return a scorer's plain name, e.g. "frozen model: returns, 80 days, spread" for
    `zero_shot_returns_80_spread`.
    """
    if scorer in _PHRASES:
        return _PHRASES[scorer]
    before = next((start for start in _BEFORE if scorer.startswith(f"{start}_")), "")
    parts = _parts(scorer.removeprefix(f"{before}_") if before else scorer)
    return f"{_BEFORE[before]}: {', '.join(parts)}" if before else ", ".join(parts)


def _parts(name: str) -> list[str]:
    """Split a name at its numbers and readings; a number is a context in trading days."""
    pieces = re.split(r"_(?=\d)|(?<=\d)_|_(?=(?:mean|spread|probability|revin)(?:_|$))", name)
    return [
        f"{piece} days"
        if piece.isdigit()
        else " ".join(_WORDS.get(word, word) for word in piece.split("_"))
        for piece in pieces
        if piece
    ]


def label_text(label: str) -> str:
    """Return a label's plain name."""
    return LABEL_TEXTS.get(label, label.replace("_", " "))


def target_text(label: str, horizon: int) -> str:
    """Return a question, e.g. "touch up, next day", "sign, 5 days"."""
    return f"{label_text(label)}, {days_ahead(horizon)}"


def days_ahead(horizon: int) -> str:
    """Return a horizon as "next day" or "5 days"."""
    return "next day" if horizon == 1 else f"{horizon} days"
