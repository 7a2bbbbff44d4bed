"""The makers of the tables of answers: the policy's form and distance, forecasts, and measures.

What belongs here: which methods are asked about which test windows. What does not: asking
(`asking`, `slow_thinking`), measures (`evaluation`), and which tables there are (`tables`).
"""

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tsfm_pipeline.studies.time_r1 import methods
from tsfm_pipeline.studies.time_r1.asking import Answers, Asker, answer
from tsfm_pipeline.studies.time_r1.datasets import TableSet
from tsfm_pipeline.studies.time_r1.drafts import SIMPLE, best_by_backtest, frozen_name
from tsfm_pipeline.studies.time_r1.evaluation import Case, Forecast, evaluate
from tsfm_pipeline.studies.time_r1.making import frame, matrix
from tsfm_pipeline.studies.time_r1.making_training import asked, trained
from tsfm_pipeline.studies.time_r1.measures import percentage_floor
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.policy_checks import divergence_of, parsing_of
from tsfm_pipeline.studies.time_r1.samples import thoughts_of
from tsfm_pipeline.studies.time_r1.scope import Experiment
from tsfm_pipeline.studies.time_r1.slow_thinking import drafts_at_gate, think
from tsfm_pipeline.studies.time_r1.splits import own_windows, paper_windows, part_rows, scales_of
from tsfm_pipeline.studies.time_r1.tables import (
    ADAPTERS,
    ANSWERS,
    COSTS,
    DRAFTED,
    GRIP,
    GRPO,
    MORE_SFT,
    PLAIN,
    POLICY,
)
from tsfm_pipeline.studies.time_r1.windows import Floats, Windows

if TYPE_CHECKING:
    from tsfm_pipeline.forecaster.engine import FrozenForecaster

OWN, PAPER, FLEET = "own", "paper", "fleet"
PROBED = 64
"""Held-out prompts on which parsing and divergence are measured."""


def test_windows(experiment: Experiment, name: str) -> Iterator[tuple[str, Windows]]:
    """Yield the test windows of a data set by the name of their set: our own and the paper's of a
    file, drawn ones of a fleet or a corpus.
    """
    series, recipe = experiment.series(name), experiment.recipe
    past = experiment.past(series)
    if isinstance(experiment.sets[name], TableSet):
        yield OWN, own_windows(series, recipe.horizon, past=past)
        yield PAPER, paper_windows(series, recipe.look_back, recipe.horizon, past=past)
    else:
        yield FLEET, experiment.windows(name, "test", recipe.test_windows)


def policy_checks(experiment: Experiment) -> pl.DataFrame:
    """Return how many answers can be read, freely and constrained, and how far GRIP moved the
    policy from supervised training, on held-out prompts.
    """
    adapters = experiment.tables.read(ADAPTERS)
    held = asked(experiment, "validation")[0]
    held = held.at(np.arange(min(PROBED, len(held))))
    policy = trained(experiment, adapters, GRIP)
    options, seed = experiment.profile.thinking, experiment.recipe.seed
    reference = trained(experiment, adapters, DRAFTED)
    rows = [
        {"name": "parsing", "figures": json.dumps(parsing_of(policy, held, options, seed))},
        {
            "name": "divergence",
            "figures": json.dumps(divergence_of(policy, reference, held, options, seed)),
        },
    ]
    return frame(experiment, POLICY, rows)


