"""Test the PatchTST network on windows with known answers, and its scores of real prices.

What belongs here: what it can learn and what it cannot, agreement with another implementation, and
that nothing looks ahead. What does not: how well it does on a market.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tsfm_pipeline.studies.direction.leakage import with_noise_after
from tsfm_pipeline.studies.direction.options import (
    LABELS,
    LabelOptions,
    PatchTSTOptions,
    SplitOptions,
    StudyOptions,
)
from tsfm_pipeline.studies.direction.patchtst import (
    Architecture,
    PatchTST,
    Training,
    logits,
    train,
)
from tsfm_pipeline.studies.direction.problem import SCORE_SCHEMA, Problem, Target, targets
from tsfm_pipeline.studies.direction.problems import build_problem
from tsfm_pipeline.studies.direction.scorers.patchtst import NAMES, channels_of, patchtst_scores
from tsfm_pipeline_tests.studies.direction.prices import sp500

OPTIONS = StudyOptions(
    labels=LabelOptions(horizons=(1,)),
    splits=SplitOptions(training_years=2, least_days=20),
    patchtst=PatchTSTOptions(seeds=2, refit_years=2, epochs=1),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def short() -> Problem:
    """Real prices with two test years, which one training serves, and a single indicator."""
    bars = sp500()[:1100]
    given = {"range": np.log(bars.high / bars.low)}
    return build_problem(replace(bars, given=given), OPTIONS)


def _auc(network: PatchTST, windows: Tensor, labels: Tensor) -> float:
    return float(roc_auc_score(labels.numpy().ravel(), logits(network, windows).numpy().ravel()))


def _noise(n_windows: int, channels: int, seed: int) -> Tensor:
    return torch.randn(n_windows, channels, 80, generator=torch.Generator().manual_seed(seed))


def _coins(n_windows: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 2, (n_windows, 1)).astype(np.float32))


def _motifs(n_windows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with two channels; with the label, the second has a bump of eight days somewhere."""
    windows, labels = _noise(n_windows, 2, seed), _coins(n_windows, seed + 1)
    bump = 4 * torch.sin(torch.linspace(0, 2 * torch.pi, 8))
    starts = np.random.default_rng(seed + 2).integers(0, 72, n_windows)
    for window, label, start in zip(windows, labels, starts, strict=True):
        window[1, start : start + 8] += label * bump
    return windows, labels


