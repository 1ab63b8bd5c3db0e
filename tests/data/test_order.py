from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tokenreel.data.order import SampleOrder, permute
from tokenreel.errors import CheckpointError


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64, 1009, 4099, 100_003])
def test_the_permutation_is_a_bijection(n: int) -> None:
    np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, key=12345)), np.arange(n))


def test_the_order_is_frozen() -> None:
    """Another order would silently change the training data of resumed runs."""
    rows = SampleOrder(np.arange(1009) * 3, seed=7).rows(0, 5003)
    assert rows[:8].tolist() == [2781, 1002, 2370, 723, 1401, 2046, 2859, 2874]
    assert hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16] == "49579a9d05357bec"


def test_every_epoch_contains_each_row_once_in_another_order() -> None:
    order = SampleOrder(np.arange(101), seed=0)
    epochs = order.rows(0, 7 * 101).reshape(7, 101)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(101), (7, 1)))
    assert len({epoch.tobytes() for epoch in epochs}) == 7
    assert not np.array_equal(epochs[0], SampleOrder(np.arange(101), seed=1).rows(0, 101))


def test_an_epoch_is_shuffled() -> None:
    """Neighbours are uncorrelated, with about one fixed point: a linear congruence fails this."""
    n = 100_003
    epoch = SampleOrder(np.arange(n), seed=3).rows(0, n)
    assert abs(np.corrcoef(epoch[:-1], epoch[1:])[0, 1]) < 0.01
    assert (epoch == np.arange(n)).sum() < 8
    assert (np.abs(np.diff(epoch)) == 1).sum() < 12


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_reads_one_global_order(processes: int) -> None:
    """Also if the number of processes and the batch change within an epoch."""
    order, batch = SampleOrder(np.arange(59), seed=5), 12
    per_process = batch // processes
    steps = [
        np.concatenate([order.rows(step * batch + rank * per_process, per_process) for rank in range(processes)])
        for step in range(11)
    ]
    later = order.rows(11 * batch, 2 * batch)
    np.testing.assert_array_equal(np.concatenate([*steps, later]), order.rows(0, 13 * batch))


@pytest.mark.parametrize("state", [{}, {"consumed": None}])
def test_a_state_without_a_count_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="does not state which samples it has consumed"):
        SampleOrder(np.arange(97), seed=3).resume(state)


def test_a_state_resumes_only_its_own_data_and_seed() -> None:
    order = SampleOrder(np.arange(59), seed=5)
    assert order.resume(order.state(consumed=1234)) == 1234
    for other in (SampleOrder(np.arange(61), 5), SampleOrder(np.arange(59), 6), SampleOrder(np.arange(59) + 1, 5)):
        with pytest.raises(CheckpointError, match="resume with the data and the seed"):
            other.resume(order.state(consumed=1234))
