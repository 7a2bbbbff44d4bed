"""Models of the hub: a pinned id, or a directory that holds one.

What belongs here: what may be loaded, and from where. What does not: the own policy (`own_policy`)
and adapters (`adapters`).

Weights are read from safetensors or GGUF files only, because opening a pickled file runs code, and
code that comes with a model is never run.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tsfm_pipeline.forecaster.registry import PICKLED_SUFFIXES, CheckpointError
from tsfm_pipeline.studies.time_r1.decoding import SUPPORTED
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_hub(
    model: str, revision: str | None, local_only: bool, dtype: torch.dtype = torch.float32
) -> LanguagePolicy:
    """Return a language model with its tokenizer, on the CPU.

    model: an id of the hub such as `Qwen/Qwen2.5-7B-Instruct`, or a directory with config.json,
    tokenizer and *.safetensors, or with one *.gguf file. revision: the commit of an id, 40 hex
    digits; None for a directory. local_only: never ask the hub, read what was downloaded before.
    dtype: of the weights, whatever the files have.

    Raises CheckpointError, which says what to do, for an unpinned id, a directory without such
    files, a model type that the decoder does not know, and a model that cannot be had.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        return _loaded(str(directory), True, dtype, _options_of(directory, revision))
    if Path(model).is_absolute() or model.count("/") != 1:
        raise CheckpointError(
            f"{model!r} is neither a directory nor an id of the hub; allowed: an existing "
            "directory, or an id like Qwen/Qwen2.5-7B-Instruct"
        )
    if revision is None or not _COMMIT.fullmatch(revision):
        raise CheckpointError(
            f"{model}: its revision is {revision!r}; allowed is a commit of the hub, 40 hex digits "
            "(a branch can change). It is shown on the model's page under `Files and versions`"
        )
    return _loaded(model, local_only, dtype, {"revision": revision, "use_safetensors": True})


def _options_of(directory: Path, revision: str | None) -> dict[str, Any]:
    """Return how a directory is loaded, after its check."""
    if revision is not None:
        raise CheckpointError(
            f"{directory}: revision is {revision!r}, but only models of the hub have revisions"
        )
    if any(directory.glob("*.safetensors")):
        return {"use_safetensors": True}
    ggufs = sorted(directory.glob("*.gguf"))
    if len(ggufs) == 1:
        return {"gguf_file": ggufs[0].name}
    pickled = [path.name for path in sorted(directory.iterdir()) if path.suffix in PICKLED_SUFFIXES]
    if pickled:
        raise CheckpointError(
            f"{directory / pickled[0]} is a pickled model, and opening it runs any code that it "
            "contains; allowed: safetensors. Convert it where you trust it, with "
            "save_pretrained(directory)"
        )
    raise CheckpointError(
        f"{directory} has no *.safetensors and {len(ggufs)} *.gguf files; allowed: a model as "
        "save_pretrained writes it, or exactly one GGUF file"
    )


def _loaded(
    source: str, local_only: bool, dtype: torch.dtype, options: dict[str, Any]
) -> LanguagePolicy:
    common = {"local_files_only": local_only, "trust_remote_code": False}
    options_of_tokenizer = {k: v for k, v in options.items() if k != "use_safetensors"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **common, **options_of_tokenizer)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **common, **options)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(
            f"{source}: could not be loaded: {type(error).__name__}: {error}. Without a "
            f"connection: download it elsewhere (`hf download {source} --local-dir <directory>`) "
            "and give that directory instead; GGUF files need the package gguf"
        ) from error
    if model.config.model_type not in SUPPORTED:
        raise CheckpointError(
            f"{source} is a model of type {model.config.model_type!r}; allowed are "
            f"{', '.join(SUPPORTED)}"
        )
    return LanguagePolicy(model.eval(), tokenizer)