def slow_thinking_answers(experiment: Experiment, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Return the forecast of every method for every test window."""
    adapters = experiment.tables.read(ADAPTERS)

    # Of a model of billions of parameters, memory holds one at a time.
    @lru_cache(maxsize=1)
    def policy_of(variant: str) -> LanguagePolicy:
        return trained(experiment, adapters, variant)

    frames = []
    for name in experiment.present(experiment.recipe.evaluate):
        for window_set, windows in test_windows(experiment, name):
            for method, forecast, extra in _forecasts(
                experiment, name, windows, policy_of, forecaster
            ):
                frames.append(
                    frame(
                        experiment,
                        ANSWERS,
                        _columns(name, window_set, windows, method, forecast, extra),
                    )
                )
    return pl.concat(frames)


def _forecasts(
    experiment: Experiment,
    name: str,
    windows: Windows,
    policy_of: Callable[[str], LanguagePolicy],
    forecaster: "FrozenForecaster",
) -> Iterator[tuple[str, Forecast, dict[str, Any]]]:
    contexts, options = experiment.recipe.contexts, experiment.profile.thinking
    drafts_by_origin = drafts_at_gate(windows, forecaster, contexts, options.gate_origins)
    drafts = drafts_by_origin[0]
    chosen = best_by_backtest(windows, drafts)
    draft = drafts.taken(chosen)
    yield methods.DRAFT, Forecast(draft, drafts.taken_deciles(chosen)), {}
    frozen = frozen_name(max(contexts))
    if np.isfinite(drafts.values[frozen]).all():
        yield methods.FROZEN, Forecast(drafts.values[frozen], drafts.deciles[frozen]), {}
    for simple in SIMPLE:
        yield simple, Forecast(drafts.values[simple]), {}
    thoughts = thoughts_of(windows, drafts, chosen, experiment.codec)
    n = options.samples
    for method, variant, shown, greedy in (
        (methods.SFT_PLAIN_GREEDY, PLAIN, None, True),
        (methods.SFT_PLAIN_MEDIAN, PLAIN, None, False),
        (methods.SFT_DRAFT_GREEDY, DRAFTED, draft, True),
        (methods.SFT_DRAFT_MEDIAN, DRAFTED, draft, False),
        (methods.SFT_MORE_MEDIAN, MORE_SFT, draft, False),
        (methods.GRPO_MEDIAN, GRPO, draft, False),
        (methods.GRIP_MEDIAN, GRIP, draft, False),
        (methods.GRIP_GREEDY, GRIP, draft, True),
    ):
        answers = answer(
            _asker(experiment, name, policy_of(variant)),
            windows,
            shown,
            thoughts,
            n=1 if greedy else n,
            greedy=greedy,
        )
        yield method, _answered(answers, greedy), {"tokens": answers.tokens}
    asker = _asker(experiment, name, policy_of(GRIP))
    thought = think(asker, windows, forecaster, contexts, drafts=drafts_by_origin)
    failed = thought.failures == thought.answers
    extra = {
        "tokens": thought.tokens,
        "refined": thought.last_refined,
        "reason": list(thought.reasons),
    }
    whole = Forecast(thought.forecast, thought.deciles, failed, thought.gate)
    yield methods.SLOW_THINKING, whole, extra
    first = Forecast(thought.after(1), None, failed, thought.gate)
    yield methods.SLOW_THINKING_ONE_PASS, first, {}


def _asker(experiment: Experiment, name: str, policy: LanguagePolicy) -> Asker:
    profile = experiment.profile
    return Asker(
        policy,
        experiment.codec,
        profile.prompt,
        profile.thinking,
        experiment.recipe.seed,
        experiment.about(name),
    )


def _answered(answers: Answers, greedy: bool) -> Forecast:
    failed = answers.failures == answers.values.shape[1]
    return Forecast(answers.median, None if greedy else answers.deciles, failed)


def _columns(
    name: str,
    window_set: str,
    windows: Windows,
    method: str,
    forecast: Forecast,
    extra: dict[str, Any],
) -> dict[str, Any]:
    n = len(windows)

    def listed(values: Floats | None) -> list[Any]:
        return [None] * n if values is None else values.reshape(n, -1).tolist()

    def flags(values: Any) -> list[Any]:
        return [None] * n if values is None else values.tolist()

    return {
        "data_set": [name] * n,
        "window_set": [window_set] * n,
        "method": [method] * n,
        "channel": list(windows.channels),
        "origin": windows.origins,
        "points": listed(forecast.points),
        "deciles": listed(forecast.deciles),
        "failed": flags(forecast.failed),
        "kept": flags(forecast.kept),
        "refined": listed(extra.get("refined")),
        "reason": extra.get("reason", [None] * n),
        "tokens": flags(extra.get("tokens")),
    }


def request_costs(experiment: Experiment, forecaster: "FrozenForecaster") -> pl.DataFrame:
    """Time requests of slow thinking, one window each, on the first data set that is present."""
    recipe = experiment.recipe
    name = experiment.present(recipe.evaluate)[0]
    _, windows = next(test_windows(experiment, name))
    asker = _asker(experiment, name, trained(experiment, experiment.tables.read(ADAPTERS), GRIP))
    drawn = np.random.default_rng(recipe.seed).permutation(len(windows))[: recipe.timed_requests]
    think(asker, windows.at(drawn[:1]), forecaster, recipe.contexts)  # warms caches up
    thoughts = [think(asker, windows.at([row]), forecaster, recipe.contexts) for row in drawn]
    milliseconds = [1e3 * thought.seconds for thought in thoughts]
    row = {
        "method": methods.SLOW_THINKING,
        "n_requests": len(drawn),
        "n_answers": int(np.mean([thought.answers.sum() for thought in thoughts])),
        "tokens": float(np.mean([thought.tokens.sum() for thought in thoughts])),
        "p50_ms": float(np.quantile(milliseconds, 0.5)),
        "p95_ms": float(np.quantile(milliseconds, 0.95)),
    }
    return frame(experiment, COSTS, [row])


def cases(experiment: Experiment) -> Iterator[Case]:
    """Yield the test windows with every stored forecast, in the order of the recipe."""
    stored = experiment.tables.read(ANSWERS)
    for name in experiment.present(experiment.recipe.evaluate):
        series = experiment.series(name)
        begin, end = part_rows(series, "train")
        floors = percentage_floor(series.values[begin:end])
        for window_set, windows in test_windows(experiment, name):
            own = stored.filter(data_set=name, window_set=window_set)
            channel = [series.channels.index(each) for each in windows.channels]
            yield Case(
                windows,
                window_set,
                scales_of(series, windows),
                floors[channel],
                {
                    method: _stored(own.filter(method=method), windows.horizon)
                    for method in own["method"].unique(maintain_order=True).to_list()
                },
            )


def _stored(rows: pl.DataFrame, horizon: int) -> Forecast:
    deciles = rows["deciles"]
    return Forecast(
        matrix(rows["points"]),
        None if deciles[0] is None else matrix(deciles).reshape(len(rows), horizon, 9),
        None if rows["failed"][0] is None else rows["failed"].to_numpy(),
        None if rows["kept"][0] is None else rows["kept"].to_numpy(),
    )


def slow_thinking_evaluation(experiment: Experiment) -> pl.DataFrame:
    """Return the measures of every method, with intervals and against its rivals."""
    recipe = experiment.recipe
    return evaluate(list(cases(experiment)), recipe.draws, recipe.seed)
