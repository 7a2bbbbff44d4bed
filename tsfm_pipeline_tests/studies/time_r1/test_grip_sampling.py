"""Test which completions of a question an update keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsfm_pipeline.studies.time_r1.sampling import CLUSTERS, kept
from tsfm_pipeline.studies.time_r1.windows import Floats, Ints

kinds = st.sampled_from(["local", "cluster"])


@st.composite
def groups(draw: st.DrawFn) -> tuple[Floats, int]:
    """Rewards [B, k G], often with ties, and G."""
    group, factor, questions = (draw(st.integers(1, n)) for n in (6, 4, 3))
    reward = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 0.5]))
    n = group * factor * questions
    values = draw(st.lists(reward, min_size=n, max_size=n))
    return np.array(values).reshape(questions, -1), group


def keep(rewards: Floats, group: int, kind: str, seed: int = 0, clusters: int = CLUSTERS) -> Ints:
    return kept(rewards, group, kind, np.random.default_rng(seed), clusters)


@settings(max_examples=30)
@given(drawn=groups(), kind=kinds, seed=st.integers(0, 99))
def test_a_group_has_its_size_no_repeats_and_depends_on_the_seed_alone(
    drawn: tuple[Floats, int], kind: str, seed: int
) -> None:
    rewards, group = drawn
    rows = keep(rewards, group, kind, seed)
    assert rows.shape == (len(rewards), group)
    assert (np.diff(rows, axis=1) > 0).all()
    assert rows.min() >= 0
    assert rows.max() < rewards.shape[1]
    assert (rows == keep(rewards, group, kind, seed)).all()


@settings(max_examples=30)
@given(drawn=groups())
def test_local_keeps_the_best_of_every_k_and_never_lowers_the_mean(
    drawn: tuple[Floats, int],
) -> None:
    rewards, group = drawn
    chosen = np.take_along_axis(rewards, keep(rewards, group, "local"), axis=1)
    assert (chosen == rewards.reshape(len(rewards), group, -1).max(-1)).all()
    assert (chosen.mean(1) >= rewards.mean(1) - 1e-12).all()
    # The order of the parts, and the order within each of them, does not matter.
    parts = rewards.reshape(len(rewards), group, -1)[:, ::-1, ::-1].reshape(rewards.shape)
    turned = np.take_along_axis(parts, keep(parts, group, "local"), axis=1)
    assert (turned == chosen[:, ::-1]).all()


@settings(max_examples=30)
@given(drawn=groups(), seed=st.integers(0, 99))
def test_cluster_does_not_depend_on_the_order_of_the_completions(
    drawn: tuple[Floats, int], seed: int
) -> None:
    rewards, group = drawn
    order = np.random.default_rng(seed).permutation(rewards.shape[1])
    shuffled = rewards[:, order]
    a = np.take_along_axis(rewards, keep(rewards, group, "cluster"), axis=1)
    b = np.take_along_axis(shuffled, keep(shuffled, group, "cluster"), axis=1)
    assert (np.sort(a, axis=1) == np.sort(b, axis=1)).all()


@pytest.mark.parametrize("group", [4, 6, 8])
def test_every_cluster_is_represented_about_equally(group: int) -> None:
    levels = np.repeat([-1.0, 0.1, 0.5, 0.9], [2, 20, 20, 6])
    rewards = levels + np.tile([0.0, 0.01], 24)
    rewards[:2] = -1.0
    drawn = levels[keep(rewards[None], group, "cluster")[0]]
    counts = [int((drawn == level).sum()) for level in (-1.0, 0.1, 0.5, 0.9)]
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1 if group <= 6 else counts == [2, 2, 2, 2]


def test_a_cluster_that_runs_out_leaves_its_share_to_the_others() -> None:
    rewards = np.array([[-1.0] + [0.5, 0.51, 0.49] * 5])
    rows = keep(rewards, 8, "cluster")
    assert 0 in rows
    assert len(set(rows[0])) == 8


@pytest.mark.parametrize("rewards", [[0.5] * 12, [0.5] * 11 + [0.6]])
def test_fewer_distinct_rewards_than_clusters_are_no_problem(rewards: list[float]) -> None:
    rows = keep(np.array([rewards]), 4, "cluster")
    assert len(set(rows[0])) == 4
    assert max(rewards) in np.array(rewards)[rows]


def test_seeds_differ_in_what_cluster_draws() -> None:
    rewards = np.linspace(0, 1, 48)[None]
    draws = {tuple(keep(rewards, 16, "cluster", seed)[0]) for seed in range(5)}
    assert len(draws) == 5


@pytest.mark.parametrize("kind", ["local", "cluster", "all"])
def test_without_oversampling_everything_is_kept(kind: str) -> None:
    rewards = np.random.default_rng(0).normal(size=(2, 16))
    assert keep(rewards, 16, kind).tolist() == [list(range(16))] * 2


def test_cluster_widens_the_spread_of_what_is_kept() -> None:
    rewards = np.random.default_rng(1).normal(0.5, 0.1, size=(50, 48))
    chosen = np.take_along_axis(rewards, keep(rewards, 16, "cluster"), axis=1)
    assert chosen.std(1).mean() > 1.2 * rewards.std(1).mean()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="1 values that are not finite"):
        keep(np.array([[0.0, np.nan]]), 1, "cluster")
    with pytest.raises(ValueError, match=r"5 completions .* G = 2 and local .* a multiple of G"):
        keep(np.zeros((1, 5)), 2, "local")
    with pytest.raises(ValueError, match="G is expected"):
        keep(np.zeros((1, 4)), 2, "all")
