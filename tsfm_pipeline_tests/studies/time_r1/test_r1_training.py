"""The shared training: losses in parts, schedules, and runs that threads and kills do not change."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from tsfm_pipeline.studies.time_r1.sequences import Batch, Part, Sequences, epoch_rows
from tsfm_pipeline.studies.time_r1.training import (
    COLUMNS,
    Objective,
    Schedule,
    Training,
    UpdateOptions,
    loss_sums,
)

NUMBERS = range(4, 15)
TRAPEZOID = Schedule(1e-2, warm_up_steps=2, shape="trapezoid")


def tiny_model(seed: int = 0, attention_dropout: float = 0.0) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        attention_dropout=attention_dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def counting_batch(step: int) -> Batch:
    """Return six sequences that count upwards, whose numbers a model can learn."""
    rng = np.random.default_rng([7, step])
    start = rng.integers(0, len(NUMBERS), (6, 1))
    ids = torch.from_numpy(NUMBERS.start + (start + np.arange(12)) % len(NUMBERS))
    parts = torch.full_like(ids, Part.NUMBER)
    parts[:, :3] = Part.PROMPT
    parts[:, 3] = Part.THINK
    parts[:, -1] = Part.TEMPLATE
    return Batch(ids, parts)


def training(threads: int = 1, steps: int | None = 20, **options: float) -> Training:
    return Training(
        tiny_model(**options),
        Objective(NUMBERS, smoothing=0.5),
        UpdateOptions(TRAPEZOID),
        "counting",
        steps,
        threads,
    )


def trained(run: Training, until: int) -> Training:
    while run.step < until:
        run.update(counting_batch)
    return run


def digest(run: Training) -> str:
    tensors = [parameter.detach().numpy().tobytes() for parameter in run.named.values()]
    return hashlib.sha256(b"".join([*tensors, run.history.tobytes()])).hexdigest()


def test_training_learns_what_can_be_learnt() -> None:
    history = trained(training(), 20).history
    number = history[:, COLUMNS.index("number")]
    assert number[-1] < number[0] - 0.5
    assert np.isnan(history[:, COLUMNS.index("history")]).all(), "no history is scored"


@pytest.mark.heavy
def test_eight_samples_are_learnt_by_heart() -> None:
    """Numbers of new samples cannot be learnt to 0; those that are shown again and again can."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(NUMBERS.start, NUMBERS.stop, (8, 8)))
    ids[:, 0] = torch.arange(8)  # the prompt tells the samples apart
    parts = torch.full_like(ids, Part.NUMBER)
    parts[:, 0] = Part.PROMPT
    parts[:, 1] = Part.TEMPLATE
    batch = Batch(ids, parts)
    run = Training(
        tiny_model(),
        Objective(),
        UpdateOptions(Schedule(3e-2, warm_up_steps=5, shape="trapezoid")),
        "by heart",
        120,
    )
    while run.step < 120:
        run.update(lambda _: batch)
    losses = run.evaluate([batch])
    assert losses["template"] < 0.05
    assert losses["number"] < 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_threads_change_no_bit(dropout: float) -> None:
    one, two = (trained(training(n, attention_dropout=dropout), 4) for n in (1, 2))
    assert digest(one) == digest(two)


def test_a_run_that_was_stopped_equals_one_that_was_not(tmp_path: Path) -> None:
    stopped = trained(training(), 5)
    stopped.keep_best()
    stopped.notes["waited"] = 2
    stopped.save(tmp_path / "state.safetensors")
    resumed = training()
    resumed.resume(tmp_path / "state.safetensors")
    assert resumed.notes == {"waited": 2}
    assert digest(trained(resumed, 10)) == digest(trained(training(), 10))
    resumed.restore_best()
    for name, parameter in trained(training(), 5).named.items():
        assert torch.equal(resumed.named[name], parameter)


