"""Check the own policy's first weights and the folder it is stored in."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.studies.time_r1.adapters import with_adapter
from tsfm_pipeline.studies.time_r1.options import LoraOptions
from tsfm_pipeline.studies.time_r1.own_policy import (
    DISTANCES,
    OwnShape,
    load_policy,
    new_policy,
    save_policy,
)
from tsfm_pipeline.studies.time_r1.policy import LanguagePolicy, Sampling
from tsfm_pipeline.studies.time_r1.tokenizer import number_ids

TINY = OwnShape(hidden=32, layers=2, heads=4, key_value_heads=2, feed_forward=48)
PROMPT = "task forecast 6 past n3 n4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(new_policy(5, TINY), tmp_path, {"name": "tiny", "licence": "MIT"})
    return tmp_path


def test_the_default_size_has_one_to_two_million_parameters_and_ties_its_embeddings() -> None:
    model = new_policy(0).plain
    assert 1e6 < model.num_parameters() < 2e6
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = new_policy(5, TINY).plain.state_dict()
    assert torch.equal(torch.rand(3), expected)
    again, other = (new_policy(seed, TINY).plain.state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])


def test_embeddings_of_neighbouring_numbers_begin_as_neighbours() -> None:
    embeddings = new_policy(0).plain.model.embed_tokens.weight[list(number_ids())].detach()
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    likeness = unit @ unit.T
    by_distance = [float(likeness.diagonal(distance).mean()) for distance in (1, 2, 4, 8, 40)]
    assert by_distance[0] > 0.95
    assert by_distance == sorted(by_distance, reverse=True)
    assert abs(by_distance[-1]) < 0.1
    others = new_policy(0).plain.model.embed_tokens.weight[-50:].detach()
    assert float(embeddings.std() / others.std()) == pytest.approx(1, abs=0.1)


def attention(policy: LanguagePolicy) -> torch.Tensor:
    """Return how much each token looks at each, by layer and head [layers, heads, T, T], in 300
    tokens drawn at random.
    """
    tokens = len(policy.tokenizer)
    ids = torch.randint(tokens, (1, 300), generator=torch.Generator().manual_seed(0))
    policy.plain.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.cat(policy.plain(input_ids=ids, output_attentions=True).attentions)


def test_each_head_begins_by_looking_back_by_its_distance_and_still_does_so_when_loaded(
    tmp_path: Path,
) -> None:
    policy = new_policy(0)
    found = attention(policy)
    assert found.shape[1] == len(DISTANCES)
    for head, distance in enumerate(DISTANCES):
        looking = found[:, head, distance:]  # the tokens before have none at that distance
        at = torch.arange(distance, found.shape[-1])
        apart = at - looking.argmax(-1)
        assert (apart - distance).abs().max() <= 1
        assert apart.double().quantile(0.5) == distance
        assert looking.diagonal(dim1=1, dim2=2).mean() > 0.5
    save_policy(policy, tmp_path, {})
    assert torch.equal(attention(load_policy(tmp_path)), found)


def test_a_stored_policy_is_the_policy(folder: Path) -> None:
    policy, stored = new_policy(5, TINY), load_policy(folder)
    sampling = Sampling(1, 8)
    assert stored.sample([PROMPT], 3, sampling).texts == policy.sample([PROMPT], 3, sampling).texts
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["name"] == "tiny"
    assert config["n_parameters"] == policy.plain.num_parameters()
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }


def test_the_stored_tokenizer_is_readable_by_the_library(folder: Path) -> None:
    from tokenizers import Tokenizer

    read = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert read.encode(PROMPT).ids == new_policy(5, TINY).tokenizer(PROMPT).input_ids


def test_two_equal_policies_are_stored_with_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_policy(new_policy(5, TINY), tmp_path / name, {})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_altered_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"its sha256 is .*, expected"):
        load_policy(folder)


def test_a_pickle_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "sft.pt")
    with pytest.raises(CheckpointError, match=r"sft\.pt is a pickled checkpoint"):
        load_policy(folder)


def test_another_vocabulary_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"vocabulary_sha256": "0"}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="trained with the vocabulary 0"):
        load_policy(folder)


@pytest.mark.parametrize(("layers", "message"), [(1, "unexpected"), (3, "missing")])
def test_tensors_that_do_not_fit_the_shape_are_refused(
    folder: Path, layers: int, message: str
) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["shape"]["layers"] = layers
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_a_tensor_of_another_size_is_refused(folder: Path) -> None:
    from tsfm_pipeline.files import sha256_of

    weights, path = folder / "model.safetensors", folder / "config.json"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, weights)
    config = json.loads(path.read_text(encoding="utf-8")) | {"sha256": sha256_of(weights)}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_policy(folder)


def test_a_folder_without_a_readable_configuration_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        load_policy(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_policy(folder)


def test_a_policy_with_an_adapter_is_not_stored_as_a_whole(tmp_path: Path) -> None:
    adapted = with_adapter(new_policy(0, TINY), LoraOptions(rank=1), 0)
    with pytest.raises(ValueError, match="has an adapter"):
        save_policy(adapted, tmp_path, {})
