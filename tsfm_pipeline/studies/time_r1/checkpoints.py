"""Checkpoints of the study in the project's registry: candidates, promoted ones, and which is used.

What belongs here: writing the policy of a recorded run as a folder of the registry, listing these
folders, and finding and loading the policy that is asked outside of the study. What does not: the
form of a folder and its digest (`forecaster.registry`), and the gate (`promotion`).

Folders are `<data_dir>/checkpoints/time-r1/<recipe>-<hash>-<variant>`. Beside them, in a checkout,
lies what the project ships: `base`, and adapters. torch is imported when a policy is loaded.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.files import fingerprint, write_text_atomically
from tsfm_pipeline.forecaster.registry import (
    CARD_FILE,
    CONFIG_FILE,
    CheckpointError,
    StagedCheckpoint,
    staged_checkpoint,
)
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.options import ThinkingOptions
from tsfm_pipeline.studies.time_r1.run_records import RunError, RunRecord, RunRecords
from tsfm_pipeline.studies.time_r1.scope import MISSING
from tsfm_pipeline.studies.time_r1.tables import GRIP, PLAIN

if TYPE_CHECKING:
    from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

POLICY_VARIABLE = "TSFM_TIME_R1_POLICY"
"""Names a folder with a base and adapters that counts before promoted and shipped ones."""
SHIPPED = "data/checkpoints/time-r1"
BASE, SHIPPED_ADAPTERS = "base", ("sft", "grip")
"""Folders of the base, and of the adapters that are merged into it in this order, if they exist."""
MEASURED = ("validation_reward", "kl_nats_per_token")
"""What the training of an adapter by GRIP measured, as its config.json has it."""
_TEXT = """# Model card: `{name}`

A policy of the study of slow thinking: the own policy with the adapters of one run merged into it.
It reads a look-back and a draft forecast, and answers with a correction of the draft.

| | |
|---|---|
| stage | {stage} |
| sha256 of model.safetensors | `{sha256}` |
| run | `{hash}` of the recipe `{recipe}`, commit {commit} |
| variant | {variant} |
| base | `{base_sha256}` |
| adapters, in the order in which they were merged | {adapters} |
| trained on | {trained_on} |
| shown and asked | {look_back} steps, {horizon} steps ahead |

## What it is worth
{gate}

## Again
`tsfm-pipeline time-r1 replay {hash}` makes the run again and compares its adapters.
"""


@dataclass(frozen=True)
class AskedWith:
    """How a policy was trained to be asked: steps shown, contexts of the frozen model's drafts, the
    prompt's template, and how answers are sampled.
    """

    look_back: int
    contexts: tuple[int, ...]
    prompt: str
    thinking: ThinkingOptions


SHIPPED_ASKED_WITH = AskedWith(96, (96, 512), "own", ThinkingOptions())
"""Of the shipped policy."""


@dataclass(frozen=True)
class PromotedPolicy:
    """The policy in use outside of the study, adapters merged.

    source: the folder it is from. facts: what the config.json of its last part states, and the
    licence that of its first part does.
    """

    source: Path
    policy: "LanguagePolicy"
    asked_with: AskedWith
    facts: Mapping[str, Any]


def checkpoints_dir(settings: Settings) -> Path:
    """Return the folder of the study's checkpoints in a data folder."""
    return settings.data_dir / "checkpoints" / "time-r1"


def staged(settings: Settings) -> list[StagedCheckpoint]:
    """Return every checkpoint that has a stage, by name. Raises CheckpointError for one of them
    that is not what its digest says.
    """
    return [
        staged_checkpoint(config.parent)
        for config in sorted(checkpoints_dir(settings).glob(f"*/{CONFIG_FILE}"))
        if json.loads(config.read_text(encoding="utf-8")).get("stage")
    ]


def find_staged(settings: Settings, name: str) -> StagedCheckpoint:
    """Return a checkpoint by its name. Raises RunError, with the known names, if there is none, and
    CheckpointError if it is not what its digest says.
    """
    known = {each.name: each for each in staged(settings)}
    if name not in known:
        there = ", ".join(known) or "none; `tsfm-pipeline time-r1 register HASH` writes one"
        raise RunError(f"no checkpoint {name!r}; there are: {there}")
    return known[name]


