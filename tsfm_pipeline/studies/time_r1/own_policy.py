"""The own policy: a small Qwen2 model over the closed vocabulary, and the folder it is stored in.

What belongs here: its size, its first weights, saving and loading with digests. What does not: its
training (`base_training`, `warm_up`, `grip_loop`), adapters (`adapters`), and models of the hub
(`hub`).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter1d
from transformers import Qwen2Config, Qwen2ForCausalLM

from tsfm_pipeline.files import sha256_of, write_atomically
from tsfm_pipeline.forecaster.registry import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    CheckpointEntry,
    CheckpointError,
    local_weights,
)
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids, own_tokenizer
from tsfm_pipeline.studies.time_r1.vocabulary import WORDS

TOKENIZER_FILE = "tokenizer.json"
WEIGHT_DEVIATION = 0.02
"""Of the first weights, as Qwen2's configuration has it."""
NEIGHBOURHOOD = 4.0
"""In number words: the deviation of the Gaussian over which first embeddings are averaged, so that
neighbours have a correlation of .98 and numbers ten words apart one of .2."""
ROPE_BASE = 100.0
"""Base of the rotary positions: the lower it is, the better neighbouring distances are told apart.
With 100, the longest wave has 471 tokens."""
DISTANCES = (0, 23, 69, 47, 93, 166)
"""How far back each head of a layer looks at first, in tokens: the value itself; that a day of 24
steps before the next one, in the look-back and in the answer, behind a reason and its tags; two
days; and the same step of a draft for 24 steps. Further heads look nowhere at first.
"""
STRENGTH = 2.5
"""Of the first biases of queries and keys. Attention is nearly all at the distance and its
neighbours."""
_TIED = "lm_head.weight"


class OwnShape(BaseModel):
    """Size of the own policy; the defaults have 1.4 million parameters.

    Two heads of keys and values for six of queries: a step of decoding reads the keys and values of
    every completion, so that fewer of them make it faster (`benchmarks/time_r1_policy.py`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(192, ge=8, description="width of the residual stream")
    layers: int = Field(4, ge=1)
    heads: int = Field(6, ge=1)
    key_value_heads: int = Field(2, ge=1)
    feed_forward: int = Field(384, ge=8)
    positions: int = Field(2048, ge=64, description="the most tokens of prompt and completion")


def new_policy(seed: int, shape: OwnShape | None = None) -> LanguagePolicy:
    """Return a policy with its first weights, which are a function of seed and shape alone.

    The embeddings of number words begin as a smooth function of the number. They are the output
    weights too (tied), so that a likely number begins with likely neighbours.
    """
    shape = shape or OwnShape()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(_config(shape))
    with torch.no_grad():
        model.model.embed_tokens.weight[list(number_ids())] = _neighbours(seed, shape.hidden)
        _look_back(model)
    return LanguagePolicy(model.eval(), own_tokenizer())


def save_policy(policy: LanguagePolicy, folder: Path, facts: Mapping[str, Any]) -> str:
    """Write the policy as model.safetensors, config.json and tokenizer.json; return the SHA-256 of
    the weights.

    facts: what else config.json tells, for example name, licence, and how it was trained. Raises
    ValueError for a policy with adapters, which are stored on their own or merged first.
    """
    if policy.plain is not policy.model:
        raise ValueError("the policy has an adapter; save that with `save_adapter`, or merge it")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.contiguous()
        for name, tensor in policy.plain.state_dict().items()
        if name != _TIED
    }
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path))
    tokenizer = policy.tokenizer.backend_tokenizer.to_str(pretty=True)
    write_atomically(
        folder / TOKENIZER_FILE, lambda path: path.write_text(tokenizer + "\n", encoding="utf-8")
    )
    digest = sha256_of(folder / WEIGHTS_FILE)
    config = {
        **facts,
        "sha256": digest,
        "vocabulary_sha256": vocabulary_digest(),
        "n_parameters": policy.plain.num_parameters(),
        "shape": _shape_of(policy.plain.config).model_dump(),
    }
    text = json.dumps(config, indent=2) + "\n"
    write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return digest


def load_policy(folder: Path) -> LanguagePolicy:
    """Return the policy of a folder.

    Raises CheckpointError for an absent or pickled file, a digest other than that in config.json,
    another vocabulary than this version's, or tensors that do not fit the shape.
    """
    config = read_config(folder)
    weights = local_weights(CheckpointEntry(name=folder.name, path=folder, licence="unknown"))
    digest = sha256_of(weights)
    if config.get("sha256") != digest:
        raise CheckpointError(
            f"{weights}: its sha256 is {digest}, expected {config.get('sha256')}: the file was "
            "altered or is another version"
        )
    if config.get("vocabulary_sha256") != vocabulary_digest():
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: the policy was trained with the vocabulary "
            f"{config.get('vocabulary_sha256')}, this version has {vocabulary_digest()}; train it "
            "again, or use the version that it was trained with"
        )
    with torch.random.fork_rng(devices=[]):
        model = Qwen2ForCausalLM(_config(OwnShape.model_validate(config["shape"])))
    try:
        missing, unexpected = model.load_state_dict(load_file(weights), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{weights} does not fit its config.json: {error}") from error
    if set(missing) - {_TIED} or unexpected:
        raise CheckpointError(
            f"{weights} does not fit its config.json: missing tensors {missing}, unexpected ones "
            f"{unexpected}"
        )
    return LanguagePolicy(model.eval(), own_tokenizer())


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a stored policy or adapter. Raises CheckpointError if there is none."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} does not exist; a policy is a folder with {WEIGHTS_FILE}, {CONFIG_FILE} and "
            f"{TOKENIZER_FILE}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return dict(config)


def vocabulary_digest() -> str:
    """Return the SHA-256 of the words in the order of their token ids."""
    return hashlib.sha256("\n".join(WORDS).encode()).hexdigest()


def _config(shape: OwnShape) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.positions,
        initializer_range=WEIGHT_DEVIATION,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        tie_word_embeddings=True,
    )


def _shape_of(config: Any) -> OwnShape:
    return OwnShape(
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        feed_forward=config.intermediate_size,
        positions=config.max_position_embeddings,
    )


def _look_back(model: Qwen2ForCausalLM) -> None:
    """Let the heads of every layer begin by looking at `DISTANCES`, whatever the tokens are.

    A key's bias is the same at every token. A query's is the same, rotated back by the distance, so
    that rotary positions align the two exactly there (Su et al., 2021).
    """
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    angles = ROPE_BASE ** (-torch.arange(0, width, 2) / width)
    key = torch.cat([torch.full((width // 2,), STRENGTH), torch.zeros(width // 2)])
    queries = torch.zeros(config.num_attention_heads, width)
    for query, distance in zip(queries, DISTANCES, strict=False):
        query.copy_(STRENGTH * torch.cat([(distance * angles).cos(), -(distance * angles).sin()]))
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias.view(-1, width).copy_(key)
        layer.self_attn.q_proj.bias.copy_(queries.flatten())


def _neighbours(seed: int, width: int) -> torch.Tensor:
    """Return first embeddings of the number words [numbers, width]: white noise, averaged over
    neighbours and scaled back to its deviation.
    """
    noise = np.random.default_rng(seed).standard_normal((len(number_ids()), width))
    smooth = gaussian_filter1d(noise, NEIGHBOURHOOD, axis=0)
    return torch.from_numpy(WEIGHT_DEVIATION * smooth / smooth.std()).float()
