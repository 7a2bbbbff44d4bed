"""A service made from its settings.

What belongs here: which files a fleet's service reads, opening its bundle, and putting the parts
together. What does not: the parts, and listening (`server`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI
from pydantic import BaseModel

from tsfm_pipeline.autoresearch.bundle import BundleError, SearchBundle
from tsfm_pipeline.evaluation.conformal import Calibration
from tsfm_pipeline.evaluation.rollout import RolloutDecision
from tsfm_pipeline.evaluation.served import (
    CALIBRATION_FILE,
    COVERAGE_FILE,
    FOLDER,
    ROLLOUT_FILE,
    MeasuredCoverage,
)
from tsfm_pipeline.serving import models
from tsfm_pipeline.serving.app import create_app
from tsfm_pipeline.serving.archetypes import in_qdrant
from tsfm_pipeline.serving.auth import callers_token, metrics_token
from tsfm_pipeline.serving.guard import Gate
from tsfm_pipeline.serving.lanes import Lane, Lanes
from tsfm_pipeline.serving.limits import RateLimit
from tsfm_pipeline.serving.local import LocalRuntime
from tsfm_pipeline.serving.markets import Markets
from tsfm_pipeline.serving.metrics import Metrics
from tsfm_pipeline.serving.published import Published
from tsfm_pipeline.serving.recommendations import Recommendations
from tsfm_pipeline.serving.recorder import Recorder
from tsfm_pipeline.serving.rooms import Rooms
from tsfm_pipeline.serving.runtimes import Runtime
from tsfm_pipeline.serving.search_route import SearchRoute
from tsfm_pipeline.serving.service import ForecastService
from tsfm_pipeline.serving.settings import ServingSettings
from tsfm_pipeline.settings import Settings

BUNDLE_FILE = "search.bundle"
RECOMMENDATIONS_FILE = "recommendations.parquet"
_LOGGER = logging.getLogger(__name__)
P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class Files:
    """The files of one service; None where it has none.

    bundle: of the search. published: the folder of calibration and rollout. records: the folder
    that answers are appended to. recommendations: what the fleet's run recommends to reserve.
    """

    bundle: Path | None
    published: Path | None
    records: Path | None
    recommendations: Path | None

    @classmethod
    def of(cls, settings: ServingSettings) -> "Files":
        """Return the files that the settings name; of a fleet, those of its run."""
        fleet, run = settings.fleet, Settings()
        published, records = settings.published_dir, settings.records_dir
        bundle, recommendations = settings.bundle, settings.recommendations
        if fleet is not None:
            bundle = bundle or run.reports_dir / fleet / BUNDLE_FILE
            published = published or run.output_dir / "serving" / fleet
            records = records or run.records_dir / fleet / FOLDER
            reports = run.reports_dir / fleet
            recommendations = recommendations or reports / RECOMMENDATIONS_FILE
        return cls(bundle, published, records, recommendations)


class Service:
    """A service that is ready to be started.

    on_ready: called when the default model is loaded. on_failure: called if it cannot be;
    `problem` then says why.
    """

    def __init__(self, forecasts: ForecastService, recorder: Recorder) -> None:
        self.problem: str | None = None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self.forecasts, self._recorder = forecasts, recorder
        self._loading: asyncio.Task[None] | None = None
        self.gate = Gate(forecasts.settings.max_waiting)
        self.app: FastAPI

    async def start(self) -> None:
        """Begin. The default model is loaded meanwhile: probes are answered from the first moment,
        and forecasts by baselines until it is there.
        """
        self._recorder.start()
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """End: release the models, and write the last records."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.forecasts.close()
        await asyncio.to_thread(self._recorder.close)

    async def _load(self) -> None:
        lane = self.forecasts.lanes.default
        # Whatever the error: a service that never gets ready and does not say why helps nobody.
        (error,) = await asyncio.gather(self._start_default(), return_exceptions=True)
        if error is not None:
            self.problem = f"the model cannot be loaded: {str(error) or repr(error)}"
            _LOGGER.error("%s", self.problem, exc_info=error)
            self.on_failure()
        else:
            self.on_ready()
            _LOGGER.info("ready: %s %s", lane.runtime.model, lane.runtime.version)

    async def _start_default(self) -> None:
        lane = self.forecasts.lanes.default
        await lane.start()
        lane.check_licence(self.forecasts.settings.environment)


def build(
    settings: ServingSettings, *, no_auth: bool = False, runtimes: Sequence[Runtime] = ()
) -> Service:
    """Return the service; nothing is loaded or connected yet.

    no_auth: let every caller in. runtimes: asked instead of the local model and the daemon, the
    first one by default. Raises `TokenError`, `BundleError`, `ModelNotAllowed` for a default model
    whose licence does not allow it, and ValueError for settings that contradict each other.
    """
    callers = callers_token(settings, no_auth=no_auth)
    found = Files.of(settings)
    bundle = None if found.bundle is None else _opened(found.bundle, settings)
    metrics = Metrics()
    asked = runtimes or models.runtimes(settings, bundle)
    lanes = Lanes([Lane(one, settings.breaker, metrics, time.monotonic) for one in asked])
    local = next((one for one in asked if isinstance(one, LocalRuntime)), None)
    lanes.default.check_licence(settings.environment)
    recorder = Recorder(found.records, metrics.recorded)
    forecasts = ForecastService(
        settings,
        lanes,
        Markets() if local is None else Markets.of(bundle, lookback=local.configurations.lookback),
        metrics,
        recorder,
        _published(found.published, CALIBRATION_FILE, Calibration, settings),
        _published(found.published, ROLLOUT_FILE, RolloutDecision, settings),
        _published(found.published, COVERAGE_FILE, MeasuredCoverage, settings),
    )
    service = Service(forecasts, recorder)
    search, reserved = None, None
    if bundle is not None and local is not None:
        search = SearchRoute(bundle, local, settings.local.queue, settings.fallback)
    if found.recommendations is not None:
        reserved = Recommendations(found.recommendations)
    service.app = create_app(
        Rooms(
            forecasts=forecasts,
            search=search,
            recommendations=reserved,
            callers=callers,
            readers=metrics_token(settings, callers),
            limit=RateLimit(settings.rate_limit, time.monotonic),
            gate=service.gate,
            metrics=metrics,
            max_body_bytes=int(settings.max_body_mib * 2**20),
            start=service.start,
            stop=service.stop,
        )
    )
    return service


def _opened(path: Path, settings: ServingSettings) -> SearchBundle:
    """Return the bundle, whose look-alikes come from where the settings say.

    Raises `BundleError`, with the fleets that have one, and the errors of `archetypes.in_qdrant`.
    """
    try:
        bundle = SearchBundle.open(path)
    except BundleError as error:
        if settings.fleet is None or settings.bundle is not None or path.exists():
            raise
        reports = Settings().reports_dir
        others = sorted(p.parent.name for p in reports.glob(f"*/{BUNDLE_FILE}"))
        known = f"fleets with one: {', '.join(others)}" if others else "no fleet has one yet"
        raise BundleError(
            f"{path} is not there; materialise the asset 'search_bundle' of fleet "
            f"{settings.fleet!r} first (`tsfm-pipeline run {settings.fleet}`); {known}"
        ) from error
    address = settings.archetypes_url
    return bundle if address is None else in_qdrant(bundle, address)


def _published(
    folder: Path | None, file: str, model: type[P], settings: ServingSettings
) -> Published[P] | None:
    return None if folder is None else Published(folder / file, model, settings.reload_s)