def _scales(n_windows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise whose standard deviation is doubled with the label, and which says nothing else."""
    labels = _coins(n_windows, seed + 1)
    return _noise(n_windows, 1, seed) * (1 + labels)[:, None], labels


@pytest.mark.heavy
def test_it_overfits_a_few_windows() -> None:
    windows, labels = _noise(64, 1, 0), _coins(64, 1)
    training = Training(epochs=30, patience=30, batch=32, learning_rate=1e-2)
    shape = Architecture(1, 1, dropout=0.0)
    network = train(shape, training, (windows, windows), (labels, labels), seed=0)
    assert _auc(network, windows, labels) > 0.99


@pytest.mark.heavy
def test_it_finds_a_planted_motif() -> None:
    (known, labels), (held_out, later) = _motifs(1000, 0), _motifs(300, 10)
    training = Training(epochs=12, patience=12, learning_rate=3e-3)
    network = train(Architecture(2, 1), training, (known, held_out), (labels, later), seed=0)
    assert _auc(network, *_motifs(500, 20)) > 0.9


@pytest.mark.heavy
@pytest.mark.parametrize(("revin", "least", "most"), [(False, 0.95, 1.0), (True, 0.42, 0.58)])
def test_instance_normalisation_hides_pure_scale(revin: bool, least: float, most: float) -> None:
    (known, labels), (held_out, later) = _scales(600, 0), _scales(300, 10)
    training = Training(epochs=8, patience=8, learning_rate=3e-3)
    shape = Architecture(1, 1, revin=revin)
    network = train(shape, training, (known, held_out), (labels, later), seed=0)
    assert least <= _auc(network, *_scales(500, 20)) <= most


def test_the_weights_are_those_of_the_lowest_validation_loss() -> None:
    """A second epoch at an absurd rate spoils the network; the first epoch's weights are kept."""
    (known, labels), held_out = _scales(64, 0), _scales(64, 10)
    shape = Architecture(1, 1, layers=1)

    def loss(epochs: int) -> float:
        training = Training(epochs=epochs, learning_rate=0.5, patience=9)
        network = train(shape, training, (known, held_out[0]), (labels, held_out[1]), seed=0)
        scored = logits(network, held_out[0])
        return float(torch.nn.functional.binary_cross_entropy_with_logits(scored, held_out[1]))

    losses = [loss(epochs) for epochs in (1, 2, 3)]
    assert losses == sorted(losses, reverse=True)


def test_a_window_is_scored_on_its_own_and_to_its_last_day() -> None:
    network = PatchTST(Architecture(3, 2, context=84), seed=0)
    windows = torch.randn(5, 3, 84, generator=torch.Generator().manual_seed(0))
    together = logits(network, windows)
    torch.testing.assert_close(logits(network, windows[2:3]), together[2:3])
    windows[:, :, -1] += 1.0
    assert (logits(network, windows) != together).all()


@pytest.mark.heavy
@pytest.mark.parametrize("revin", [False, True])
def test_it_agrees_with_transformers(revin: bool) -> None:
    transformers = pytest.importorskip(
        "transformers", reason="a comparison for development; the project does not need it"
    )
    shape = Architecture(3, 2, revin=revin)
    theirs = transformers.PatchTSTForClassification(
        transformers.PatchTSTConfig(
            num_input_channels=shape.channels,
            num_targets=shape.outputs,
            context_length=shape.context,
            patch_length=shape.patch,
            patch_stride=shape.stride,
            d_model=shape.width,
            num_attention_heads=shape.heads,
            num_hidden_layers=shape.layers,
            ffn_dim=shape.feedforward,
            norm_type="batchnorm",
            norm_eps=1e-5,
            pre_norm=False,
            activation_function="gelu",
            positional_encoding_type="random",
            use_cls_token=False,
            pooling_type="mean",
            scaling="std" if revin else None,
        )
    ).eval()
    ours = PatchTST(shape, seed=0)
    ours.load_state_dict(_translated(theirs.state_dict(), shape))
    windows = 3 + 2 * _noise(4, 3, 0)
    with torch.no_grad():
        expected = theirs(windows.transpose(1, 2)).prediction_logits
    torch.testing.assert_close(logits(ours, windows), expected, rtol=1e-5, atol=1e-6)


def _translated(theirs: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
    """Their weights under our names. Their head reads the mean over patches: ours, which reads all
    patches, does the same with the weights of every patch divided by the number of patches.
    """
    encoder = "model.encoder."
    head = theirs["head.linear.weight"].view(shape.outputs, shape.channels, 1, shape.width)
    spread = head.expand(-1, -1, shape.patches, -1) / shape.patches
    ours = {
        "position": theirs[f"{encoder}positional_encoder.position_enc"],
        "head.weight": spread.reshape(shape.outputs, -1),
        "head.bias": theirs["head.linear.bias"],
    }
    for end in ("weight", "bias"):
        ours[f"embedding.{end}"] = theirs[f"{encoder}embedder.input_embedding.{end}"]
    for number in range(shape.layers):
        own, layer = f"layers.{number}.", f"{encoder}layers.{number}."
        for end in ("weight", "bias"):
            ours[f"{own}qkv.{end}"] = torch.cat(
                [theirs[f"{layer}self_attn.{part}_proj.{end}"] for part in ("q", "k", "v")]
            )
        names = {"out": "self_attn.out_proj", "expand": "ff.0", "contract": "ff.3"}
        names |= {"attention_norm": "norm_sublayer1.batchnorm"}
        names |= {"feedforward_norm": "norm_sublayer3.batchnorm"}
        for name, their_name in names.items():
            for key, value in theirs.items():
                if key.startswith(f"{layer}{their_name}."):
                    ours[f"{own}{name}.{key.rsplit('.', 1)[1]}"] = value
    return ours


def test_channels_are_free_of_the_level_of_prices(short: Problem) -> None:
    channels = channels_of(short)
    assert channels.shape == (len(short.bars), 5 + 1)
    bars = short.bars
    prices = {name: 7 * getattr(bars, name) for name in ("open", "high", "low", "close")}
    dearer = build_problem(replace(bars, **prices, volume=3 * bars.volume), OPTIONS)
    np.testing.assert_allclose(channels_of(dearer), channels, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(channels[1:, 3], bars.returns[1:])


@pytest.mark.heavy
def test_every_day_is_scored_whatever_the_number_of_threads(short: Problem) -> None:
    scores = patchtst_scores(short)
    assert scores.schema == SCORE_SCHEMA
    wanted = [
        (name, target.label, target.horizon, fold.year, part, int(day))
        for name in NAMES
        for target in targets(OPTIONS)
        for fold in short.folds[target.horizon]
        for part, days in (("validation", fold.validation), ("test", fold.test))
        for day in days
    ]
    assert len({fold for _, _, _, fold, _, _ in wanted}) == 2
    assert scores.select(pl.exclude("score", "probability")).rows() == wanted
    torch.set_num_threads(2)
    assert patchtst_scores(short).equals(scores)


@pytest.mark.heavy
def test_no_score_depends_on_later_days(short: Problem) -> None:
    """The second year is served by the first year's training, which must not see it."""
    day = int(short.folds[1][0].test[60])
    noisy = with_noise_after(short.bars, day, np.random.default_rng(0))
    true = patchtst_scores(short)
    changed = patchtst_scores(replace(build_problem(noisy, OPTIONS), folds=short.folds))
    early = pl.col("day") <= day
    assert true.filter(early).equals(changed.filter(early))
    assert not true.filter(~early).equals(changed.filter(~early))
    assert set(true["label"].unique()) == set(LABELS)
    assert Target("sign", 1) in short.labels
