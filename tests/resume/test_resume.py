"""Half of a run, a checkpoint, and the other half in another process: what a run that nobody interrupts has."""

import functools
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import gdjax
from tests.cases import CASES, SAMPLE
from tests.declare import by_rank, matrices
from tests.resume import child, elsewhere
from tests.resume.bits import Leaf, bits
from tests.resume.target import target
from tests.trees import assert_close, assert_equal, random_tree, signature

pytestmark = pytest.mark.programs

FEW = ("adamw", "chain", "muon", "MultiSteps")  # in the ordinary suite
OTHERS = [case.name for case in CASES if case.name not in FEW]
SIZE = 24  # cases of one program
BOTH = "float32", "bfloat16"
SHORT = ("adamw", "muon", "MultiSteps")  # in 16 bits, in the ordinary suite
GROUPS = [
    pytest.param([f"{x}:float32" for x in FEW] + [f"{x}:bfloat16" for x in SHORT], id="sample"),
    pytest.param([f"{x}:bfloat16" for x in FEW if x not in SHORT], id="sample, 16 bits", marks=pytest.mark.slow),
    *(
        pytest.param([f"{x}:{y}" for x in names for y in BOTH], id=f"{names[0]}...", marks=pytest.mark.slow)
        for names in (OTHERS[i : i + SIZE] for i in range(0, len(OTHERS), SIZE))
    ),
]

# What has no state, or hands it on unread, takes anything for it; `lookahead` is inside a transform of the tests.
TAKES_ANYTHING = {"identity", "set_to_zero", "stateless", "stateless_with_tree_map"}
OURS = {"lookahead"}


class Halves(NamedTuple):
    jobs: list[str]
    first: dict[str, Any]  # what tests/resume/halves.py has in the process that saves
    second: dict[str, Any]  # and in the one that restores


@pytest.fixture(scope="module", params=GROUPS)
def halves(request: Any, tmp_path_factory: Any) -> Halves:
    folder, jobs = tmp_path_factory.mktemp("halves"), request.param
    for half in ("first", "second"):
        child.run("halves", half, folder, *jobs)
    return Halves(jobs, *(pickle.loads((folder / half).read_bytes()) for half in ("first", "second")))


def different(got: dict[str, Leaf], wanted: dict[str, Leaf]) -> list[str]:
    return sorted(path for path in got.keys() | wanted.keys() if got.get(path) != wanted.get(path))


def test_every_case_is_in_a_group():
    jobs = sorted(job for group in GROUPS for job in group.values[0])
    assert jobs == sorted(f"{case.name}:{dtype}" for case in CASES for dtype in BOTH)


def test_another_process_goes_on_bit_for_bit(halves: Halves):
    assert different(halves.second["half"], halves.first["half"]) == []
    assert different(halves.second["whole"], halves.first["whole"]) == []
    # The steps after the checkpoint were steps.
    still = {job for job in halves.jobs if not any(p.startswith(f"['{job}']") for p in different(*steps_of(halves)))}
    assert {job.split(":")[0] for job in still} <= {"set_to_zero"}


def steps_of(halves: Halves) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    return halves.first["half"], halves.first["whole"]


def test_flax_packs_and_unpacks_the_same_bits(halves: Halves):
    assert different(halves.second["msgpack"], halves.first["half"]) == []


def test_a_state_restored_without_a_target_is_refused_with_advice(halves: Halves):
    # Without one Orbax gives lists for tuples, dicts for named tuples and None for empty ones.
    assert sorted(halves.second["untargeted"]) == sorted(halves.jobs)
    for job, said in halves.second["untargeted"].items():
        name = job.split(":")[0]
        if name in TAKES_ANYTHING:
            assert said == ""
        elif name not in OURS:
            assert said.startswith("ValueError: ") and ": state " in said and "init(params)" in said, f"{job}: {said}"


