"""Hidden states: the embeddings that the frozen model has of a window after each of its layers.

What belongs here: one pass over whole windows that keeps every layer's result. What does not: the
forecasts of a grid (`engine`), the computation of a layer (`torch_decoder`, `compiled_decoder`),
and what is read from hidden states.

A forecast computes most of the last layer at the requested tokens only and drops every other
layer's result, so its pass (`FrozenDecoder.decode`) cannot serve here. This one calls the same
layers in the same order for every token. It is a function over the decoder rather than one of its
methods, because tables that forecast grids have the code of the decoder in their digests.
"""

from collections.abc import Sequence

import numpy as np
import torch

from tsfm_pipeline.forecaster.architecture import INPUT_PATCH_LEN
from tsfm_pipeline.forecaster.config import ForecastConfig
from tsfm_pipeline.forecaster.decoders import Decoder
from tsfm_pipeline.forecaster.model import FrozenDecoder, Windows, inverse_rms
from tsfm_pipeline.forecaster.normalisation import normalise
from tsfm_pipeline.forecaster.panel import FloatArray, Panel
from tsfm_pipeline.forecaster.plan import Batch
from tsfm_pipeline.forecaster.windows import centred_points, cut_windows, representation_of


def chosen_layers(decoder: Decoder, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the layers to keep, all of them (0 is the tokenizer) if None is given.

    Raises TypeError for a decoder that does not show its layers, and ValueError for layers that it
    does not have, and for none.
    """
    if not isinstance(decoder, FrozenDecoder):
        raise TypeError(
            f"a {type(decoder).__name__} shows no hidden states; allowed: a decoder of this "
            "package (`decoders.frozen_decoder`)"
        )
    every = range(decoder.architecture.num_layers + 1)
    chosen = tuple(every) if layers is None else tuple(layers)
    if not chosen or any(layer not in every for layer in chosen):
        raise ValueError(
            f"layers are {chosen}; allowed: one or more of 0 (the tokenizer) to {every[-1]} (the "
            "last layer)"
        )
    return chosen


def states_of_batch(
    decoder: Decoder,
    panel: Panel,
    config: ForecastConfig,
    layers: Sequence[int],
    batch: Batch,
) -> FloatArray:
    """Return the hidden states float32 [N, layers, tokens, dims] of a batch of windows that all
    have the configuration's context and end at their origins.
    """
    assert isinstance(decoder, FrozenDecoder)
    windows = cut_windows(
        representation_of(panel, config, horizon=1).values,
        batch.series,
        batch.end,
        config.context_len,
    )
    points = np.zeros((len(windows), config.n_tokens * INPUT_PATCH_LEN), dtype=np.float32)
    points[:, -config.n_points :], _ = centred_points(windows, config.resolution)
    return _states(decoder, torch.from_numpy(points), config.n_points, layers)


@torch.inference_mode()
def _states(
    decoder: FrozenDecoder, points: torch.Tensor, n_points: int, layers: Sequence[int]
) -> FloatArray:
    """Return the states [N, layers, tokens, dims] of windows [N, tokens * 32], of which the last
    `n_points` are not padding.
    """
    n_windows, n_padding = len(points), points.shape[1] - n_points
    patches = points.to(decoder.device).double().unflatten(1, (-1, INPUT_PATCH_LEN))
    normed, _ = normalise(
        patches, torch.full((n_windows,), n_padding, dtype=torch.int64, device=decoder.device)
    )
    padding = torch.zeros_like(normed, dtype=torch.float32)
    padding[:, 0, :n_padding] = 1.0
    n_tokens = normed.shape[1]
    bounds = np.arange(n_windows + 1) * n_tokens
    everywhere = Windows(bounds, bounds, np.tile(np.arange(n_tokens), n_windows))
    rest_of_layer = decoder.rest_of_layer(everywhere, decoder._turns_up_to(n_tokens))
    x = decoder._tokenizer(torch.cat([normed.float(), padding], dim=-1).flatten(0, 1))
    after = (x * inverse_rms(x)).to(decoder.dtype)
    states = np.empty((n_windows, len(layers), *normed.shape[1:2], x.shape[1]), dtype=np.float32)
    for done in range(len(decoder._layers) + 1):
        for j in (j for j, layer in enumerate(layers) if layer == done):
            states[:, j] = x.float().cpu().numpy().reshape(n_windows, n_tokens, -1)
        if done == max(layers):
            break
        key_value = decoder._layers[done].key_value.times(after)
        after = rest_of_layer(x, after, key_value, done)
    return states
