"""The search space: which configurations a search may choose among, and where it looks for
evidence.

What belongs here: the candidates as configurations, the validation schedule in steps. What does
not: losses and decisions (`rules`).
"""

from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.settings import SearchSettings


def candidates(settings: SearchSettings) -> tuple[ForecastConfig, ...]:
    """The configurations that a portfolio is chosen from, in the settings' order.

    Raises ValueError for a name that is no configuration, and for one that is listed twice: a
    repeated configuration buys nothing.
    """
    require_distinct(settings.candidates)
    return tuple(ForecastConfig.from_name(name) for name in settings.candidates)


def require_distinct(names: tuple[str, ...]) -> None:
    """Raise ValueError where one configuration is named twice, however it is written."""
    canonical = [ForecastConfig.from_name(name).name for name in names]
    repeated = sorted({name for name in canonical if canonical.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{', '.join(repeated)} is listed more than once; list each configuration once"
        )


def validation_stride(horizon: int, season: int | None) -> int:
    """Steps between recent validation origins: a multiple of 32, at least the horizon and about a
    ninth of the season.

    Patch boundaries fall on multiples of 32 steps, so that one pass serves many such origins. Nine
    strides of one-minute telemetry (160 steps) and of five-minute telemetry (32 steps) are a day,
    so that an origin a day ago shares their pass, too.
    """
    return max(-(-horizon // PATCH_LEN), (season or 0) // (9 * PATCH_LEN)) * PATCH_LEN


def validation_offsets(
    settings: SearchSettings, horizon: int, season: int | None
) -> tuple[int, ...]:
    """How many steps before a request's origin its J validation origins lie, nearest first.

    The recent ones follow each other one stride apart; the daily ones lie at the request's time of
    the season, so many seasons before. Every offset is at least `horizon`: a validation window has
    the real horizon and ends before the request.
    """
    stride = validation_stride(horizon, season)
    recent = {stride * (i + 1) for i in range(settings.recent_origins)}
    daily = set() if season is None else {season * n for n in settings.daily_origins}
    return tuple(sorted(offset for offset in recent | daily if offset >= horizon))
