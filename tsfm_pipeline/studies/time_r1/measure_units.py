"""Meaning and unit of each measure that methods are compared by.

What belongs here: what a table and a report say about a measure. What does not: computing it
(`measures`). It imports nothing, so that a report's model can read it.
"""

MEASURES: dict[str, tuple[str, str]] = {
    "mse": ("mean squared error", "squared units of the data"),
    "mae": ("mean absolute error", "units of the data"),
    "mape": ("mean absolute percentage error, with a floor under the actual", "share"),
    "r2": ("mean over channels of 1 - squared errors / squared distances from the mean", "share"),
    "nrmse": (
        "mean over channels of the root of the mean squared error over the mean absolute actual",
        "ratio",
    ),
    "mase": (
        "mean over windows of the mean absolute error over the mean absolute seasonal difference "
        "of the training rows",
        "ratio",
    ),
    "wql": (
        "twice the pinball loss, averaged over the deciles, over the sum of the absolute actuals; "
        "null without deciles",
        "ratio",
    ),
}
"""Meaning and unit of each measure."""
