"""The register of compared methods: the name, label and inputs of each.

What belongs here: one record per method of the score tables (`METHODS`) and per way to set one
constant for a block (`BLOCK_CONSTANTS`), and functions of these records. What does not: the
computation of a method (`baselines`, `autoresearch.rules`, `steps`), and its results (`reports`).

Two kinds of methods have no record of their own: single configurations (`config:ctx512`), which
differ between fleets, and forecasters of other packages (`plugins`). `method_of` returns a record
for these too.
"""

from dataclasses import dataclass
from typing import Literal

CONFIG_PREFIX = "config:"
RULE_PREFIX = "rule:"

SEARCH = "search"
SEARCH_UNCORRECTED = "search_uncorrected"
SEARCH_DESPITE_EVENTS = "search_despite_events"
ARGMIN = f"{RULE_PREFIX}argmin"
SHRUNKEN_ARGMIN = f"{RULE_PREFIX}shrunken_argmin"

FIXED = "fixed_quantile"
FIXED_MEDIAN = "fixed_median"
FIXED_SHIFTED = "fixed_shifted"
FIXED_CORRECTED = "fixed_corrected"
CONFIG_PER_METRIC = "config_per_metric"
CONFIG_PER_ARCHETYPE = "config_per_archetype"
CONFIG_PER_TENANT = "config_per_tenant"
STATIC_ENSEMBLE = "static_ensemble"
UNIFORM_AVERAGE = "uniform_average"
RANDOM_CONFIG = "random_config"
LAST_WINDOW_WINNER = "last_window_winner"

LAST_VALUE = "last_value"
SEASONAL_NAIVE = "seasonal_naive"
LAST_VALUE_CHANGE_QUANTILES = "last_value_change_quantiles"
ARIMA_101 = "arima_101"
LAST_DAY_QUANTILES = "last_day_quantiles"
SAME_HOUR_QUANTILES = "same_hour_quantiles"
PERCENTILE_MARGIN = "percentile_margin"
EWMA = "ewma"
LOCAL_LEVEL_KALMAN = "local_level_kalman"
ROLLING_QUANTILE = "rolling_quantile"

LAST_BLOCK = "last_block"
DAY_AGO_BLOCK = "day_ago_block"
DAY_QUANTILE = "day_quantile"
EIGHT_DAY_QUANTILE = "eight_day_quantile"
USAGE_HISTOGRAM = "usage_histogram"
SEARCH_PEAK = "search_peak"
LARGEST_STEP = "largest_step"
LAST_BLOCK_PEAK = "last_block_peak"

Family = Literal["search", "rule", "choice", "configuration", "direct"]
Forecasts = Literal["none", "1", "1, validated", "K", "K, validated"]
Deciles = Literal["shared", "by tier", "borrowed"]
Quantiles = Literal["model", "degenerate", "empirical", "gaussian"]


@dataclass(frozen=True)
class Method:
    """One method of the score tables.

    name, label: in tables and JSON; in text.
    family: the search itself, one of its rules, a choice over the model's configurations that
    involves no search, a single configuration, or a direct forecaster (without the model).
    forecasts: how many of the model's forecasts a request costs, and whether they are validated at
    earlier origins. Methods of matched compute have K.
    tuned: whether tuning tenants of the fleet chose its configurations, weights or constants.
    deciles: one distribution for all tiers ("shared"), one per tier, or that of another method,
    from which it differs in nothing but the level of the decision or who chose it ("borrowed").
    quantiles: where the deciles come from. The model's own; all equal to one point; sample
    deciles; a normal distribution.
    """

    name: str
    label: str
    family: Family
    forecasts: Forecasts = "none"
    tuned: bool = False
    deciles: Deciles = "borrowed"
    quantiles: Quantiles = "model"

    @property
    def is_direct(self) -> bool:
        """Whether the method uses no forecast of the model."""
        return self.family == "direct"

    @property
    def is_part_of_the_search(self) -> bool:
        """Whether the method is a stage of the search, scored beside it, and neither a rival nor
        the search.
        """
        return self.family == "rule" or self.name in (SEARCH_UNCORRECTED, SEARCH_DESPITE_EVENTS)


def _rule(name: str, label: str) -> Method:
    return Method(f"{RULE_PREFIX}{name}", label, "rule", "K, validated", tuned=True)


def _choice(
    name: str, label: str, forecasts: Forecasts = "1", deciles: Deciles = "borrowed"
) -> Method:
    return Method(name, label, "choice", forecasts, tuned=True, deciles=deciles)


def _direct(name: str, label: str, quantiles: Quantiles) -> Method:
    return Method(name, label, "direct", deciles="shared", quantiles=quantiles)


