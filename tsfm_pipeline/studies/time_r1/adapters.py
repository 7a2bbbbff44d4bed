"""Adapters: low-rank updates of a policy's linear layers (LoRA, by peft).

What belongs here: adding, counting, storing, merging, and the policy without its adapter, which
is the reference of GRIP. What does not: their training, and whole models (`own_policy`, `hub`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tsfm_pipeline.files import sha256_of, write_atomically
from tsfm_pipeline.forecaster.registry import (
    CONFIG_FILE,
    PICKLED_SUFFIXES,
    CheckpointError,
)
from tsfm_pipeline.studies.time_r1.options import LoraOptions
from tsfm_pipeline.studies.time_r1.own_policy import read_config
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters: those that are trained, and all of them."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        """Of the parameters, what is trained; from 0 to 1."""
        return self.trained / self.total


def with_adapter(policy: LanguagePolicy, options: LoraOptions, seed: int) -> LanguagePolicy:
    """Return the policy with a fresh adapter, which changes nothing before it is trained.

    Only the adapter's parameters are trained from here on. The layers of the given policy's model
    are shared and must not be used without the adapter any more, except through `reference`.

    Raises ValueError for a policy that has an adapter, and for target layers that it does not have.
    """
    if isinstance(policy.model, PeftModel):
        raise ValueError("the policy has an adapter already; merge it first")
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # a float is as good
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return replace(policy, model=get_peft_model(policy.plain, config))


def parameter_counts(policy: LanguagePolicy) -> ParameterCounts:
    """Return how many parameters the policy has, and how many of them are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in policy.model.parameters()]
    return ParameterCounts(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))


@contextmanager
def reference(policy: LanguagePolicy) -> Iterator[LanguagePolicy]:
    """Within the block, the policy is the one that its adapter was added to.

    `with reference(policy) as old, torch.no_grad(): old.log_probs(prompts, completions)`
    """
    with _adapted(policy).disable_adapter():
        yield policy


def merged(policy: LanguagePolicy) -> LanguagePolicy:
    """Return the policy with the adapter added to its weights, ready for a fresh adapter. The given
    policy must not be used any more.
    """
    model = _adapted(policy).merge_and_unload()
    model.requires_grad_(True)
    return replace(policy, model=model)


def save_adapter(policy: LanguagePolicy, folder: Path, facts: Mapping[str, Any]) -> str:
    """Write the adapter as adapter_model.safetensors with adapter_config.json (the format of peft)
    and a config.json; return the SHA-256 of the weights.

    facts: what else config.json tells, for example the digest of the base.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _adapted(policy).save_pretrained(str(folder))
    # peft writes a form for a model card that nobody has filled in.
    (folder / "README.md").unlink(missing_ok=True)
    _sort_targets(folder / ADAPTER_CONFIG_FILE)
    counts = parameter_counts(policy)
    digest = sha256_of(folder / ADAPTER_FILE)
    config = {
        **facts,
        "sha256": digest,
        "trained_parameters": counts.trained,
        "total_parameters": counts.total,
        "trained_share": counts.share,
    }
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return digest


def load_adapter(policy: LanguagePolicy, folder: Path, trainable: bool) -> LanguagePolicy:
    """Return the policy with the stored adapter.

    trainable: whether its training goes on. Raises CheckpointError for an absent or pickled adapter
    or another digest than that in config.json, and ValueError for a policy that has an adapter.
    """
    if isinstance(policy.model, PeftModel):
        raise ValueError("the policy has an adapter already; merge it first")
    weights = folder / ADAPTER_FILE
    if not weights.is_file():
        pickled = [p.name for p in sorted(folder.glob("*")) if p.suffix in PICKLED_SUFFIXES]
        found = f"; {pickled[0]} is a pickle, and opening it runs any code in it" if pickled else ""
        raise CheckpointError(
            f"{weights} does not exist{found}; an adapter is a folder with {ADAPTER_FILE}, "
            f"{ADAPTER_CONFIG_FILE} and {CONFIG_FILE}"
        )
    expected, digest = read_config(folder).get("sha256"), sha256_of(weights)
    if expected != digest:
        raise CheckpointError(
            f"{weights}: its sha256 is {digest}, expected {expected}: the file was altered or is "
            "another version"
        )
    model = PeftModel.from_pretrained(
        policy.plain,
        folder,
        is_trainable=trainable,
        use_safetensors=True,
        torch_device=str(policy.device),
    )
    return replace(policy, model=model)


def _sort_targets(path: Path) -> None:
    """Sort the names of layers, a set that peft writes in another order in every process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    text = json.dumps(config, indent=2, sort_keys=True)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _adapted(policy: LanguagePolicy) -> PeftModel:
    if not isinstance(policy.model, PeftModel):
        raise ValueError("the policy has no adapter; add one with `with_adapter`")
    return policy.model