@pytest.mark.heavy
def test_a_run_that_was_killed_equals_one_that_was_not(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    ran = subprocess.run([sys.executable, __file__, str(state)], check=False, timeout=120)
    assert ran.returncode == -signal.SIGKILL
    resumed = training()
    resumed.resume(state)
    assert resumed.step == 6, "the last state that was saved before the kill in step 8"
    assert digest(trained(resumed, 10)) == digest(trained(training(), 10))


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    trained(training(), 1).save(path)
    other = Training(tiny_model(), Objective(NUMBERS), UpdateOptions(TRAPEZOID), "other", 20)
    with pytest.raises(ValueError, match="state of the run counting, this run is other"):
        other.resume(path)


def test_losses_are_those_of_each_token_by_itself() -> None:
    model, batch = tiny_model(), counting_batch(0)
    weights = {Part.THINK: 0.5, Part.NUMBER: 1.0, Part.TEMPLATE: 2.0}
    sums = loss_sums(model, batch, Objective(NUMBERS, weights=weights))
    logits = model(input_ids=batch.ids).logits
    expected = dict.fromkeys(weights, 0.0)
    for row in range(6):
        for at in range(11):
            part = Part(int(batch.parts[row, at + 1]))
            if part in weights:
                target = batch.ids[row, at + 1]
                expected[part] -= float(logits[row, at].log_softmax(-1)[target])
    for part, nll in expected.items():
        assert sums.negative_log_likelihood[part] == pytest.approx(nll, rel=1e-5)
    assert float(sums.objective.detach()) == pytest.approx(
        sum(weights[part] * nll for part, nll in expected.items()), rel=1e-5
    )
    assert sums.weight == 6 * (0.5 + 7 + 2)


def test_smoothing_spreads_numbers_over_their_neighbours_alone() -> None:
    """The expected value is the cross entropy to a Gaussian over the grid, written out."""
    model, batch = tiny_model(), counting_batch(0)
    batch = Batch(batch.ids[:1, :6], torch.tensor([[0, 0, 0, 0, 0, Part.NUMBER]]))
    sums = loss_sums(model, batch, Objective(NUMBERS, 1.0))
    log_probs = model(input_ids=batch.ids).logits[0, 4].log_softmax(-1).detach().double().numpy()
    ids = np.array(NUMBERS)
    distance = np.abs(ids - int(batch.ids[0, 5]))
    mass = np.where(distance <= 3, np.exp(-0.5 * distance**2.0), 0.0)
    expected = -(mass / mass.sum() * log_probs[ids]).sum()
    assert float(sums.objective.detach()) == pytest.approx(expected, rel=1e-5)
    exact = sums.negative_log_likelihood[Part.NUMBER]
    assert exact == pytest.approx(-log_probs[int(batch.ids[0, 5])], rel=1e-5)


def test_the_term_of_form_counts_the_probability_of_tokens_of_other_kinds() -> None:
    model, batch = tiny_model(), counting_batch(0)
    batch = Batch(batch.ids[:1, :6], torch.tensor([[0, 0, 0, 0, 0, Part.NUMBER]]))
    log_probs = model(input_ids=batch.ids).logits[0, 4].log_softmax(-1).detach()
    kinds = torch.zeros(len(log_probs), dtype=torch.int64)
    kinds[list(NUMBERS)] = 1
    objective = Objective(NUMBERS, kinds=kinds, form_weight=3.0)
    sums = loss_sums(model, batch, objective)
    of_kind = float(log_probs[list(NUMBERS)].exp().sum())
    expected = -float(log_probs[int(batch.ids[0, 5])]) - 3 * np.log(of_kind)
    assert float(sums.objective.detach()) == pytest.approx(expected, rel=1e-5)


def test_padding_changes_no_loss() -> None:
    model, batch = tiny_model(), counting_batch(0)
    padding = torch.zeros(6, 5, dtype=torch.int64)
    padded = Batch(torch.cat([batch.ids, padding], 1), torch.cat([batch.parts, padding], 1))
    with torch.no_grad():
        plain, wide = (loss_sums(model, b, Objective(NUMBERS)) for b in (batch, padded))
    assert float(wide.objective) == pytest.approx(float(plain.objective), rel=1e-6)


def test_batches_of_an_epoch_hold_every_row_once_and_waste_little() -> None:
    lengths = np.random.default_rng(0).integers(100, 300, 1000)
    rows = epoch_rows(lengths, 8, seed=0, epoch=1)
    assert sorted(np.concatenate(rows)) == list(range(1000))
    padded = sum(len(batch) * lengths[batch].max() for batch in rows)
    assert padded < 1.1 * lengths.sum()
    again = epoch_rows(lengths, 8, seed=0, epoch=1)
    assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))
    other = epoch_rows(lengths, 8, seed=0, epoch=2)
    assert not all(np.array_equal(a, b) for a, b in zip(rows, other, strict=True))


def test_sequences_are_padded_to_the_longest_of_a_batch() -> None:
    sequences = Sequences(np.arange(1, 7), np.full(6, Part.NUMBER, np.int8), np.array([1, 4, 6]))
    batch = sequences.batch(np.array([0, 2]))
    assert batch.ids.tolist() == [[1, 0], [5, 6]]
    assert batch.parts.tolist() == [[Part.NUMBER, Part.PROMPT], [Part.NUMBER, Part.NUMBER]]


def test_schedules_warm_up_and_end_at_zero() -> None:
    cosine = Schedule(1.0, warm_up_steps=4)
    assert [cosine.rate(step, 20) for step in (0, 3, 12, 20)] == [0.25, 1.0, 0.5, 0.0]
    trapezoid = Schedule(1.0, warm_up_steps=4, shape="trapezoid", decay=0.25)
    assert [trapezoid.rate(step, 20) for step in (0, 15, 16, 19, 20)] == [0.25, 1, 0.8, 0.2, 0]
    assert trapezoid.rate(10_000, None) == 1.0
    with pytest.raises(ValueError, match="a cosine needs the number of steps"):
        cosine.rate(0, None)


if __name__ == "__main__":
    killed = training()
    for _ in range(8):
        killed.update(counting_batch)
        if killed.step % 3 == 0:
            killed.save(Path(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGKILL)