SHARDED = [
    pytest.param(["chain", "lion", "noisy_sgd"], [8, 4, 1], id="sample", marks=pytest.mark.slow),
    pytest.param([x for x in SAMPLE if x not in ("chain", "lion", "noisy_sgd")], [8, 4, 1], marks=pytest.mark.slow),
]
# What no number of another leaf or device enters: bit-equal on any number of devices. Sums differ by their order.
ELEMENTWISE = {"adamw", "lion", "noisy_sgd", "sgd/nesterov", "rmsprop/centered", "MultiSteps", "inject_hyperparams"}


@pytest.mark.parametrize(("names", "numbers"), SHARDED)
def test_a_sharded_run_goes_on_on_another_number_of_devices(
    names: Sequence[str], numbers: Sequence[int], tmp_path: Path
):
    child.run("sharded", "save", tmp_path / "state", tmp_path / "saved", *names, devices=8)
    saved = pickle.loads((tmp_path / "saved").read_bytes())
    for devices in numbers:
        result = tmp_path / f"restored{devices}"
        child.run("sharded", "restore", tmp_path / "state", result, *names, devices=devices)
        restored = pickle.loads(result.read_bytes())
        assert devices in restored["split"]
        assert different(restored["half"], saved["half"]) == []
        exact = {f"['{name}']" for name in (names if devices == 8 else ELEMENTWISE)}
        assert [p for p in different(restored["bits"], saved["bits"]) if p.partition("]")[0] + "]" in exact] == []
        for x, y in zip(restored["whole"], saved["whole"], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


# --- In one process ---------------------------------------------------------------------------------------------------

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in range(1, 7)]


def go(tx: Any, params: Any, state: Any, gradients: Sequence[Any]) -> Any:
    step = jax.jit(lambda params, state, g: advance(tx, params, state, g))
    for g in gradients:
        params, state = step(params, state, g)
    return params, state


def advance(tx: Any, params: Any, state: Any, g: Any) -> Any:
    updates, state = tx.update(g, state, params)
    return gdjax.apply_updates(params, updates), state


def through_a_checkpoint(tree: Any, like: Any, folder: Path) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", target(lambda: like))


def reversed_order(tree: Any) -> Any:
    """The same dicts, filled the other way round, and with JAX keeping that order."""
    if not isinstance(tree, dict):
        return tree
    return OrderedDict((key, reversed_order(tree[key])) for key in reversed(sorted(tree)))


ORDERED = {
    "adamw": lambda: gdjax.adamw(0.1),
    "partition": lambda: gdjax.partition({"matrix": gdjax.adam(0.1), "vector": gdjax.sgd(0.1, 0.9)}, by_rank),
    "inject_hyperparams": lambda: gdjax.inject_hyperparams(gdjax.adamw)(learning_rate=0.1, weight_decay=0.01),
}
REORDERED = ORDERED | {
    "partition": lambda: gdjax.partition({"vector": gdjax.sgd(0.1, 0.9), "matrix": gdjax.adam(0.1)}, by_rank),
    "inject_hyperparams": lambda: gdjax.inject_hyperparams(gdjax.adamw)(weight_decay=0.01, learning_rate=0.1),
}


@pytest.mark.parametrize("name", ORDERED)
def test_the_order_in_which_dicts_were_filled_does_not_matter(name: str, tmp_path: Path):
    tx, other = ORDERED[name](), REORDERED[name]()
    half = go(tx, PARAMS, tx.init(PARAMS), GRADIENTS[:3])
    wanted, _ = go(tx, *half, GRADIENTS[3:])
    params = reversed_order(PARAMS)
    restored = through_a_checkpoint(half, (params, other.init(params)), tmp_path)
    assert list(restored[0]) == list(params) != sorted(PARAMS)
    got, _ = go(other, *restored, [reversed_order(g) for g in GRADIENTS[3:]])
    by_path = {str(path): x for path, x in jax.tree_util.tree_leaves_with_path(wanted)}
    for path, x in jax.tree_util.tree_leaves_with_path(got):
        np.testing.assert_array_equal(x, by_path[str(path)])


