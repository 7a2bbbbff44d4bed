"""The sizes of a model with the TimesFM-2.5 architecture, and the module built in one of them.

What belongs here: the dimensions, and the construction of the `timesfm` package's own module from
them. What does not: weights, checkpoints, devices and forecasting. This module imports torch, so
code that `tsfm_pipeline.definitions` can reach must import it inside functions.
"""

import dataclasses
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from timesfm.timesfm_2p5 import timesfm_2p5_base
from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module

INPUT_PATCH_LEN = 32
OUTPUT_PATCH_LEN = 128
N_OUTPUT_COLUMNS = 10
"""Mean, then the deciles 0.1 to 0.9."""


class Architecture(BaseModel):
    """Dimensions of a model. The architecture itself fixes the input (patches of 32 points) and the
    output (128 steps x (mean + nine deciles)).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_dims: int = Field(gt=0)
    ff_dims: int = Field(gt=0, description="hidden dims of each layer's feed-forward block")
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    output_quantile_len: int = Field(
        gt=0, description="steps covered by the continuous quantile head"
    )
    context_limit: int = Field(gt=0, description="context plus horizon, in points")

    @model_validator(mode="after")
    def _heads_divide_dims(self) -> "Architecture":
        if self.model_dims % (2 * self.num_heads):
            raise ValueError(
                f"model_dims {self.model_dims} with num_heads {self.num_heads}: the head dims "
                "must be whole and even"
            )
        return self

    @property
    def head_dims(self) -> int:
        """Dimensions of one attention head."""
        return self.model_dims // self.num_heads


TIMESFM_2_5_200M = Architecture(
    model_dims=1280,
    ff_dims=1280,
    num_layers=20,
    num_heads=16,
    output_quantile_len=1024,
    context_limit=16_384,
)
BUNDLED = Architecture(
    model_dims=256,
    ff_dims=512,
    num_layers=6,
    num_heads=4,
    output_quantile_len=128,
    context_limit=16_384,
)


def definition(architecture: Architecture) -> timesfm_2p5_base.TimesFM_2p5_200M_Definition:
    """Return the `timesfm` package's configuration object for this size."""
    base = timesfm_2p5_base.TimesFM_2p5_200M_Definition()
    dims = architecture.model_dims
    transformer = dataclasses.replace(
        base.stacked_transformers.transformer,
        model_dims=dims,
        hidden_dims=architecture.ff_dims,
        num_heads=architecture.num_heads,
    )
    sized = dataclasses.replace(
        base,
        output_quantile_len=architecture.output_quantile_len,
        tokenizer=dataclasses.replace(base.tokenizer, hidden_dims=dims, output_dims=dims),
        stacked_transformers=dataclasses.replace(
            base.stacked_transformers, num_layers=architecture.num_layers, transformer=transformer
        ),
        output_projection_point=dataclasses.replace(
            base.output_projection_point,
            input_dims=dims,
            hidden_dims=dims,
            output_dims=OUTPUT_PATCH_LEN * N_OUTPUT_COLUMNS,
        ),
        output_projection_quantiles=dataclasses.replace(
            base.output_projection_quantiles,
            input_dims=dims,
            hidden_dims=dims,
            output_dims=architecture.output_quantile_len * N_OUTPUT_COLUMNS,
        ),
    )
    # context_limit is a class attribute of the package's dataclass, not a field, so replace()
    # cannot carry it.
    object.__setattr__(sized, "context_limit", architecture.context_limit)
    return sized


def build_module(architecture: Architecture) -> TimesFM_2p5_200M_torch_module:
    """Return the `timesfm` package's module in this size, on the CPU, with freshly initialised
    float32 weights and the package's tensor names.

    The package initialises every RMSNorm scale at zero, which is right only if a checkpoint is
    loaded afterwards; `pretraining` initialises its own scales.
    """
    sized_class: Any = type(
        f"TimesFM_2p5_{architecture.model_dims}x{architecture.num_layers}_torch_module",
        (TimesFM_2p5_200M_torch_module,),
        {"config": definition(architecture)},
    )
    module: TimesFM_2p5_200M_torch_module = sized_class()
    # The package picks cuda:0 whenever it sees a GPU; here the caller chooses the device.
    module.device = torch.device("cpu")
    module.device_count = 1
    return module.eval()
