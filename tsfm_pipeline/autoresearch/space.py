"""The search space: which configurations a search may choose among, and where it looks for evidence.

What belongs here: the portfolio as configurations, the validation schedule in steps. What does not: losses and decisions (`rules`).
"""

from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.settings import SearchSettings


def portfolio(settings: SearchSettings) -> tuple[ForecastConfig, ...]:
    """The K configurations of the settings, in their order.

    Raises ValueError for a name that is no configuration, and for one that is listed twice: a repeated configuration buys nothing.
    """
    require_distinct(settings.portfolio)
    return tuple(ForecastConfig.from_name(name) for name in settings.portfolio)


def require_distinct(names: tuple[str, ...]) -> None:
    """Raise ValueError where one configuration is named twice, however it is written."""
    canonical = [ForecastConfig.from_name(name).name for name in names]
    repeated = sorted({name for name in canonical if canonical.count(name) > 1})
    if repeated:
        raise ValueError(f"the portfolio lists {', '.join(repeated)} more than once; list each configuration once")


def validation_offsets(settings: SearchSettings, horizon: int, season: int | None) -> tuple[int, ...]:
    """How many steps before a request's origin its J validation origins lie, nearest first.

    The recent ones follow each other one horizon apart, the last of them one horizon ago, so that its outcome is just known; the
    daily ones lie at the request's time of day, `season` steps apart. Every offset is at least `horizon`: a validation window
    has the real horizon and ends before the request.
    """
    recent = {horizon * (i + 1) for i in range(settings.recent_origins)}
    daily = set() if season is None else {season * (i + 1) for i in range(settings.daily_origins)}
    return tuple(sorted(offset for offset in recent | daily if offset >= horizon))
