"""Lag-Llama (Rasul et al., 2023): a decoder that reads lagged values, with a Student-t head.

What belongs here: our implementation of the published architecture, its weights from a local file,
and the function of windows that `other_models.WindowForecaster` takes. What does not: the grid over
configurations (`other_models`). There are no weights in this project and none are downloaded, so
nothing is claimed about its forecasts: it is tested on random weights.

Each step of the context is one token: the values at 84 lags, the logarithms of the window's median
and interquartile range, and six calendar features, projected to the width of the model. The blocks
are those of LLaMA: RMSNorm, causal attention with rotary embedding, and a gated feed-forward block
with SiLU. The last norm's result gives degrees of freedom, location and scale of a Student-t.
"""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import stdtrit
from torch import Tensor, nn

from tsfm_pipeline.forecaster.config import QUANTILE_LEVELS
from tsfm_pipeline.forecaster.other_models import WindowForecaster
from tsfm_pipeline.forecaster.panel import FloatArray
from tsfm_pipeline.forecaster.registry import (
    WEIGHTS_FILE,
    CheckpointEntry,
    CheckpointError,
    local_weights,
    read_tensors,
)

NAME = "lag-llama"
CALENDAR_FEATURES = 6
"""From the second of the minute to the day of the year. Windows carry no clock, so they are 0."""
HIDDEN_MULTIPLE = 256
NORM_EPSILON = 1e-5
ROTARY_BASE = 10_000.0
LEAST_SCALE = 1e-10


def _around(*middles: int, by: int) -> set[int]:
    return {middle + shift for middle in middles for shift in range(-by, by + 1)}


def published_lags() -> tuple[int, ...]:
    """Return the 84 published lags in steps, 0 to 1,092: the value itself, and neighbours of the
    seasons of quarters, months, weeks, days, hours, minutes and seconds up to 1,200 steps.
    """
    seasons = (
        _around(4, 8, 12, 24, 36, by=1)  # quarters and months of three years
        | _around(52, 104, 156, by=1)  # weeks of three years
        | _around(7, 14, 21, 28, 30, by=1)  # days of four weeks and a month
        | _around(*(364 * years for years in (1, 2, 3)), by=1)  # days of three years
        | _around(*(24 * days for days in range(1, 8)), by=1)  # hours of a week
        | _around(*(168 * weeks for weeks in (1, 2, 3, 4)), 720, by=1)  # hours of a month
        | _around(60, 120, 180, by=2)  # minutes of three hours, seconds of three minutes
        | {56, 84}  # days of eight and twelve weeks
    )
    return (0, *sorted(lag - 1 for lag in seasons if 7 < lag <= 1200))


class LagLlamaSizes(BaseModel):
    """Dimensions of a model; the defaults are the published ones (2,449,299 parameters)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int = Field(8, gt=0)
    num_heads: int = Field(9, gt=0)
    head_dims: int = Field(16, gt=0)
    lags: tuple[int, ...] = Field(default_factory=published_lags, min_length=1)

    @model_validator(mode="after")
    def _lags_ascend_and_dims_are_even(self) -> "LagLlamaSizes":
        if self.head_dims % 2 or list(self.lags) != sorted(set(self.lags)) or self.lags[0] < 0:
            raise ValueError("head_dims must be even, and lags 0 or more, each once, ascending")
        return self

    @property
    def model_dims(self) -> int:
        """Width of the residual stream."""
        return self.num_heads * self.head_dims

    @property
    def hidden_dims(self) -> int:
        """Width of the feed-forward block: 8/3 of the model's, up to a multiple of 256."""
        return HIDDEN_MULTIPLE * math.ceil(int(8 * self.model_dims / 3) / HIDDEN_MULTIPLE)

    @property
    def n_features(self) -> int:
        """Values of one token."""
        return len(self.lags) + 2 + CALENDAR_FEATURES


class _RMSNorm(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dims))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (len(self.scale),), self.scale, NORM_EPSILON)


class _Attention(nn.Module):
    def __init__(self, sizes: LagLlamaSizes) -> None:
        super().__init__()
        dims, self.num_heads = sizes.model_dims, sizes.num_heads
        self.q_proj = nn.Linear(dims, dims, bias=False)
        self.kv_proj = nn.Linear(dims, 2 * dims, bias=False)
        self.c_proj = nn.Linear(dims, dims, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        def by_head(part: Tensor) -> Tensor:
            return part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        key, value = self.kv_proj(x).chunk(2, dim=-1)
        query = _turned(by_head(self.q_proj(x)), cos, sin)
        read = F.scaled_dot_product_attention(
            query, _turned(by_head(key), cos, sin), by_head(value), is_causal=True
        )
        mixed: Tensor = self.c_proj(read.transpose(1, 2).flatten(2))
        return mixed


class _FeedForward(nn.Module):
    def __init__(self, sizes: LagLlamaSizes) -> None:
        super().__init__()
        self.c_fc1 = nn.Linear(sizes.model_dims, sizes.hidden_dims, bias=False)
        self.c_fc2 = nn.Linear(sizes.model_dims, sizes.hidden_dims, bias=False)
        self.c_proj = nn.Linear(sizes.hidden_dims, sizes.model_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.silu(self.c_fc1(x)) * self.c_fc2(x))
        return out


class _Block(nn.Module):
    def __init__(self, sizes: LagLlamaSizes) -> None:
        super().__init__()
        self.rms_1, self.attn = _RMSNorm(sizes.model_dims), _Attention(sizes)
        self.rms_2, self.mlp = _RMSNorm(sizes.model_dims), _FeedForward(sizes)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.rms_1(x), cos, sin)
        out: Tensor = x + self.mlp(self.rms_2(x))
        return out


