"""Test that the installed package timesfm has what we use of it.

What belongs here: the names. What does not: that they compute what we expect (`test_equality`,
`pretraining.test_network`).
"""

import ast
import dataclasses
from importlib import import_module

import pytest
import torch

from tsfm_pipeline.forecaster.architecture import BUNDLED, build_module
from tsfm_pipeline.settings import PROJECT_ROOT

USED = {
    "timesfm.timesfm_2p5.timesfm_2p5_base": ("TimesFM_2p5_200M_Definition",),
    "timesfm.timesfm_2p5.timesfm_2p5_torch": ("TimesFM_2p5_200M_torch_module",),
    "timesfm.torch.dense": ("ResidualBlock",),
    "timesfm.torch.normalization": ("RMSNorm",),
    "timesfm.torch.transformer": ("Transformer",),
}
"""The names that our code imports, by module of the package."""

PARTS = (
    "tokenizer.hidden_layer",
    "tokenizer.output_layer",
    "tokenizer.residual_layer",
    "tokenizer.activation",
    "stacked_xf.0.attn.qkv_proj",
    "stacked_xf.0.attn.query_ln",
    "stacked_xf.0.attn.key_ln",
    "stacked_xf.0.attn.per_dim_scale",
    "stacked_xf.0.attn.out",
    "stacked_xf.0.pre_attn_ln",
    "stacked_xf.0.post_attn_ln",
    "stacked_xf.0.pre_ff_ln",
    "stacked_xf.0.post_ff_ln",
    "stacked_xf.0.ff0",
    "stacked_xf.0.ff1",
    "output_projection_point.output_layer",
    "output_projection_quantiles.output_layer",
)
"""The submodules of the package's module that training and export read."""


@pytest.mark.parametrize(("module", "names"), USED.items())
def test_the_package_has_the_names_that_we_import(module: str, names: tuple[str, ...]):
    assert [name for name in names if not hasattr(import_module(module), name)] == []


def test_no_other_name_of_the_package_is_imported():
    imported = set()
    for path in (PROJECT_ROOT / "tsfm_pipeline").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "from timesfm" in text else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("timesfm"):
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = {f"{module}.{name}" for module, names in USED.items() for name in names} | set(USED)
    assert imported <= known


def test_its_module_has_the_parts_that_training_reads():
    module = build_module(BUNDLED)
    assert all(isinstance(module.get_submodule(name), torch.nn.Module) for name in PARTS[:3])
    for name in PARTS:
        owner, _, attribute = name.rpartition(".")
        assert hasattr(module.get_submodule(owner), attribute), name
    assert (module.o, module.q) == (128, 10)


def test_its_definition_has_the_fields_that_other_sizes_replace():
    base = import_module("timesfm.timesfm_2p5.timesfm_2p5_base").TimesFM_2p5_200M_Definition()
    fields = {field.name for field in dataclasses.fields(base)}
    assert {"output_quantile_len", "tokenizer", "stacked_transformers"} <= fields
    assert {"output_projection_point", "output_projection_quantiles"} <= fields
    inner = {field.name for field in dataclasses.fields(base.stacked_transformers.transformer)}
    assert {"model_dims", "hidden_dims", "num_heads"} <= inner
