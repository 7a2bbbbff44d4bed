"""The study's tables: data sets, samples, adapters, and how good every method is.

What belongs here: one record and one maker per table, and their columns. What does not: making them
(`making`), opening a recipe (`scope`), the measures (`evaluation`).
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from tsfm_pipeline.catalogue.columns import FLAG, FLOAT64, INT32, INT64, TEXT
from tsfm_pipeline.catalogue.registry import Column, Table, registry
from tsfm_pipeline.steps.makers import Maker, with_model
from tsfm_pipeline.studies.time_r1.evaluation_columns import EVALUATED as MEASURES

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.scope import RecipeContext

RECIPE = "recipe"
"""The name of the scope."""
DATA, TRAINING, REPORTS = "time_r1_data", "time_r1_training", "time_r1_reports"
"""Groups of the asset graph."""
FACTS, CANDIDATES, SAMPLES = "data_set_facts", "sft_candidates", "sft_samples"
SFT, RUNS, ADAPTERS = "sft_adapter", "grip_run", "grip_adapter"
ANSWERS, POLICY, COSTS = "slow_thinking_answers", "policy_checks", "request_costs"
EVALUATED = "slow_thinking_evaluation"
PLAIN, DRAFTED = "sft_plain", "sft_draft"
"""Variants of supervised training: prompts without a draft, and with one."""
GRIP, GRPO, MORE_SFT = "grip", "grpo", "sft_more"
"""Variants of what follows it. `grpo` learns from as many rollouts as `grip` samples, and
`sft_more` reads as many tokens as `grip` cost."""
MORE_SFT_LOSSES = ("objective", "template", "think", "number")
"""What `grip_run` holds of each validation of `sft_more`, which has losses and no rewards."""


_LATER = {"teacher": "grid", "dtype": "float32", "micro_batch": None}
"""Fields of a profile that came after the first runs, with their defaults, which are left out, so
that the runs of before keep their fingerprints."""


def _of(*fields: str, profile: tuple[str, ...] = (), model: bool = False) -> Any:
    """Return a function that returns what decides a table: fields of the recipe and of its profile,
    and the frozen model.
    """

    def decided(context: "RecipeContext") -> dict[str, Any]:
        recipe = context.recipe.model_dump(mode="json", include=set(fields))
        known: dict[str, Any] = {"recipe": recipe}
        if profile:
            chosen = context.profile.model_dump(mode="json", include=set(profile))
            known["profile"] = {
                name: value
                for name, value in chosen.items()
                if name not in _LATER or value != _LATER[name]
            }
            known["policy"] = context.policy
        if model:
            known["model"] = {"checkpoint": context.checkpoint_digest, "dtype": context.dtype}
        return known

    return decided


_WINDOWS = ("look_back", "horizon", "contexts", "seed")
"""Fields that decide which windows are cut, and their drafts."""


def _candidates(context: "RecipeContext") -> dict[str, Any]:
    """Return what decides the candidates: the policy and its codec only where it teaches."""
    fields = ("train", *_WINDOWS, "train_windows", "validation_windows")
    teaching: tuple[str, ...] = ()
    if context.profile.teacher != "grid":
        teaching = ("teacher",)
    if context.profile.teacher == "policy":
        teaching = ("teacher", "model", "revision", "codec", "prompt", "dtype", "thinking")
    return _of(*fields, profile=teaching, model=True)(context)


def _sources(context: "RecipeContext") -> dict[str, Any]:
    return {"sources": dict(context.sources), **_of("train", "evaluate")(context)}


_SET = Column("data_set", TEXT, "name of the data set")
_PART = Column("part", TEXT, "train or validation")
_CHANNEL = Column("channel", TEXT, "channel of the data set")
_ORIGIN = Column("origin", INT64, "row of the last known value before the forecast", "rows")
_VARIANT = Column("variant", TEXT, "how it was trained")
_NUMBERS = pl.List(pl.Float64())
_FILES = Column(
    "files",
    pl.List(pl.Struct({"name": pl.String(), "content": pl.Binary()})),
    "the adapter as files: weights as safetensors, peft's configuration, and config.json with the "
    "digest of the weights",
)
_SECONDS = Column("cpu_s", FLOAT64, "processor time of the training", "seconds")

TABLES: dict[str, Table] = registry(
    (
        Table(
            FACTS,
            RECIPE,
            DATA,
            3,
            question="Which data sets are there, and are they what their description says?",
            row="data set and channel; one row for a data set that is missing",
            parameters=_sources,
            columns=(
                _SET,
                Column("is_present", FLAG, "whether the data set is on this machine"),
                Column("todo", TEXT, "what to do about a missing data set, else empty"),
                Column("pinned", FLAG, "whether its digest was known beforehand"),
                _CHANNEL,
                Column("n_rows", INT64, "rows", "count"),
                Column("n_missing", INT64, "values that were not observed", "count"),
                Column("mean", FLOAT64, "mean of the observed values", "of the data"),
                Column("deviation", FLOAT64, "their standard deviation", "of the data"),
                Column("deciles", _NUMBERS, "their nine deciles", "of the data"),
                Column(
                    "problems",
                    pl.List(pl.String()),
                    "what is not as described, or changed from the source to the windows",
                ),
            ),
        ),
        Table(
            CANDIDATES,
            RECIPE,
            DATA,
            2,
            question="What do frozen model and simple methods forecast for the training windows?",
            row="data set, part, channel, origin and candidate",
            inputs=(FACTS,),
            parameters=_candidates,
            columns=(
                _SET,
                _PART,
                _CHANNEL,
                _ORIGIN,
                Column(
                    "candidate",
                    TEXT,
                    "median_of_drafts, frozen_<context>, a simple method, or answer_<number> of a "
                    "teacher that is asked",
                ),
                Column("forecast", _NUMBERS, "of the steps after the origin", "of the data"),
                Column(
                    "backtest",
                    _NUMBERS,
                    "what the method forecast for the last known steps, from origins a horizon "
                    "apart",
                    "of the data",
                ),
                Column("chosen", FLAG, "whether the teacher takes it: the lowest MAPE"),
                Column("mape", FLOAT64, "of the chosen one; null for the others", "share"),
                Column("floored", FLAG, "whether the floor of the denominator decided"),
            ),
        ),
        Table(
            SAMPLES,
            RECIPE,
            DATA,
            2,
            question="What is the policy shown, and what should it write?",
            row="variant, data set, part, channel and origin",
            inputs=(CANDIDATES,),
            parameters=_of(profile=("codec", "prompt", "answer")),
            columns=(
                _VARIANT,
                _SET,
                _PART,
                _CHANNEL,
                _ORIGIN,
                Column("shown", TEXT, "the draft in the prompt; null without one"),
                Column("candidate", TEXT, "the candidate that the reason is about"),
                Column("prompt", TEXT, "what the policy reads"),
                Column("thought", TEXT, "the reason, which the truth has no part in"),
                Column("completion", TEXT, "what it should write"),
            ),
        ),
        Table(
            SFT,
            RECIPE,
            TRAINING,
            2,
            question="What does supervised training teach the policy?",
            row="variant",
            inputs=(SAMPLES,),
            parameters=_of(
                "seed", profile=("model", "revision", "dtype", "micro_batch", "lora", "warm_up")
            ),
            key=("variant",),
            columns=(
                _VARIANT,
                _FILES,
                Column("curve", pl.List(_NUMBERS), "rows of losses, one per update"),
                Column("validations", TEXT, "losses on validation windows as JSON"),
                Column("format_loss", FLOAT64, "loss of the tags at the kept step", "nats/token"),
                Column("best_step", INT32, "updates at the kept step", "updates"),
                Column("stopped_early", FLAG, "whether validation ended the training"),
                Column("trained", INT64, "trained parameters", "count"),
                Column("parameters", INT64, "all parameters", "count"),
            ),
        ),
        Table(
            RUNS,
            RECIPE,
            TRAINING,
            3,
            question="What do rewards teach it after that, and what would as much SFT have taught?",
            row="variant",
            inputs=(SFT,),
            parameters=_of("seed", "reward", profile=("lora", "warm_up", "grip")),
            key=("variant",),
            columns=(
                _VARIANT,
                Column("curve", pl.List(_NUMBERS), "rows of figures, one per step"),
                Column("validated", pl.List(pl.Int64()), "steps after which it was validated"),
                Column(
                    "validation",
                    pl.List(_NUMBERS),
                    "mean reward of each validation window; of sft_more the losses: objective, "
                    "template, think, number",
                ),
                Column("best_step", INT32, "the step whose adapter is kept", "updates"),
                Column("n_tokens", INT64, "tokens that were sampled and learnt from", "count"),
                _FILES,
                _SECONDS,
            ),
        ),
        Table(
            ADAPTERS,
            RECIPE,
            TRAINING,
            2,
            question="Which adapters does the study end with?",
            row="variant",
            inputs=(SFT, RUNS),
            key=("variant",),
            columns=(
                _VARIANT,
                Column("follows", TEXT, "variant that it is trained after; empty for the base"),
                Column("sha256", TEXT, "of the weights"),
                _FILES,
            ),
        ),
        Table(
            POLICY,
            RECIPE,
            REPORTS,
            2,
            question="Do answers keep their form, and how far has the policy moved?",
            row="check",
            inputs=(ADAPTERS, CANDIDATES),
            parameters=_of("seed", profile=("thinking",)),
            key=("name",),
            columns=(
                Column("name", TEXT, "parsing, divergence"),
                Column("figures", TEXT, "what was measured, as JSON"),
            ),
        ),
        Table(
            ANSWERS,
            RECIPE,
            REPORTS,
            4,
            question="What does each method forecast for the test windows?",
            row="data set, kind of windows, method, channel and origin",
            inputs=(ADAPTERS, FACTS),
            parameters=_of(
                "evaluate",
                *_WINDOWS,
                "test_windows",
                profile=("thinking",),
                model=True,
            ),
            columns=(
                _SET,
                Column("window_set", TEXT, "own, paper or fleet"),
                Column("method", TEXT, "name of the method"),
                _CHANNEL,
                _ORIGIN,
                Column("points", _NUMBERS, "medians", "of the data"),
                Column("deciles", _NUMBERS, "deciles .1 to .9 of each step", "of the data"),
                Column("failed", FLAG, "whether the draft stands for an answer that failed"),
                Column("kept", FLAG, "whether the gate kept the refined answer"),
                Column("refined", _NUMBERS, "the answer before the gate", "of the data"),
                Column("reason", TEXT, "of slow thinking, in sentences"),
                Column("tokens", INT64, "tokens that were sampled", "count"),
            ),
        ),
        Table(
            COSTS,
            RECIPE,
            REPORTS,
            3,
            question="How long does one request of slow thinking take on this machine?",
            row="method",
            inputs=(ADAPTERS, FACTS),
            parameters=_of(
                "evaluate",
                *_WINDOWS,
                "timed_requests",
                profile=("thinking",),
                model=True,
            ),
            key=("method",),
            columns=(
                Column("method", TEXT, "name of the method"),
                Column("n_requests", INT32, "requests that were timed, one by one", "count"),
                Column("n_answers", INT32, "answers that are sampled per request", "count"),
                Column("tokens", FLOAT64, "tokens that are sampled per request", "count"),
                Column("p50_ms", FLOAT64, "median latency", "milliseconds"),
                Column("p95_ms", FLOAT64, "95 % quantile of the latency", "milliseconds"),
            ),
        ),
        Table(
            EVALUATED,
            RECIPE,
            REPORTS,
            6,
            question="How good is each method on test windows, against its draft and its rivals?",
            row="data set, kind of windows and method",
            inputs=(ANSWERS,),
            parameters=_of("seed", "draws"),
            columns=MEASURES,
        ),
    )
)
"""Every table of the study by name."""

_STUDY = "tsfm_pipeline.studies.time_r1"


def _torch(function: str) -> Maker:
    return Maker(f"{_STUDY}.{function}", heavy=True, kinds=("torch",))


MAKERS: dict[str, Maker] = {
    FACTS: Maker(f"{_STUDY}.making:data_set_facts"),
    CANDIDATES: with_model(f"{_STUDY}.making:sft_candidates"),
    SAMPLES: Maker(f"{_STUDY}.making:sft_samples"),
    SFT: _torch("making_training:sft_adapter"),
    RUNS: _torch("making_training:grip_run"),
    ADAPTERS: Maker(f"{_STUDY}.making_training:grip_adapter"),
    POLICY: _torch("making_answers:policy_checks"),
    ANSWERS: with_model(f"{_STUDY}.making_answers:slow_thinking_answers"),
    COSTS: with_model(f"{_STUDY}.making_answers:request_costs"),
    EVALUATED: Maker(f"{_STUDY}.making_answers:slow_thinking_evaluation"),
}
"""The maker of every table of the study."""
