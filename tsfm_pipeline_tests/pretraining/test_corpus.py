"""Test that the synthetic corpus is deterministic, finite, covers every process, and is independent
of the synthetic fleet.
"""

import ast
from pathlib import Path

import pytest
import torch

import tsfm_pipeline.pretraining
from tsfm_pipeline.pretraining.corpus import (
    PATCH,
    SERIES_LEN,
    TARGET_LEN,
    Pool,
    PoolShape,
    generate_block,
    sample_windows,
)
from tsfm_pipeline.pretraining.draw import Draw
from tsfm_pipeline.pretraining.heldout import HELD_OUT, held_out_windows
from tsfm_pipeline.pretraining.processes import PROCESSES

CPU = torch.device("cpu")


def test_a_block_depends_on_seed_and_number_alone():
    first = generate_block(3, 5, 8, CPU)
    torch.manual_seed(99)
    assert torch.equal(first, generate_block(3, 5, 8, CPU))
    assert not torch.equal(first, generate_block(3, 6, 8, CPU))
    assert not torch.equal(first, generate_block(4, 5, 8, CPU))


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_is_finite_and_moves(name: str):
    x = PROCESSES[name](Draw(1, 2, CPU), 16, 4096)
    assert x.shape == (16, 4096)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert (x.std(dim=-1) > 0).float().mean() >= 0.5


def test_blocks_are_finite_of_unit_spread_and_use_every_process(monkeypatch: pytest.MonkeyPatch):
    used = set()
    for name, process in PROCESSES.items():

        def counted(
            draw: Draw, n: int, length: int, name: str = name, process=process
        ) -> torch.Tensor:
            used.add(name)
            return process(draw, n, length)

        monkeypatch.setitem(PROCESSES, name, counted)
    x = generate_block(0, 0, 192, CPU, length=2048)
    assert torch.isfinite(x).all()
    spread = x.std(dim=-1)
    assert (((spread - 1).abs() < 0.02) | (spread == 0)).all()
    assert used == set(PROCESSES)


@pytest.mark.heavy
def test_corpus_holds_quiet_quantised_and_wandering_series():
    x = torch.cat([generate_block(0, block, 64, CPU) for block in range(4)])
    held = (x[:, 1:] == x[:, :-1]).float().mean(dim=-1)
    distinct = torch.tensor([len(torch.unique(row[:2048])) for row in x])
    halves = (x[:, : SERIES_LEN // 2].mean(-1) - x[:, SERIES_LEN // 2 :].mean(-1)).abs()
    assert 0.03 < (held > 0.5).float().mean() < 0.4
    assert 0.05 < (distinct < 100).float().mean() < 0.6
    assert (halves > 0.8).float().mean() > 0.1


def test_windows_are_reproducible_of_unit_spread_and_at_most_a_patch_is_partly_masked():
    pool = generate_block(0, 0, 32, CPU)
    values, masked = sample_windows(pool, 7, 11, 32, 16)
    again, _ = sample_windows(pool, 7, 11, 32, 16)
    assert values.shape == (32, 16 * PATCH + TARGET_LEN)
    assert torch.equal(values, again)
    assert torch.isfinite(values).all()
    assert masked.min() >= 0
    assert masked.max() < PATCH


def test_a_pool_opened_late_equals_one_that_grew_there():
    shape = PoolShape(blocks=3, block_series=4, renew_every=2)
    grown = Pool(1, CPU, shape)
    for step in range(9):
        grown.at(step)
    assert torch.equal(grown.at(9), Pool(1, CPU, shape).at(9))
    with pytest.raises(ValueError, match="moved on"):
        grown.at(0)


def test_held_out_families_are_not_in_the_corpus():
    assert not set(HELD_OUT) & set(PROCESSES)
    windows = held_out_windows(CPU, 4, 640)
    assert all(torch.isfinite(x).all() and x.std() > 0.5 for x in windows.values())


def test_pretraining_imports_nothing_of_the_fleets():
    for path in Path(tsfm_pipeline.pretraining.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if "fleets" in name], path


def test_corpus_and_fleet_generator_share_no_code():
    fleet = Path(tsfm_pipeline.pretraining.__file__).parent.parent / "fleets" / "synthetic.py"
    if not fleet.exists():
        pytest.skip("the fleet generator is not there")

    def bodies(path: Path) -> set[str]:
        functions = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)
        ]
        dumps = {
            ast.dump(ast.Module(body=function.body, type_ignores=[])) for function in functions
        }
        return {dump for dump in dumps if len(dump) > 300}

    for name in ("processes.py", "corpus.py"):
        assert not bodies(fleet) & bodies(Path(tsfm_pipeline.pretraining.__file__).parent / name)