_METHODS = (
    Method(SEARCH, "search, per request", "search", "K, validated", tuned=True, deciles="by tier"),
    Method(
        SEARCH_UNCORRECTED, "search without level correction", "search", "K, validated", tuned=True
    ),
    _rule("argmin", "choose the cheapest in validation"),
    _rule("shrunken_argmin", "choose, shrunken toward others"),
    _rule("softmax", "average by validation loss"),
    _rule("top_m", "average of the best few"),
    _rule("no_harm", "leave the fixed one only on evidence"),
    _rule("tilted_ensemble", "static ensemble, tilted by validation"),
    _rule("gate", "average by learned weights"),
    _choice(FIXED, "fixed configuration (the one to beat)", deciles="by tier"),
    _choice(FIXED_MEDIAN, "fixed configuration at the median", deciles="shared"),
    _choice(FIXED_SHIFTED, "fixed + one global quantile shift"),
    _choice(FIXED_CORRECTED, "fixed + online level correction", "1, validated"),
    _choice(CONFIG_PER_METRIC, "one configuration per metric"),
    _choice(CONFIG_PER_ARCHETYPE, "one configuration per archetype"),
    _choice(CONFIG_PER_TENANT, "one configuration per tenant"),
    _choice(STATIC_ENSEMBLE, "static ensemble", "K", "by tier"),
    _choice(UNIFORM_AVERAGE, "uniform average of all configurations", "K", "shared"),
    _choice(RANDOM_CONFIG, "random configuration"),
    _choice(LAST_WINDOW_WINNER, "winner of the last window", "K, validated"),
    _direct(LAST_VALUE, "last value", "degenerate"),
    _direct(SEASONAL_NAIVE, "seasonal naive", "degenerate"),
    _direct(LAST_VALUE_CHANGE_QUANTILES, "last value + quantiles of changes", "empirical"),
    _direct(ARIMA_101, "ARIMA(1,0,1)", "gaussian"),
    _direct(LAST_DAY_QUANTILES, "quantiles of the last day", "empirical"),
    _direct(SAME_HOUR_QUANTILES, "quantiles of the same hour", "empirical"),
    _direct(PERCENTILE_MARGIN, "percentile + 15 % margin (as VPA)", "empirical"),
    _direct(EWMA, "exponentially weighted average", "gaussian"),
    _direct(LOCAL_LEVEL_KALMAN, "local level (Kalman filter)", "gaussian"),
    _direct(ROLLING_QUANTILE, "rolling quantiles of 30 values", "empirical"),
)

METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
"""Every method that is scored on every fleet, by name."""

_DESPITE_EVENTS = Method(
    SEARCH_DESPITE_EVENTS, "search, events ignored", "search", "K, validated", tuned=True
)
"""Scored on fleets with known events only."""


def method_of(name: str) -> Method:
    """Return the record of a method of the score tables.

    All single configurations have the same record except for its name and label. Any other name is
    treated as a direct forecaster of another package, even if that package is no longer installed,
    because reports outlive packages.
    """
    if name in METHODS:
        return METHODS[name]
    if name == SEARCH_DESPITE_EVENTS:
        return _DESPITE_EVENTS
    if name.startswith(CONFIG_PREFIX):
        label = f"always {name.removeprefix(CONFIG_PREFIX)}"
        return Method(name, label, "configuration", "1", deciles="shared")
    return Method(name, name.replace("_", " "), "direct", deciles="shared", quantiles="empirical")


def method_label(name: str) -> str:
    """Return the method's label, its name in text."""
    return method_of(name).label


def is_part_of_the_search(name: str) -> bool:
    """Return whether a method is a stage of the search, which is scored beside it and is not a
    rival.
    """
    return method_of(name).is_part_of_the_search


MATCHED_COMPUTE: tuple[str, ...] = tuple(m.name for m in _METHODS if m.forecasts == "K")
"""Methods that use as many forecasts as the search, but no validation."""


@dataclass(frozen=True)
class BlockConstant:
    """One way to set one constant for all steps of a block.

    for_maximum: the constant is meant for the block's maximum and should be exceeded in a share 1 -
    alpha of the blocks; otherwise it should be exceeded at a share 1 - alpha of the steps.
    """

    name: str
    label: str
    for_maximum: bool = False


_BLOCK_CONSTANTS = (
    BlockConstant(SEARCH, "search"),
    BlockConstant(FIXED, "fixed configuration"),
    BlockConstant(LAST_BLOCK, "last block"),
    BlockConstant(DAY_AGO_BLOCK, "same block a day ago"),
    BlockConstant(LAST_VALUE, "last value"),
    BlockConstant(PERCENTILE_MARGIN, "percentile of the week + 15 %"),
    BlockConstant(DAY_QUANTILE, "quantile of the last day"),
    BlockConstant(EIGHT_DAY_QUANTILE, "quantile of the last eight days"),
    BlockConstant(USAGE_HISTOGRAM, "decaying histogram + 15 %, as VPA"),
    BlockConstant(SEARCH_PEAK, "search, calibrated", for_maximum=True),
    BlockConstant(LARGEST_STEP, "largest of the steps' quantiles", for_maximum=True),
    BlockConstant(LAST_BLOCK_PEAK, "maximum of the last block", for_maximum=True),
)

BLOCK_CONSTANTS: dict[str, BlockConstant] = {
    constant.name: constant for constant in _BLOCK_CONSTANTS
}
"""Every way to set a block's constant that is scored, by name; in this order in the tables."""