def register(settings: Settings, prefix: str, variant: str = GRIP) -> StagedCheckpoint:
    """Write the policy of a recorded run as a checkpoint of stage candidate, adapters merged, and
    return it; one that is there already stays as it is.

    prefix: the beginning of the run's hash. Raises RunError for an unknown run or variant, for a
    policy of the hub (its weights are the hub's), and where the run's adapters are not in the lake
    any more; CheckpointError where the base is not that of the run.
    """
    from tsfm_pipeline.studies.time_r1.runs import StoredExperiment, recorded_adapters

    record = RunRecords(settings).find(prefix)
    stored = record.configuration
    corrects = [each for each in record.digests.adapters if each != PLAIN]
    if variant not in corrects:
        raise RunError(
            f"run {record.hash} has no policy {variant!r} that corrects drafts; allowed: "
            f"{', '.join(corrects)}"
        )
    if stored.profile.codec != "number":
        raise RunError(
            f"run {record.hash} is of the policy {stored.profile.model} of the hub, whose weights "
            "are not copied; allowed: runs of an own policy"
        )
    folder = checkpoints_dir(settings) / f"{stored.recipe.name}-{record.hash[:8]}-{variant}"
    if folder.is_dir():
        return staged_checkpoint(folder)
    experiment = StoredExperiment(settings, stored, settings.data_dir)
    adapters = recorded_adapters(experiment, record)
    from tsfm_pipeline.studies.time_r1.making_training import trained
    from tsfm_pipeline.studies.time_r1.own_policy import save_policy

    policy = trained(experiment, adapters, variant)
    follows = dict(adapters.select("variant", "follows").iter_rows())
    (files,) = adapters.filter(variant=variant)["files"].to_list()
    of_adapter = json.loads(next(f["content"] for f in files if f["name"] == CONFIG_FILE))
    measured = {name: of_adapter[name] for name in MEASURED if name in of_adapter}
    facts = {"name": folder.name, **run_facts(record, variant, follows), **measured}
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        save_policy(policy, unfinished, facts)
        config = json.loads((unfinished / CONFIG_FILE).read_text(encoding="utf-8"))
        _write_card(unfinished, config)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return staged_checkpoint(folder)


def restate(checkpoint: StagedCheckpoint, changes: Mapping[str, Any]) -> StagedCheckpoint:
    """Change fields of a checkpoint's config.json, in which its stage stands, and write its card
    again.
    """
    config = {**checkpoint.config, **changes}
    text = json.dumps(config, indent=2) + "\n"
    _write_card(checkpoint.folder, config)
    write_text_atomically(checkpoint.folder / CONFIG_FILE, text)
    return staged_checkpoint(checkpoint.folder)


def promoted(settings: Settings) -> StagedCheckpoint | None:
    """Return the checkpoint that was promoted last, or None."""
    found = [each for each in staged(settings) if each.stage == "promoted"]
    return max(found, key=lambda each: str(each.config["promoted_at"]), default=None)


def policy_source(settings: Settings) -> StagedCheckpoint | Path:
    """Return what the policy in use is loaded from: the folder that `POLICY_VARIABLE` names, else
    the checkpoint that was promoted last, else the shipped folder of base and adapters.
    """
    named = os.environ.get(POLICY_VARIABLE)
    if named:
        return Path(named).resolve()
    return promoted(settings) or packaged(SHIPPED)


def policy_in_use_digest(settings: Settings) -> str:
    """Return what identifies the policy in use in fingerprints: the digests of its weights, as
    config.json states them, and how a promoted one is asked. Raises CheckpointError where there is
    no policy.
    """
    source = policy_source(settings)
    if isinstance(source, StagedCheckpoint):
        return fingerprint(source.sha256, source.config["asked_with"])
    found = {}
    for name in (BASE, *SHIPPED_ADAPTERS):
        config = source / name / CONFIG_FILE
        if config.is_file():
            found[name] = json.loads(config.read_text(encoding="utf-8"))["sha256"]
        elif name == BASE:
            raise CheckpointError(
                f"{config} does not exist; {POLICY_VARIABLE} names the folder of a base and its "
                "adapters"
            )
    return fingerprint(found)


