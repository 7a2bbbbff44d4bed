"""The forecasters that `tsfm-pipeline benchmark` scores, each by the name of its option.

What belongs here: the frozen model by configuration, the direct baselines, and the search, each as
deciles after an origin. What does not: data sets, windows and scores (`cli.benchmarking`).
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tsfm_pipeline.autoresearch.bundle import SearchBundle
from tsfm_pipeline.autoresearch.evidence import forecast_with_evidence
from tsfm_pipeline.autoresearch.rules import combine, posterior_losses, weights
from tsfm_pipeline.baselines import direct_forecasters
from tsfm_pipeline.catalogue.shards import model_of
from tsfm_pipeline.evaluation.arrays import given
from tsfm_pipeline.evaluation.methods import SEARCH
from tsfm_pipeline.evaluation.protocol import DECILES
from tsfm_pipeline.fleets.saved_items import Item, SavedDataset, variate_ids
from tsfm_pipeline.forecaster import ForecastConfig, Panel
from tsfm_pipeline.forecaster.config import DECILE_COLUMNS
from tsfm_pipeline.settings import SearchSettings, Settings

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

MODEL = "model"
CONTEXTS = ("ctx2048", "ctx1024", "ctx512", "ctx256", "ctx128", "ctx64", "ctx32")
"""Configurations of `model`, which takes the longest that a history fills."""
PORTFOLIO = (
    *("ctx32", "ctx64", "ctx256", "ctx512", "ctx1024", "ctx2048"),
    *("ctx2560-r5", "ctx7200-r15"),
    *("ctx512-s1x5", "ctx2048-s1x5"),
)
"""Configurations of the search without a bundle: of each kind that `search.candidates` has, the
same for every data set. None was chosen on a benchmark.
"""
MOST_VALIDATIONS = 8
"""Earlier origins of a series at which the search without a bundle scores each configuration."""
_SERIES_AT_ONCE = 8

Deciles = NDArray[np.float32]
Origins = NDArray[np.int64]


class Methods:
    """The chosen methods; the model is loaded once, when a method first needs it.

    chosen: `model`, configurations such as ctx512, direct baselines, and `search`. bundle: a run's
    search bundle, for `search`. Raises ValueError for a name that is none of these, and for a
    bundle without `search`.
    """

    def __init__(self, chosen: Sequence[str], bundle: Path | None = None) -> None:
        self.names = tuple(dict.fromkeys(chosen))
        self._bundle = None if bundle is None else SearchBundle.open(bundle)
        self._model: FrozenForecaster | None = None
        self._direct = direct_forecasters()
        for name in self.names:
            if name not in (MODEL, SEARCH, *self._direct):
                self._config(name)
        if bundle is not None and SEARCH not in self.names:
            raise ValueError("--bundle is the search of a run; add --method search")

    def forecast(
        self,
        method: str,
        dataset: SavedDataset,
        panel: Panel,
        origins: Origins,
        horizon: int,
        item: Item,
    ) -> Deciles:
        """Return a method's deciles [S, O, H, 9] after the origins [S, O] of an item, whose S
        variates are the panel; NaN where it has no forecast.
        """
        if method in self._direct:
            return self._direct[method](origins[:, 0] + 1).forecast(panel, origins, horizon)
        if method == SEARCH and self._bundle is not None:
            return self._by_bundle(self._bundle, dataset, panel, origins, horizon, item)
        if method == SEARCH:
            return self._by_own_past(panel, origins, horizon)
        names = CONTEXTS if method == MODEL else (method,)
        return self._first_available(panel, origins, horizon, list(map(self._config, names)))

    def _config(self, method: str) -> ForecastConfig:
        try:
            return ForecastConfig.from_name(method)
        except ValueError as error:
            allowed = ", ".join((MODEL, SEARCH, *self._direct))
            raise ValueError(
                f"--method {method!r}; allowed: {allowed}, or a configuration such as ctx512"
            ) from error

    def _loaded(self) -> "FrozenForecaster":
        if self._model is None:
            settings = Settings()
            dtype = settings.dtype if self._bundle is None else self._bundle.facts.checkpoint.dtype
            self._model = model_of(settings.model_copy(update={"dtype": dtype}))
        return self._model

    def _first_available(
        self,
        panel: Panel,
        origins: Origins,
        horizon: int,
        configs: Sequence[ForecastConfig],
    ) -> Deciles:
        """Return the deciles of the first configuration that each window's history fills."""
        deciles = np.full((*origins.shape, horizon, len(DECILES)), np.nan, dtype=np.float32)
        for config in configs:
            unanswered = ~given(deciles)
            if not unanswered.any():
                break
            grid = self._loaded().forecast_grid(panel, origins, [config], horizon)
            deciles[unanswered] = grid[:, :, 0, :, DECILE_COLUMNS][unanswered]
        return deciles

    def _by_own_past(self, panel: Panel, origins: Origins, horizon: int) -> Deciles:
        """Return averages of the configurations of `PORTFOLIO`, weighted per window by their CRPS
        at up to eight earlier origins of the same series, one horizon apart.

        No constant is fitted: the temperature is the default of the choice of portfolios, whatever
        policy is in force, and no other tenant is heard.
        """
        configs = [ForecastConfig.from_name(name) for name in PORTFOLIO]
        offsets = [horizon * (k + 1) for k in range(MOST_VALIDATIONS)]
        temperature = SearchSettings().portfolio_temperature
        parts = []
        for first in range(0, panel.n_series, _SERIES_AT_ONCE):
            some = slice(first, first + _SERIES_AT_ONCE)
            deciles, losses, _ = forecast_with_evidence(
                self._loaded(),
                Panel(panel.values[some], seasons=panel.seasons),
                origins[some],
                configs,
                horizon,
                offsets,
                DECILES,
            )  # [S, O, K, H, 9], [S, O, K, J, 9]
            evidence = losses.mean(axis=-1)
            available = given(deciles)
            unknown = np.full(available.shape, np.nan)
            judged = posterior_losses(
                np.where(available[..., None], evidence, np.nan), unknown, 0.0
            )
            parts.append(combine(weights(judged, available, temperature), deciles))
        return np.concatenate(parts).astype(np.float32)

    def _by_bundle(
        self,
        bundle: SearchBundle,
        dataset: SavedDataset,
        panel: Panel,
        origins: Origins,
        horizon: int,
        item: Item,
    ) -> Deciles:
        """Return the deciles of a run's search, of the tier that it shows where only one is shown:
        with its priors and its gate, and without the experience of the item's own tenant.
        """
        _require_fit(bundle, dataset, horizon, item)
        tier, step = (
            bundle.facts.protocol.headline_tier,
            timedelta(minutes=bundle.facts.step_minutes),
        )
        joint = len(bundle.facts.metrics) == panel.n_series and item.n_variates > 1
        each = panel.values[:, None]  # [S, 1, T]
        tenants = (
            {item.item_id: panel.values}
            if joint
            else dict(zip(variate_ids(item), each, strict=True))
        )
        answers = []
        for tenant, values in tenants.items():
            engine = bundle.engine(self._loaded(), tenant)
            responses = [
                engine.forecast(
                    bundle.panel(np.ascontiguousarray(values[:, : origin + 1])),
                    tier,
                    exclude_tenant=tenant,
                    as_of=item.start + int(origin) * step,
                )
                for origin in origins[0]
            ]
            answers.append(np.stack([own.quantiles.swapaxes(0, 1) for own in responses], axis=1))
        return np.concatenate(answers).astype(np.float32)  # [S, O, H, 9]


def _require_fit(bundle: SearchBundle, dataset: SavedDataset, horizon: int, item: Item) -> None:
    """Raise ValueError unless a bundle's search answers this item: its step, its horizon, and one
    metric or as many as the item has variates.
    """
    facts, frequency = bundle.facts, dataset.frequency
    step = None if frequency.step is None else frequency.step / timedelta(minutes=1)
    fits = len(facts.metrics) in (1, item.n_variates)
    if not (fits and facts.step_minutes == step and facts.horizon == horizon):
        raise ValueError(
            f"{dataset.folder}: steps of {frequency.called}, windows of {horizon} steps, and "
            f"{item.n_variates} variates in item {item.item_id!r}; the search of fleet "
            f"{facts.fleet!r} was fitted for steps of {facts.step_minutes:g} minutes, a horizon of "
            f"{facts.horizon} steps and {len(facts.metrics)} metrics. Run a fleet of this data set "
            "with that horizon, or leave --bundle out"
        )
