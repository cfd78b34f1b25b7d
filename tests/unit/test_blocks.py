"""Block averages against correlation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.blocks import COUNT_MIN, FAR, Blocks, block_lengths
from gateway.core.tensors import FloatArray

WAITING = FAR + COUNT_MIN


def autoregression(phi: float, count: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    x, values = 0.0, []
    for step in rng.normal(size=count) * (1.0 - phi**2) ** 0.5:
        x = phi * x + float(step)
        values.append(min(1.0, max(0.0, 0.5 + x / 6.0)))
    return np.asarray([values])


def pushed(blocks: Blocks, values: FloatArray, cut: int = 32) -> FloatArray:
    parts = [blocks.push(values[:, at : at + cut]) for at in range(0, values.shape[1], cut)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(("phi", "low", "high"), [(0.0, 1, 1), (0.5, 2, 16), (0.9, 16, 64)])
def test_blocks_grow_with_correlation_until_their_means_are_nearly_free_of_it(phi: float, low: int, high: int) -> None:
    """An independent signal passes as it is; a correlated one is averaged, and the means correlate by less than .2."""
    blocks = Blocks(1)
    means = pushed(blocks, autoregression(phi, 60_000, 4))[0]
    means = means[np.isfinite(means)]
    assert low <= block_lengths(blocks.correlations)[0] <= high
    later = means[len(means) // 2 :]
    assert abs(np.corrcoef(later[:-1], later[1:])[0, 1]) < 0.2


def test_blocks_do_not_take_a_shift_for_correlation() -> None:
    """When the level of an independent signal jumps, the values still pass one by one."""
    rng = np.random.default_rng(5)
    blocks = Blocks(1)
    values = np.concatenate([rng.random(2_000) * 0.6, 0.4 + rng.random(500) * 0.6])[None]
    assert np.isfinite(pushed(blocks, values)).all()


def test_blocks_hold_rows_until_the_correlation_is_known() -> None:
    """A correlated signal never passes as an independent one, not even at first; nothing that waited is lost."""
    values, blocks = autoregression(0.9, 2_000, 6), Blocks(1)
    assert pushed(blocks, values[:, : WAITING - 1], WAITING - 1).shape == (1, 0)
    released = blocks.push(values[:, WAITING - 1 :])
    assert released.shape == values.shape
    assert 10 < np.isfinite(released).sum() < 200


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=20),
    phi=st.sampled_from([0.0, 0.6, 0.95]),
    gaps=st.sampled_from([0.0, 0.3]),
)
def test_blocks_release_every_row_however_they_are_cut(cuts: list[int], phi: float, gaps: float) -> None:
    """As many rows come out as went in, no open block is full, and a restored state goes on exactly."""
    rng = np.random.default_rng(sum(cuts))
    values = np.concatenate([autoregression(phi, sum(cuts) + WAITING, at) for at in (1, 2)])
    values[rng.random(values.shape) < gaps] = np.nan
    blocks, other, released = Blocks(2), Blocks(2), 0
    for part in np.split(values, np.cumsum([WAITING, *cuts])[:-1], axis=1):
        other.restore(pickle.loads(pickle.dumps(blocks.state())))
        means = blocks.push(part)
        assert np.array_equal(means, other.push(part), equal_nan=True)
        released += means.shape[1]
    assert released == values.shape[1]
    assert (blocks.state()["_filled"] < blocks.state()["_length"]).all()


def test_blocks_are_runs_of_neighbours_across_batches() -> None:
    """Each mean is that of the next so many values, missing ones left out, wherever a batch ends."""
    values = autoregression(0.99, 8_000, 9)
    values[0, ::7] = np.nan
    blocks = Blocks(1)
    blocks.push(values[:, :5_000])
    open_values = blocks.state()["_filled"][0]
    means = pushed(blocks, values[:, 5_000:], 50)[0]
    known = values[0][np.isfinite(values[0])]
    first = np.isfinite(values[0, :5_000]).sum() - open_values
    whole = (len(known) - first) // 128
    expected = known[first : first + 128 * whole].reshape(whole, 128).mean(axis=1)
    assert means[np.isfinite(means)] == pytest.approx(expected)


def test_signals_do_not_touch_each_other() -> None:
    """A correlated, an independent and a silent signal side by side come out as each would alone."""
    rng = np.random.default_rng(7)
    values = np.concatenate([autoregression(0.9, 3_000, 8), rng.random((1, 3_000)), np.full((1, 3_000), np.nan)])
    together = pushed(Blocks(3), values)
    alone = [pushed(Blocks(1), values[at : at + 1]) for at in range(3)]
    assert np.array_equal(together, np.concatenate(alone), equal_nan=True)
    assert 1 < np.isfinite(together[0]).sum() < 1_000
    assert np.isfinite(together[1]).all()
    assert not np.isfinite(together[2]).any()


def test_rare_signals_are_averaged_as_long_as_the_one_they_follow() -> None:
    """What is out of range too rarely to show its runs is averaged as the values are that it comes with."""
    values = autoregression(0.9, 3_000, 10)
    both = np.concatenate([values, (values > values.max() - 1e-3).astype(np.float64)])
    alone, following = pushed(Blocks(2), both), pushed(Blocks(2, like=np.zeros(2, np.int64)), both)
    assert np.isfinite(alone[1]).all()
    assert np.array_equal(np.isfinite(following[1]), np.isfinite(following[0]))
