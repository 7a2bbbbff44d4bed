"""What the report on one recipe is made from.

What belongs here: the records that the caller fills from tables and logs, and their limits. What
does not: figures about them (`numbers`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tsfm_pipeline.studies.time_r1.evaluation import Case
from tsfm_pipeline.studies.time_r1.methods import DRAFT, SLOW_THINKING, require_known
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints


@dataclass(frozen=True)
class Curve:
    """What a training wrote down.

    run: name of the training. steps: int64 [S], ascending, the updates that were done. columns: by
    name, float64 [S], NaN where a step has no figure. validations: the same on validation windows,
    with steps of their own.
    """

    run: str
    steps: Ints
    columns: Mapping[str, Floats]
    validation_steps: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    validations: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for steps, columns in (
            (self.steps, self.columns),
            (self.validation_steps, self.validations),
        ):
            for name, values in columns.items():
                if values.shape != steps.shape:
                    raise ValueError(
                        f"training {self.run}: column {name} has shape {values.shape}; allowed: "
                        f"that of its steps, {steps.shape}"
                    )

    def column(self, name: str) -> Floats:
        """Return a column [S]; NaN throughout where the training did not write it down."""
        return self.columns.get(name, np.full(len(self.steps), np.nan))

    def validation(self, name: str) -> Floats:
        """Return a column of the validations, NaN throughout where there is none."""
        return self.validations.get(name, np.full(len(self.validation_steps), np.nan))


def warm_up_curve(
    run: str,
    columns: Sequence[str],
    history: Floats,
    validations: Sequence[Mapping[str, float]],
) -> Curve:
    """Return the curve of a warm-up (`warm_up.WarmUpResult`).

    columns: `training.COLUMNS`. history: float64 [S, columns]. validations: each with its `step`.
    """
    names = [name for name in (validations[0] if validations else {}) if name != "step"]
    return Curve(
        run,
        np.arange(1, len(history) + 1),
        {name: history[:, i] for i, name in enumerate(columns)},
        np.array([each["step"] for each in validations], np.int64),
        {name: np.array([each[name] for each in validations]) for name in names},
    )


def base_curves(curve: Mapping[str, Mapping[str, Mapping[str, float]]]) -> tuple[Curve, ...]:
    """Return the curves of the base's training, one for each kind of prompt, as `starts.base_curve`
    gives it: by updates, by kind, then by part.
    """
    by_step = {int(step): losses for step, losses in curve.items()}
    steps = np.array(sorted(by_step), np.int64)
    kinds = list(by_step[int(steps[0])]) if len(steps) else []
    return tuple(
        Curve(
            kind,
            np.zeros(0, np.int64),
            {},
            steps,
            {
                part: np.array([by_step[int(step)][kind][part] for step in steps])
                for part in by_step[int(steps[0])][kind]
            },
        )
        for kind in kinds
    )


def reinforced_curve(
    run: str,
    columns: Sequence[str],
    history: Floats,
    validated: Sequence[int],
    validation: Floats,
    best_step: int,
) -> Curve:
    """Return the curve of GRIP or GRPO (`grip_loop.GripResult`).

    columns: `grip_measures.COLUMNS`. history: float64 [S, columns]. validated: the steps after
    which validation was made [V]. validation: mean reward of each validation window, float64
    [V, windows]. best_step: the step whose adapter was kept. The columns are `reward`, `gain` over
    the first validation with `gain_standard_error`, which is that of the windows' paired
    differences, and `kept`, 1 for the step that was kept and else 0.
    """
    gains = validation - validation[:1]
    n = validation.shape[1]
    error = gains.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.full(len(gains), np.nan)
    return Curve(
        run,
        np.arange(1, len(history) + 1),
        {name: history[:, i] for i, name in enumerate(columns)},
        np.asarray(validated, np.int64),
        {
            "reward": validation.mean(axis=1),
            "gain": gains.mean(axis=1),
            "gain_standard_error": error,
            "kept": (np.asarray(validated) == best_step).astype(np.float64),
        },
    )


@dataclass(frozen=True)
class Thoughts:
    """What slow thinking thought about the windows of the headline, before the gate.

    refined: float64 [N, H], the answer after the last pass, without the gate; the draft where no
    answer could be read. reasons: of each window [N], plain sentences of its findings.
    """

    refined: Floats
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Parsing:
    """How many completions on held-out prompts could be read.

    n_free, n_free_read: sampled at temperature 1 without a grammar. n_constrained,
    n_constrained_read: with it. problems: how many of the free ones had each problem
    (`answers.Problem`).
    """

    n_free: int
    n_free_read: int
    n_constrained: int
    n_constrained_read: int
    problems: Mapping[str, int]


@dataclass(frozen=True)
class Divergence:
    """KL divergence of the policy after GRIP from its reference on P held-out prompts, nats per
    token: exact over the vocabulary, and estimated by k3 on fresh samples; each float64 [P].
    """

    exact: Floats
    k3: Floats


@dataclass(frozen=True)
class Cost:
    """What one request of a method costs.

    n_answers: sampled per request. tokens: generated per request, on average. p50_ms, p95_ms:
    latency. training_cpu_s: processor time of GRIP behind it, 0 without it.
    """

    method: str
    n_answers: int
    tokens: float
    p50_ms: float
    p95_ms: float
    training_cpu_s: float

    def __post_init__(self) -> None:
        require_known(self.method)


@dataclass(frozen=True)
class DataSetNote:
    """A data set of the study.

    role: what it was used for, for example "training" or "evaluation"; empty if it was not used.
    note: why it was not used, or what a reader must know. pinned: whether its content is known
    beforehand. problems: what the checks of schema and drift found, each a sentence.
    """

    name: str
    title: str
    licence: str
    role: str
    note: str = ""
    pinned: bool = True
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What the report on one recipe is made from.

    n_parameters, n_trained: of the policy, and those that SFT and GRIP trained. evaluated: rows of
    `evaluation_columns.EVALUATED`, with those of the headline among them. headline: the windows
    that the first lines are about; it has the draft and slow thinking. base: of the base, one for
    each kind of prompt; none where that is not known. warm_ups: of every SFT. reinforced: of GRIP
    and GRPO, runs `grip` and `grpo`. draws: of the intervals. seed: of ties in the gallery and of
    the bootstrap.
    """

    recipe: Recipe
    profile: Profile
    n_parameters: int
    n_trained: int
    evaluated: pl.DataFrame
    headline: Case
    thoughts: Thoughts
    base: tuple[Curve, ...]
    warm_ups: tuple[Curve, ...]
    reinforced: tuple[Curve, ...]
    parsing: Parsing
    divergence: Divergence
    costs: tuple[Cost, ...]
    data_sets: tuple[DataSetNote, ...]
    draws: int
    seed: int

    def __post_init__(self) -> None:
        windows = self.headline.windows
        for name in (DRAFT, SLOW_THINKING):
            if name not in self.headline.forecasts:
                raise ValueError(f"the headline lacks forecasts of {name}")
        if self.headline.forecasts[SLOW_THINKING].kept is None:
            raise ValueError("slow thinking of the headline lacks `kept`, what its gate decided")
        given = self.thoughts.refined.shape, len(self.thoughts.reasons)
        if given != (windows.truth.shape, len(windows)):
            raise ValueError(
                f"thoughts have refined answers of shape {given[0]} and {given[1]} reasons; "
                f"allowed: {windows.truth.shape} and {len(windows)}"
            )
