"""Check which models of the hub are loaded, and that they answer in text."""

import json
from pathlib import Path

import pytest
import torch

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.studies.time_r1.answers import parse
from tsfm_pipeline.studies.time_r1.grammar import text_grammar
from tsfm_pipeline.studies.time_r1.hub import load_hub
from tsfm_pipeline.studies.time_r1.policy import Sampling
from tsfm_pipeline_tests.studies.time_r1.tiny_qwen import write_tiny_qwen

HORIZON = 5
COMMIT = "a" * 40
FORCED = "<think> the level is steady </think>\n<answer>"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a Qwen2 model of random weights that reads bytes."""
    folder = tmp_path_factory.mktemp("qwen")
    write_tiny_qwen(folder)
    return folder


def test_a_directory_is_loaded_and_its_chat_template_wraps_the_prompt(directory: Path) -> None:
    policy = load_hub(str(directory), None, True)
    assert policy.plain.dtype == torch.float32
    wrapped = policy.tokenizer.decode(policy._prompt_ids("how much?"))
    assert wrapped == "<user>how much?</user><assistant>"


def test_constrained_text_of_random_weights_always_parses(directory: Path) -> None:
    policy = load_hub(str(directory), None, True)
    grammar = text_grammar(policy.tokenizer, HORIZON)
    sampling = Sampling(0, int(grammar.remaining[0]))
    drawn = policy.sample(["how much?", "and now?"], 8, sampling, grammar, [FORCED] * 2)
    for text in drawn.texts:
        parsed = parse(text, HORIZON)
        assert parsed.problem is None
        assert len(parsed.words or ()) == HORIZON
    assert drawn.ended.all()
    found = policy.log_probs(["how much?", "and now?"], drawn).detach()
    torch.testing.assert_close(found, drawn.log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("\n1\n-2.5\n3.25\n0\n12\n</answer>", True),
        ("\n1\n2\n3\n4\n5\n6\n</answer>", False),
        ("\n1\n2\n3\n4\n</answer>", False),
        ("\n1\n2\n3\n4\n5.\n</answer>", False),
        ("\n1\n2\n3\n4\n--5\n</answer>", False),
        ("\n1\n2\n3\n\n4\n5\n</answer>", False),
        ("1\n2\n3\n4\n5\n</answer>", False),
        ("\n1\n2\n3\n4\n1234567890\n</answer>", False),
        ("\n1\n2\n3\n4\n.5\n</answer>", False),
    ],
)
def test_the_grammar_of_text_accepts_plain_numbers_one_per_line(
    directory: Path, text: str, fits: bool
) -> None:
    policy = load_hub(str(directory), None, True)
    grammar = text_grammar(policy.tokenizer, HORIZON)
    state, is_allowed = torch.tensor([0]), True
    for token in policy.tokenizer(text).input_ids:
        is_allowed = is_allowed and bool(grammar.allowed(state, 300)[0, token])
        state = grammar.after(state, torch.tensor([token])) if is_allowed else state
    assert (is_allowed and int(state) == grammar.last) is fits


def test_an_id_without_a_commit_is_refused() -> None:
    for revision in (None, "main", "abc123"):
        with pytest.raises(CheckpointError, match="allowed is a commit of the hub, 40 hex digits"):
            load_hub("Qwen/Qwen2.5-7B-Instruct", revision, True)


def test_an_id_that_was_never_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="hf download Qwen/Absent --local-dir"):
        load_hub("Qwen/Absent", COMMIT, True)


def test_what_is_neither_a_directory_nor_an_id_is_refused(tmp_path: Path) -> None:
    for model in (str(tmp_path / "absent"), "qwen", "a/b/c"):
        with pytest.raises(CheckpointError, match="neither a directory nor an id"):
            load_hub(model, None, True)


def test_directories_have_no_revisions(directory: Path) -> None:
    with pytest.raises(CheckpointError, match="only models of the hub have revisions"):
        load_hub(str(directory), COMMIT, True)


def test_a_directory_of_pickles_or_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors and 0 \*\.gguf"):
        load_hub(str(tmp_path), None, True)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickled model"):
        load_hub(str(tmp_path), None, True)


def test_a_model_of_another_type_is_refused(directory: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    load_hub(str(directory), None, True).tokenizer.save_pretrained(tmp_path)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=260, n_embd=8, n_layer=1, n_head=1, n_positions=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'gpt2'; allowed are qwen2, llama"):
        load_hub(str(tmp_path), None, True)


def test_code_that_comes_with_a_model_is_not_run(directory: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "strange.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        load_hub(str(tmp_path), None, True)
