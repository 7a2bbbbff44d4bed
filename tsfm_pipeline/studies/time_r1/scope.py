"""The study's scope: recipes, one for each YAML file.

What belongs here: opening a recipe, what decides its tables, and its data sets as windows. What
does not: the records of its tables (`tables`), and making them (`making`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tsfm_pipeline.catalogue.fleet import NO_RUN
from tsfm_pipeline.catalogue.registry import Table
from tsfm_pipeline.catalogue.scopes import open_tables
from tsfm_pipeline.catalogue.shards import WHOLE
from tsfm_pipeline.files import fingerprint
from tsfm_pipeline.forecaster.registry import checkpoint_digest
from tsfm_pipeline.lake import FleetLake
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.codecs import Codec
from tsfm_pipeline.studies.time_r1.datasets import DataSet, chosen, data_sets, missing
from tsfm_pipeline.studies.time_r1.environment import environment
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe
from tsfm_pipeline.studies.time_r1.prompts import About
from tsfm_pipeline.studies.time_r1.recipes import profile, recipe_files
from tsfm_pipeline.studies.time_r1.sources import Series, read, source_digest
from tsfm_pipeline.studies.time_r1.splits import Part, windows_of
from tsfm_pipeline.studies.time_r1.starts import codec_of, policy_digest
from tsfm_pipeline.studies.time_r1.tables import RECIPE, TABLES
from tsfm_pipeline.studies.time_r1.windows import Windows

MISSING = "missing"


@dataclass(frozen=True)
class RecipeContext:
    """Everything that the fingerprint of a recipe's table may depend on besides its inputs.

    sources: digest of each data set, or that it is missing. policy: digest of the weights that
    training starts from.
    """

    recipe: Recipe
    profile: Profile
    sources: Mapping[str, str]
    checkpoint_digest: str
    dtype: str
    policy: str

    @property
    def source_fingerprint(self) -> str:
        return fingerprint(dict(self.sources))


class Experiment:
    """One recipe under given settings; implements `catalogue.scopes.Member`."""

    def __init__(self, settings: Settings, name: str, run_id: str = NO_RUN) -> None:
        self.settings = settings
        self.name = name
        self.run_id = run_id

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe's file. Raises ValueError, with the known names, if there is none."""
        return recipe_files(self.settings).spec(self.name)

    @cached_property
    def profile(self) -> Profile:
        """The policy and its training."""
        return profile(self.settings, self.recipe.profile)

    @property
    def codec(self) -> Codec:
        """How the policy writes numbers."""
        return codec_of(self.profile)

    @cached_property
    def sets(self) -> dict[str, DataSet]:
        """The recipe's data sets by name, those to train on first."""
        names = dict.fromkeys((*self.recipe.train, *self.recipe.evaluate))
        return {spec.name: spec for spec in chosen(data_sets(self.settings), names)}

    @cached_property
    def missing(self) -> dict[str, str]:
        """What to do about each data set that is not on this machine."""
        return missing(self.sets.values(), self.settings)

    @cached_property
    def context(self) -> RecipeContext:
        sources = {
            name: MISSING if name in self.missing else source_digest(spec, self.settings)
            for name, spec in self.sets.items()
        }
        return RecipeContext(
            self.recipe,
            self.profile,
            sources,
            checkpoint_digest(self.settings.checkpoint),
            self.settings.dtype,
            policy_digest(self.profile),
        )

    @cached_property
    def tables(self) -> FleetLake:
        return open_tables(self.settings, RECIPE, self.name, TABLES, self.context)

    def prepare(self, log: Callable[[str], Any]) -> None:
        """Say which data sets are missing. Raises ValueError if none to train on is there."""
        for reason in self.missing.values():
            log(reason)
        if all(name in self.missing for name in self.recipe.train):
            raise ValueError("\n".join(self.missing[name] for name in self.recipe.train))

    @property
    def reports_dir(self) -> Path:
        """The folder of the recipe's report."""
        return self.settings.reports_dir / f".{RECIPE}" / self.name

    def work_dir(self, table: str) -> Path:
        """Return the folder in which a training of some table keeps what it resumes from. Another
        fingerprint has another folder.
        """
        return self.tables.path / "_unfinished" / f"{table}-{self.tables.expected[table][:16]}"

    def present(self, names: Sequence[str]) -> list[str]:
        """Return those of some data sets that are on this machine."""
        return [name for name in names if name not in self.missing]

    def series(self, name: str) -> Series:
        """Read a data set."""
        if name not in self._read:
            self._read[name] = read(self.sets[name], self.settings)
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, Series]:
        return {}

    def past(self, series: Series) -> int:
        """Return the past values that a window of a series needs for drafts, backtests and gate."""
        from tsfm_pipeline.studies.time_r1.slow_thinking import needed_past

        recipe = self.recipe
        return needed_past(
            recipe.contexts,
            series.season,
            recipe.horizon,
            recipe.look_back,
            self.profile.thinking.gate_origins,
        )

    def windows(self, name: str, part: Part, most: int, stride: int | None = None) -> Windows:
        """Return at most so many windows of a part of a data set, drawn with the recipe's seed."""
        series, recipe = self.series(name), self.recipe
        return windows_of(
            series,
            part,
            recipe.look_back,
            recipe.horizon,
            past=self.past(series),
            stride=stride,
            most=most,
            seed=recipe.seed,
        )

    def about(self, name: str) -> About:
        """Return what prompts say about a data set."""
        spec = self.sets[name]
        channels = {channel: spec.meaning_of(channel) for channel in self.series(name).channels}
        return About(spec.title, channels)


class RecipeScope:
    """Recipes; implements `catalogue.scopes.Scope`."""

    name = RECIPE
    opener = f"{__name__}:Experiment"

    def partitions(self, settings: Settings) -> Sequence[str]:
        """Return the names of the recipes whose files can be read."""
        return list(recipe_files(settings).readable()[0])

    def open(self, settings: Settings, name: str, run_id: str = NO_RUN) -> Experiment:
        """Open a recipe. Raises ValueError, with the known names, when it is first used if there is
        none of that name.
        """
        return Experiment(settings, name, run_id)

    def dimension(self, experiment: Experiment, name: str) -> Sequence[Any]:
        """Raise KeyError: no column of the study stands once per entry of anything."""
        raise KeyError(name)

    def shards(self, experiment: Experiment, table: Table) -> Sequence[Sequence[int]]:
        """Return one shard: a recipe's tables are made whole."""
        return WHOLE

    def provenance(self, experiment: Experiment) -> Mapping[str, Any]:
        """Return the digests of the frozen model and of the weights that training starts from, and
        the environment, which no fingerprint covers.
        """
        context = experiment.context
        return {
            "environment": environment(),
            "checkpoint_sha256": context.checkpoint_digest,
            "policy_sha256": context.policy,
            "data_sets": dict(context.sources),
        }


SCOPE = RecipeScope()