class LagLlama(nn.Module):
    """The network. Its tensors have the names of the published checkpoint's `model`."""

    def __init__(self, sizes: LagLlamaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        dims = sizes.model_dims
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Linear(sizes.n_features, dims),
                "h": nn.ModuleList(_Block(sizes) for _ in range(sizes.num_layers)),
                "ln_f": _RMSNorm(dims),
            }
        )
        self.param_proj = nn.ModuleDict({"proj": nn.ModuleList(nn.Linear(dims, 1) for _ in "νμσ")})

    def tokens(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens [B, L - longest lag, features] of windows [B, L], and the median and the
        interquartile range [B, 1] that scale them.
        """
        quarter, median, three = torch.quantile(
            values, torch.tensor([0.25, 0.5, 0.75], dtype=values.dtype), dim=1
        )
        location, scale = median[:, None], (three - quarter).clamp_min(LEAST_SCALE)[:, None]
        scaled, longest = (values - location) / scale, self.sizes.lags[-1]
        n_tokens = values.shape[1] - longest
        lagged = torch.stack(
            [scaled[:, longest - lag :][:, :n_tokens] for lag in self.sizes.lags], dim=-1
        )
        static = torch.cat([location.abs().log1p(), scale.log()], dim=-1)
        calendar = lagged.new_zeros(*lagged.shape[:2], CALENDAR_FEATURES)
        static = static[:, None].expand(-1, n_tokens, -1)
        return torch.cat([lagged, static, calendar], dim=-1), location, scale

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return degrees of freedom, location and scale [B, N] of the step after each token, in
        scaled units.
        """
        cos, sin = _turns(tokens.shape[1], self.sizes.head_dims)
        x = self.transformer["wte"](tokens)
        for block in cast(nn.ModuleList, self.transformer["h"]):
            x = block(x, cos, sin)
        x = self.transformer["ln_f"](x)
        heads = cast(nn.ModuleList, self.param_proj["proj"])
        freedom, location, scale = (head(x)[..., 0] for head in heads)
        least = torch.finfo(scale.dtype).eps
        return 2 + F.softplus(freedom), location, F.softplus(scale).clamp_min(least)


def _turns(n_tokens: int, head_dims: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [N, head dims] of the rotary embedding."""
    rate = ROTARY_BASE ** (-torch.arange(0, head_dims, 2) / head_dims)
    angle = torch.arange(n_tokens)[:, None] * rate
    return angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class LagLlamaPredictor:
    """The function of windows for `WindowForecaster`.

    Several steps are decoded greedily: each step's location is fed back, so beyond the first step
    the spread is that of one step given the path of locations, and too narrow. The published way
    samples paths instead; for the next step, which this project asks for, both are the same.
    """

    def __init__(self, network: LagLlama) -> None:
        self.network = network.eval()

    @torch.inference_mode()
    def __call__(self, windows: FloatArray, n_points: int) -> NDArray[np.float64]:
        """Return [N, H, 10] for windows [N, L]; a window shorter than the longest lag is continued
        backwards with its first value.
        """
        missing = max(0, self.network.sizes.lags[-1] + 1 - windows.shape[1])
        values = torch.from_numpy(np.pad(windows, ((0, 0), (missing, 0)), mode="edge")).double()
        columns = []
        for _ in range(n_points):
            tokens, centre, unit = self.network.tokens(values)
            freedom, location, scale = (part[:, -1:] for part in self.network(tokens.float()))
            step = location.double() * unit + centre
            t = stdtrit(freedom.double().numpy(), np.array(QUANTILE_LEVELS))
            spread = (scale.double() * unit).numpy()
            columns.append(np.concatenate([step.numpy(), step.numpy() + spread * t], axis=1))
            values = torch.cat([values[:, 1:], step], dim=1)
        return np.stack(columns, axis=1)


def load_lag_llama(path: str | Path | None, sizes: LagLlamaSizes | None = None) -> WindowForecaster:
    """Return the forecaster with the weights of a local safetensors file or its folder.

    Raises `CheckpointError` if no path is given, if there is no file, if it is pickled, or if its
    tensors are others than those of the sizes.
    """
    if path is None:
        raise CheckpointError(
            f"{NAME} has no weights in this project, and none are downloaded; give the path of a "
            f"folder with {WEIGHTS_FILE}, converted from the published checkpoint's state_dict"
        )
    weights = local_weights(CheckpointEntry(name=str(path), path=Path(path), licence="unknown"))
    network = LagLlama(sizes or LagLlamaSizes())
    tensors: dict[str, Any] = {
        name.removeprefix("model."): tensor for name, tensor in read_tensors(weights).items()
    }
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{weights} does not fit Lag-Llama: {error}") from error
    return WindowForecaster(LagLlamaPredictor(network))
