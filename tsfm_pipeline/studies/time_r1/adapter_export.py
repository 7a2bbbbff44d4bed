"""Adapters of a recorded run as folders, beside a base: the form in which the project ships them.

What belongs here: writing the folders and their cards. What does not: adapters themselves
(`adapters`), whole policies in the registry (`checkpoints`), and which policy is asked.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tsfm_pipeline.files import write_atomically, write_text_atomically
from tsfm_pipeline.forecaster.registry import CARD_FILE, CONFIG_FILE
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.checkpoints import SHIPPED_ADAPTERS, run_facts
from tsfm_pipeline.studies.time_r1.run_records import RunError, RunRecords
from tsfm_pipeline.studies.time_r1.runs import StoredExperiment, recorded_adapters
from tsfm_pipeline.studies.time_r1.tables import DRAFTED, GRIP

VARIANTS = dict(zip(SHIPPED_ADAPTERS, (DRAFTED, GRIP), strict=True))
"""The variant of a run that each folder holds: samples first, then GRIP."""
_TEXT = """# Model card: `time-r1/{name}`

A low-rank adapter of the own policy of the study of slow thinking, in the format of peft. It is
merged into {merged_into}.

| | |
|---|---|
| sha256 of adapter_model.safetensors | `{sha256}` |
| trained by | {trained_by} |
| trained on | {trained_on} |
| run | `{hash}` of the recipe `{recipe}` |
| base | `{base_sha256}` |
| trained parameters | {trained_parameters:,} of {total_parameters:,} |
| shown and asked | {look_back} steps, {horizon} steps ahead |
{measured}
## Again
`tsfm-pipeline time-r1 run {recipe}` makes the run, and
`tsfm-pipeline time-r1 export-adapters {hash} FOLDER` these folders.
`tsfm-pipeline time-r1 evaluate {recipe} --json` has its measures.
"""
_TRAINED_BY = {
    DRAFTED: "supervised samples with a draft (`warm_up.py`)",
    GRIP: "GRIP (`grip_loop.py`)",
}


def export_adapters(settings: Settings, prefix: str, folder: Path) -> tuple[Path, ...]:
    """Write the adapters of a recorded run that correct drafts into `folder`, one folder each, and
    return these. `TSFM_TIME_R1_POLICY` may name `folder` once it holds the run's `base` too.

    prefix: the beginning of the run's hash. Raises RunError for an unknown run, where its adapters
    are not in the lake any more, and where one of the folders exists.
    """
    record = RunRecords(settings).find(prefix)
    experiment = StoredExperiment(settings, record.configuration, settings.data_dir)
    adapters = recorded_adapters(experiment, record)
    for name in VARIANTS:
        if (folder / name).exists():
            raise RunError(f"{folder / name} exists; allowed: a folder without {name}")
    written = []
    for name, variant in VARIANTS.items():
        (files,) = adapters.filter(variant=variant)["files"].to_list()
        contents = {file["name"]: file["content"] for file in files}
        facts = run_facts(record, variant, dict(adapters.select("variant", "follows").iter_rows()))
        config = {**json.loads(contents.pop(CONFIG_FILE)), **facts, "name": f"time-r1/{name}"}
        del config["stage"]  # it is shipped, or used by name: no gate decides about it
        _write(folder / name, name, contents, config)
        written.append(folder / name)
    return tuple(written)


def _write(
    folder: Path, name: str, contents: Mapping[str, bytes], config: Mapping[str, Any]
) -> None:
    """Write the files of one adapter; config.json, by which a folder is found, comes last."""
    folder.mkdir(parents=True)
    for file, content in contents.items():
        write_atomically(folder / file, partial(Path.write_bytes, data=content))
    write_text_atomically(folder / CARD_FILE, _card(name, config))
    write_text_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def _card(name: str, config: Mapping[str, Any]) -> str:
    measured = ""
    if "validation_reward" in config:
        measured = (
            f"| step, reward on held-out windows | {config['step']}, "
            f"{config['validation_reward']:.4f} |\n"
            f"| exact divergence from the policy before it | {config['kl_nats_per_token']:.4f} "
            "nats per token |\n"
        )
    data = "; ".join(f"{each} ({licence})" for each, licence in config["trained_on"].items())
    keys = ("sha256", "base_sha256", "trained_parameters", "total_parameters")
    return _TEXT.format(
        name=name,
        merged_into="the base" if name == SHIPPED_ADAPTERS[0] else "the base after `sft`",
        trained_by=_TRAINED_BY[config["variant"]],
        trained_on=data,
        measured=measured,
        look_back=config["asked_with"]["look_back"],
        horizon=config["asked_with"]["horizon"],
        hash=config["run"]["hash"],
        recipe=config["run"]["recipe"],
        **{key: config[key] for key in keys},
    )
