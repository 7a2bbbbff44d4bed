"""PatchTST: a transformer encoder over patches of a window, and how it is trained to classify.

What belongs here: the network (Nie et al., "A Time Series is Worth 64 Words", ICLR 2023), its
training with early stopping, and its scores of windows. What does not: which days and channels of a
market it sees (`scorers.patchtst`).
"""

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INSTANCE_VARIANCE_FLOOR = 1e-5
"""Added to a window's variance before the root, so that a constant channel stays finite."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network. revin: normalise every window of every channel by its own mean and
    standard deviation (reversible instance normalisation without the affine part; a classifier
    has nothing to reverse). The default sizes are what a CPU trains in seconds; they were not
    compared with others.
    """

    channels: int
    outputs: int
    context: int = 80
    patch: int = 16
    stride: int = 8
    width: int = 16
    heads: int = 2
    layers: int = 2
    feedforward: int = 32
    dropout: float = 0.2
    revin: bool = False

    @property
    def patches(self) -> int:
        """Number of patches of a window."""
        return (self.context - self.patch) // self.stride + 1


class _Dropout(nn.Module):
    """Dropout from a generator of its own: trainings in several threads share no random state."""

    def __init__(self, rate: float, generator: torch.Generator) -> None:
        super().__init__()
        self.keep, self.generator = 1.0 - rate, generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.keep == 1.0:
            return x
        kept = torch.empty_like(x).bernoulli_(self.keep, generator=self.generator)
        return x * kept / self.keep


class _EncoderLayer(nn.Module):
    """Self-attention and a feed-forward part, each added to its input and batch-normalised."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.BatchNorm1d(width)
        self.expand = nn.Linear(width, shape.feedforward)
        self.contract = nn.Linear(shape.feedforward, width)
        self.feedforward_norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for tokens [S, N, width] of S sequences."""
        sequences, patches, width = x.shape
        qkv = self.qkv(x).view(sequences, patches, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = self.out(mixed.transpose(1, 2).reshape(sequences, patches, width))
        x = _normalise_tokens(self.attention_norm, x + mixed)
        hidden = self.contract(F.gelu(self.expand(x)))
        return _normalise_tokens(self.feedforward_norm, x + hidden)


def _normalise_tokens(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    return norm(x.reshape(-1, x.shape[-1])).view(x.shape)


class PatchTST(nn.Module):
    """The network. All channels share the encoder; the head reads all of them together."""

    def __init__(self, shape: Architecture, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Linear(shape.patch, shape.width)
        self.position = nn.Parameter(torch.empty(shape.patches, shape.width))
        self.layers = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.layers))
        self.dropout = _Dropout(shape.dropout, self.generator)
        self.head = nn.Linear(shape.channels * shape.patches * shape.width, shape.outputs)
        self._initialise()

    def _initialise(self) -> None:
        """Draw all weights from the network's own generator."""
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, nn.Linear):
                    bound = 1.0 / math.sqrt(part.in_features)
                    part.weight.uniform_(-bound, bound, generator=self.generator)
                    part.bias.zero_()
            self.position.uniform_(-0.02, 0.02, generator=self.generator)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits [B, outputs] of windows float32 [B, channels, context]."""
        if self.shape.revin:
            centred = windows - windows.mean(-1, keepdim=True)
            variance = centred.square().mean(-1, keepdim=True)
            windows = centred / (variance + INSTANCE_VARIANCE_FLOOR).sqrt()
        # What the patches do not cover is left out at the old end of the window.
        covered = self.shape.patch + (self.shape.patches - 1) * self.shape.stride
        patches = windows[..., -covered:].unfold(-1, self.shape.patch, self.shape.stride)
        x = self.embedding(patches.flatten(0, 1)) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.dropout(x.reshape(len(windows), -1)))


@dataclass(frozen=True)
class Training:
    """How a network is trained. patience: epochs without a lower validation loss before it ends."""

    epochs: int = 30
    patience: int = 3
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


def train(
    shape: Architecture,
    training: Training,
    windows: tuple[Tensor, Tensor],
    labels: tuple[Tensor, Tensor],
    seed: int,
) -> PatchTST:
    """Return a network with the weights of the epoch that had the lowest validation loss.

    windows, labels: of training and of validation, float32 [N, channels, context] and
    [N, outputs], the labels 1 or 0. The loss is the mean binary cross-entropy of all outputs.
    The result depends on the seed alone if torch uses one thread.
    """
    network = PatchTST(shape, seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    best, best_loss, waited = copy.deepcopy(network.state_dict()), math.inf, 0
    for _ in range(training.epochs):
        network.train()
        shuffled = torch.randperm(len(windows[0]), generator=network.generator)
        for days in shuffled.split(training.batch):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(network(windows[0][days]), labels[0][days])
            loss.backward()
            optimizer.step()
        held_out = F.binary_cross_entropy_with_logits(logits(network, windows[1]), labels[1]).item()
        if held_out < best_loss:
            best, best_loss, waited = copy.deepcopy(network.state_dict()), held_out, 0
        else:
            waited += 1
            if waited == training.patience:
                break
    network.load_state_dict(best)
    return network


def logits(network: PatchTST, windows: Tensor, batch: int = 256) -> Tensor:
    """Return the logits [N, outputs] of windows [N, channels, context], each on its own: the
    normalisations use what they learnt in training.
    """
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in windows.split(batch)])
