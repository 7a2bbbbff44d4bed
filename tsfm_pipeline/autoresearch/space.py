"""The search space: the configurations that a search may choose, and its validation origins.

What belongs here: the candidates as configurations, the validation schedule in steps. What does
not: losses and decisions (`rules`).
"""

from tsfm_pipeline.forecaster.config import PATCH_LEN, ForecastConfig
from tsfm_pipeline.settings import SearchSettings


def candidates(settings: SearchSettings) -> tuple[ForecastConfig, ...]:
    """Return the configurations that a portfolio is chosen from, in the settings' order.

    Raises ValueError for a name that is not a configuration, and for a configuration that is listed
    twice.
    """
    require_distinct(settings.candidates)
    return tuple(ForecastConfig.from_name(name) for name in settings.candidates)


def is_plain(config: ForecastConfig) -> bool:
    """Return whether a configuration sees the telemetry itself: every step, no season subtracted,
    no transform. Such a configuration needs no more history than its context.
    """
    return config == ForecastConfig(context_len=config.context_len)


def require_distinct(names: tuple[str, ...]) -> None:
    """Raise ValueError if one configuration is named twice, even in two spellings."""
    canonical = [ForecastConfig.from_name(name).name for name in names]
    repeated = sorted({name for name in canonical if canonical.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{', '.join(repeated)} is listed more than once; list each configuration once"
        )


def validation_stride(horizon: int, season: int | None) -> int:
    """Return the steps between recent validation origins: a multiple of 32, at least the horizon
    and about a ninth of the season.

    Patch boundaries fall on multiples of 32 steps, so that one pass serves many such origins. Nine
    strides of one-minute telemetry (160 steps) or of five-minute telemetry (32 steps) make a day,
    so that an origin one day ago shares the same pass.
    """
    return max(-(-horizon // PATCH_LEN), (season or 0) // (9 * PATCH_LEN)) * PATCH_LEN


def validation_offsets(
    settings: SearchSettings, horizon: int, season: int | None
) -> tuple[int, ...]:
    """Return how many steps before a request's origin its J validation origins lie, nearest first.

    The recent ones are one stride apart. The daily ones lie whole seasons before the request, as
    many as the settings list. Every offset is at least `horizon`, so that a validation window has
    the real horizon and ends before the request.
    """
    stride = validation_stride(horizon, season)
    recent = {stride * (i + 1) for i in range(settings.recent_origins)}
    daily = set() if season is None else {season * n for n in settings.daily_origins}
    return tuple(sorted(offset for offset in recent | daily if offset >= horizon))