def load_promoted(settings: Settings) -> PromotedPolicy:
    """Return the policy in use (`policy_source`), ready to be asked; the service and the plugin of
    the forecaster load it by this function.

    Raises CheckpointError where it is absent, pickled, or not what its digest says.
    """
    from tsfm_pipeline.studies.time_r1.adapters import load_adapter, merged
    from tsfm_pipeline.studies.time_r1.own_policy import load_policy, read_config

    source = policy_source(settings)
    if isinstance(source, StagedCheckpoint):
        policy = load_policy(source.folder)
        return PromotedPolicy(source.folder, policy, asked_with(source), source.config)
    policy = load_policy(source / BASE)
    facts = read_config(source / BASE)
    for name in SHIPPED_ADAPTERS:
        if (source / name).is_dir():
            policy = merged(load_adapter(policy, source / name, trainable=False))
            facts = {"licence": facts.get("licence"), **read_config(source / name)}
    return PromotedPolicy(source, policy, SHIPPED_ASKED_WITH, facts)


def asked_with(checkpoint: StagedCheckpoint) -> AskedWith:
    """Return how the policy of a checkpoint was trained to be asked."""
    fields = checkpoint.config["asked_with"]
    return AskedWith(
        fields["look_back"],
        tuple(fields["contexts"]),
        fields["prompt"],
        ThinkingOptions.model_validate(fields["thinking"]),
    )


def run_facts(record: RunRecord, variant: str, follows: Mapping[str, str]) -> dict[str, Any]:
    """Return what the config.json of a variant of a run tells besides name, shape and digest.

    follows: the variant that each variant was trained after, "" for the base.
    """
    stored, chain = record.configuration, [variant]
    while follows[chain[0]]:
        chain.insert(0, follows[chain[0]])
    trained_on = {
        each: stored.data_sets[each].licence
        for each in stored.recipe.train
        if stored.sources[each] != MISSING
    }
    recipe, profile = stored.recipe, stored.profile
    return {
        "stage": "candidate",
        "licence": "that of the data it was trained on: " + ", ".join(trained_on.values()),
        "run": {"hash": record.hash, "recipe": recipe.name, "commit": record.commit},
        "variant": variant,
        "base_sha256": stored.policy_sha256,
        "adapters": [{"variant": v, "sha256": record.digests.adapters[v]} for v in chain],
        "trained_on": trained_on,
        "asked_with": {
            "look_back": recipe.look_back,
            "horizon": recipe.horizon,
            "contexts": list(recipe.contexts),
            "prompt": profile.prompt,
            "thinking": profile.thinking.model_dump(mode="json"),
        },
    }


def _write_card(folder: Path, config: Mapping[str, Any]) -> None:
    gate = config.get("gate")
    worth = (
        "It has not passed the gate: nothing outside of the study uses it."
        if gate is None
        else "MASE of slow thinking over that of its draft, on {n_windows} validation windows: "
        "{ratio:.4f} ({low:.4f} to {high:.4f}, 95 % interval).".format(**gate)
    )
    run, asked = config["run"], config["asked_with"]
    adapters = "; ".join(f"{each['variant']} `{each['sha256']}`" for each in config["adapters"])
    data = "; ".join(f"{name} ({licence})" for name, licence in config["trained_on"].items())
    text = _TEXT.format(
        **{name: config[name] for name in ("name", "stage", "sha256", "variant", "base_sha256")},
        **{name: run[name] for name in ("hash", "recipe", "commit")},
        adapters=adapters,
        trained_on=data,
        look_back=asked["look_back"],
        horizon=asked["horizon"],
        gate=worth,
    )
    write_text_atomically(folder / CARD_FILE, text)