def test_an_optimizer_built_anew_elsewhere_goes_on_without_a_trace(tmp_path: Path):
    traces = 0

    @functools.partial(jax.jit, static_argnums=0)
    def step(tx: Any, params: Any, state: Any, g: Any) -> Any:
        nonlocal traces
        traces += 1
        return advance(tx, params, state, g)

    here = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1, weight_decay=0.01, mask=matrices))
    half = step(here, PARAMS, here.init(PARAMS), GRADIENTS[0])
    there = elsewhere.optimizer()
    assert there == here and there is not here
    restored = through_a_checkpoint(half, (PARAMS, there.init(PARAMS)), tmp_path)
    got = step(there, *restored, GRADIENTS[1])
    assert traces == 1
    assert bits(got) == bits(step(here, *half, GRADIENTS[1]))
    # A mask of its own makes it another optimizer, for which the state is as good.
    other = elsewhere.optimizer(elsewhere.own_mask)
    assert other != here
    assert bits(step(other, *restored, GRADIENTS[1])) == bits(got)
    assert traces == 2


def early(count: Any) -> Any:
    return jnp.where(count < 100, 0.1, 0.05)


def late(count: Any) -> Any:
    return 0.5 / (count + 1).astype(jnp.float32)


def both(count: Any) -> Any:
    return jnp.where(count < 3, early(count), late(count))


@pytest.mark.parametrize("make", [gdjax.adamw, functools.partial(gdjax.sgd, momentum=0.9)], ids=["adamw", "sgd"])
def test_another_schedule_takes_over_at_the_count(make: Any, tmp_path: Path):
    first, second, whole = (make(f) for f in (early, late, both))
    half = go(first, PARAMS, first.init(PARAMS), GRADIENTS[:3])
    restored = through_a_checkpoint(half, (PARAMS, second.init(PARAMS)), tmp_path)
    got = go(second, *restored, GRADIENTS[3:])
    assert_close(got, go(whole, PARAMS, whole.init(PARAMS), GRADIENTS))
    assert not np.allclose(got[0]["scale"], go(first, *half, GRADIENTS[3:])[0]["scale"], rtol=1e-3)


def test_a_schedule_in_place_of_a_number_changes_the_state(tmp_path: Path):
    number, schedule = gdjax.adamw(0.1), gdjax.adamw(early)
    params, state = go(number, PARAMS, number.init(PARAMS), GRADIENTS[:3])
    expected = r"^gdjax\.adamw: state has fields \(\), expected ScaleByScheduleState with fields \('count',\)"
    with pytest.raises(ValueError, match=expected):
        schedule.update(GRADIENTS[0], state, params)
    with pytest.raises(ValueError, match="count|do not match"):  # Orbax's own
        through_a_checkpoint(state, schedule.init(PARAMS), tmp_path)
    # Adam's count is the one that the schedule lacks.
    moved = (*state[:2], gdjax.ScaleByScheduleState(state[0].count))
    assert signature(moved) == signature(schedule.init(PARAMS))
    assert_equal(go(schedule, params, moved, GRADIENTS[3:])[0], go(number, params, state, GRADIENTS[3:])[0])


class OlderAdamState(NamedTuple):
    """As if an older version had kept no second moment."""

    count: Any
    mu: Any


def test_a66_a_checkpoint_of_an_older_state_without_a_field(tmp_path: Path):
    tx = gdjax.scale_by_adam()
    new = go(tx, PARAMS, tx.init(PARAMS), GRADIENTS[:3])[1]
    old = through_a_checkpoint(OlderAdamState(new.count, new.mu), OlderAdamState(new.count, new.mu), tmp_path)
    lacks = r"^gdjax\.scale_by_adam: state has fields \('count', 'mu'\), expected ScaleByAdamState with .*without nu\? "
    with pytest.raises(ValueError, match=lacks + r"Take these fields from init\(params\), the others from it"):
        tx.update(GRADIENTS[0], old)
    moved = tx.init(PARAMS)._replace(**old._asdict())
    assert bits((moved.count, moved.mu)) == bits((new.count, new.mu))
    assert signature(tx.update(GRADIENTS[0], moved)[1]) == signature(new)
