"""Check adapters: that they begin as nothing, train alone, and are stored and merged."""

import json
from pathlib import Path

import pytest
import torch

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.studies.time_r1.adapters import (
    load_adapter,
    merged,
    parameter_counts,
    reference,
    save_adapter,
    with_adapter,
)
from tsfm_pipeline.studies.time_r1.options import LoraOptions
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling

TINY = OwnShape(hidden=32, layers=2, heads=4, key_value_heads=2, feed_forward=48)
PROMPTS = ["task forecast 6 past n3 n4"]
SAMPLING = Sampling(1, 8)
OPTIONS = LoraOptions(rank=2, alpha=4)


def trained(seed: int = 0) -> LanguagePolicy:
    """Return a policy with an adapter that changes something, after one step of training."""
    policy = with_adapter(new_policy(5, TINY), OPTIONS, seed)
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=20.0)
    given = policy.encode(["<think> low low"])
    for _ in range(2):
        optimiser.zero_grad()
        (-policy.log_probs(PROMPTS, given).sum()).backward()
        optimiser.step()
    return policy


def test_a_fresh_adapter_changes_nothing() -> None:
    plain = new_policy(5, TINY).sample(PROMPTS, 4, SAMPLING)
    fresh = with_adapter(new_policy(5, TINY), OPTIONS, 0).sample(PROMPTS, 4, SAMPLING)
    assert torch.equal(plain.ids, fresh.ids)
    assert torch.equal(plain.log_probs, fresh.log_probs)


def test_training_moves_the_adapter_alone_and_sampling_follows_it() -> None:
    policy = trained()
    before = new_policy(5, TINY).plain.state_dict()
    bases = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in policy.plain.state_dict().items()
        if "lora" not in name
    }
    assert all(torch.equal(bases[name], before[name]) for name in before)
    drawn = policy.sample(PROMPTS, 4, SAMPLING)
    found = policy.log_probs(PROMPTS, drawn).detach()
    torch.testing.assert_close(found, drawn.log_probs, atol=1e-5, rtol=0)
    old = new_policy(5, TINY).log_probs(PROMPTS, drawn).detach()
    assert (found - old).abs().max() > 0.01


def test_the_reference_is_the_policy_before_its_adapter() -> None:
    policy = trained()
    plain = new_policy(5, TINY)
    with reference(policy) as old:
        drawn = old.sample(PROMPTS, 4, SAMPLING)
        found = old.log_probs(PROMPTS, drawn)
    assert torch.equal(drawn.ids, plain.sample(PROMPTS, 4, SAMPLING).ids)
    torch.testing.assert_close(found, plain.log_probs(PROMPTS, drawn))
    assert not torch.equal(policy.log_probs(PROMPTS, drawn), found)


def test_the_seed_decides_the_adapter_s_first_weights() -> None:
    first, again, other = (
        {
            name: tensor
            for name, tensor in with_adapter(new_policy(5, TINY), OPTIONS, seed)
            .model.state_dict()
            .items()
            if "lora_A" in name
        }
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_the_counts_are_those_of_the_formula() -> None:
    counts = parameter_counts(with_adapter(new_policy(5, TINY), OPTIONS, 0))
    # Of q, k, v, o, gate, up and down: rank x (inputs + outputs), in two layers.
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    assert counts.trained == 2 * sum(2 * (a + b) for a, b in sizes)
    assert counts.total == new_policy(5, TINY).plain.num_parameters() + counts.trained
    assert counts.share == counts.trained / counts.total


def test_an_adapter_of_the_published_size_has_less_than_one_percent_of_the_parameters() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    # Qwen2.5-7B-Instruct's configuration, without weights.
    with torch.device("meta"):
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=152_064,
                hidden_size=3584,
                intermediate_size=18_944,
                num_hidden_layers=28,
                num_attention_heads=28,
                num_key_value_heads=4,
            )
        )
        adapted = with_adapter(
            LanguagePolicy(model, new_policy(5, TINY).tokenizer), LoraOptions(), 0
        )
    counts = parameter_counts(adapted)
    assert counts.total - counts.trained == 7_615_616_512
    assert counts.share < 0.01


def test_a_stored_adapter_is_the_adapter(tmp_path: Path) -> None:
    policy = trained()
    save_adapter(policy, tmp_path, {"base_sha256": "abc"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "config.json",
    }
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["base_sha256"] == "abc"
    assert config["trained_parameters"] == parameter_counts(policy).trained
    written = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (written["r"], written["lora_alpha"]) == (2, 4)
    for trainable in (False, True):
        stored = load_adapter(new_policy(5, TINY), tmp_path, trainable)
        assert (
            stored.sample(PROMPTS, 4, SAMPLING).texts == policy.sample(PROMPTS, 4, SAMPLING).texts
        )
        assert bool(parameter_counts(stored).trained) is trainable


def test_equal_adapters_are_stored_with_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_adapter(trained(), tmp_path / name, {})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_altered_or_pickled_adapter_is_refused(tmp_path: Path) -> None:
    save_adapter(trained(), tmp_path, {})
    weights = tmp_path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"its sha256 is .*, expected"):
        load_adapter(new_policy(5, TINY), tmp_path, False)
    weights.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle"):
        load_adapter(new_policy(5, TINY), tmp_path, False)


def test_a_merged_policy_answers_alike_and_takes_a_fresh_adapter() -> None:
    policy = trained()
    drawn = policy.sample(PROMPTS, 4, SAMPLING)
    expected = policy.log_probs(PROMPTS, drawn).detach()
    whole = merged(policy)
    assert whole.plain is whole.model
    torch.testing.assert_close(
        whole.log_probs(PROMPTS, drawn).detach(), expected, atol=1e-5, rtol=0
    )
    fresh = with_adapter(whole, OPTIONS, 1)
    torch.testing.assert_close(
        fresh.log_probs(PROMPTS, drawn).detach(), expected, atol=1e-5, rtol=0
    )
    assert parameter_counts(fresh).trained == parameter_counts(trained()).trained


def test_adapters_are_not_stacked_and_not_missed(tmp_path: Path) -> None:
    policy = trained()
    with pytest.raises(ValueError, match="has an adapter already"):
        with_adapter(policy, OPTIONS, 0)
    with pytest.raises(ValueError, match="has an adapter already"):
        load_adapter(policy, tmp_path, False)
    with pytest.raises(ValueError, match="has no adapter"):
        merged(new_policy(5, TINY))
