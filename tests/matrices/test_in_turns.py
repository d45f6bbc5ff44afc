"""Turns of matrices: which matrix has its turn in which step, at which owner."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.matrices.in_turns import Runs, Turn, _of_run, spread

CASES = [([3, 2, 2], 4), ([1, 0, 0, 1], 8), ([5], 2), ([0, 7], 3), ([2, 1], 1), ([8, 8], 8)]


@pytest.mark.parametrize(("numbers", "owners"), CASES)
def test_each_matrix_has_its_turn_at_its_owner(numbers: list[int], owners: int):
    """Matrix j is at place j // D of owner j % D; each has its turn in one step, and an owner's are neighbours."""
    runs, due = Runs.of(numbers, owners), np.repeat(np.arange(len(numbers)), numbers)
    for owner in range(owners):
        for step in range(len(numbers)):
            start, length = (int(x) for x in runs.now(jnp.asarray(owner), jnp.asarray(step)))
            wanted = [j for j in range(len(due)) if j % owners == owner and due[j] == step]
            found = [(start + i) * owners + owner for i in range(length)]
            where = f"step {step} of {numbers}, owner {owner} of {owners}: start {start}, length {length}"
            assert found == wanted, f"{where} are the matrices {found}, whose turn it is: {wanted}"


@pytest.mark.parametrize(("numbers", "owners"), CASES)
def test_runs_of_a_period_are_all_matrices_of_an_owner(numbers: list[int], owners: int):
    runs, total = Runs.of(numbers, owners), sum(numbers)
    for owner, (starts, lengths) in enumerate(zip(*runs, strict=True)):
        own = len(range(owner, total, owners))
        assert sum(lengths) == own, f"owner {owner} of {owners} has {own} of {total} matrices, its runs {lengths}"
        assert list(starts) == [sum(lengths[:i]) for i in range(len(lengths))], f"runs of owner {owner} are apart"
    assert runs.most == max(map(max, runs.lengths)), "a longer run is computed in part"
    assert runs.least == min(map(min, runs.lengths)), "an empty run is computed"


def test_a_step_computes_the_longest_run():
    assert (Runs.of([3, 2, 2], 4).most, Runs.of([3, 2, 2], 1).most, Runs.of([8, 8], 8).least) == (1, 3, 1)


def test_steps_have_about_as_much_to_do():
    """What is left of a stack goes to the steps with least to do."""
    assert spread({"large": (8.0, 3), "small": (1.0, 3)}, 2) == {"large": [2, 1], "small": [1, 2]}


def at(period: int | None, start: int, count: int, when: Any = None) -> tuple[int, bool, bool]:
    """The number of a step in its period, whether its turns are first ones, and whether there are any."""
    turn = Turn(lambda *_: [], period, start, [])
    number, first, due = turn.now(jnp.int32(count), [] if when is None else [when])
    return int(number), bool(first), bool(due)


def test_steps_of_a_period():
    assert [at(3, 1, count)[0] for count in (1, 2, 3, 4, 5)] == [0, 1, 2, 0, 1]
    assert [at(3, 2, count)[0] for count in (2, 3, 4, 5)] == [0, 1, 2, 0]
    assert [at(3, 1, count)[1:] for count in (1, 3, 4)] == [(True, True), (True, True), (False, True)]


def test_turns_of_all_matrices_in_some_steps():
    assert [at(None, 1, count, jnp.int32(2)) for count in (1, 2, 3)] == [
        (0, True, True),
        (0, False, False),
        (0, False, True),
    ]
    assert at(None, 1, 5, jnp.int32(0)) == (0, False, True)  # 0 is as 1
    assert [at(None, 1, 2, jnp.array(due))[2] for due in (True, False)] == [True, False]


@pytest.mark.parametrize("step", [0, 1])
def test_a_run_replaces_its_own_matrices_alone(step: int):
    """Of five matrices three have their turn in the first step and two in the second; three are computed in both."""
    runs = Runs.of([3, 2], 1)
    old, other = jnp.arange(5.0), 10 * jnp.arange(5.0)
    run = runs.now(jnp.int32(0), jnp.int32(step))
    (new,) = _of_run(lambda olds, others: [olds[0] + others[0]], runs, run, [old], [other])
    assert new.tolist() == [[0, 11, 22, 3, 4], [0, 1, 2, 33, 44]][step]
