"""`check_restored`: what a checkpoint has, and what came back of it, against what was asked for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gdjax
from tests.resume.target import TAKES_SHAPES_OF_KEYS, metadata, target
from tests.trees import random_tree

TX = gdjax.adamw(0.01)


def start(tx: Any = TX, width: int = 4, name: str = "b") -> Any:
    params = {"w": jnp.ones((8, width)), name: jnp.zeros(4)}
    return params, tx.init(params)


def refused(message: str) -> Any:
    return pytest.raises(ValueError, match=rf"^gdjax\.check_restored: {message}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    params, state = start()
    for _ in range(2):
        updates, state = TX.update(params, state, params)
        params = gdjax.apply_updates(params, updates)
    path = tmp_path_factory.mktemp("saved") / "run"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, (params, state))
    return path


def restored(path: Path, like: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, like)


def test_what_was_saved_and_what_came_back(folder: Path):
    wanted = target(start)
    gdjax.check_restored(metadata(folder), wanted)
    gdjax.check_restored(metadata(folder).tree, wanted)
    got = restored(folder, wanted)
    gdjax.check_restored(got, wanted, start=start())
    gdjax.check_restored(got, start())


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "another optimizer": (
        lambda: start(gdjax.lion(0.01)),
        r"\[1\]\[0\]\['nu'\]\['b'\] float32\[4\] was saved, and the target has no such leaf; .*to gdjax.m",
    ),
    "a transform more": (
        lambda: start(gdjax.chain(gdjax.clip_by_global_norm(1.0), TX)),
        r"\[1\]\[1\]\[0\]\.count int32\[\] is wanted, and was not saved; .* and 7 more: a checkpoint of another",
    ),
    "codes": (
        lambda: start(gdjax.quantize_state(TX, min_size=0)),
        r"\[1\]\.count int32\[\] is wanted, and was not saved",
    ),
    "another name": (lambda: start(name="c"), r"\[0\]\['c'\] float32\[4\] is wanted, and was not saved"),
    "another size": (
        lambda: start(width=5),
        r"\[0\]\['w'\] was saved as float32\[8,4\], and the target has float32\[8,5\]; .* a model of another size\?",
    ),
    "another dtype": (
        lambda: start(gdjax.adamw(0.01, mu_dtype=jnp.bfloat16)),
        r"\[1\]\[0\]\.mu\['b'\] was saved as float32\[4\], and the target has bfloat16\[4\]; .*a code is not a number",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_before_it_is_read(name: str, folder: Path):
    make, message = OTHERS[name]
    with refused(message):
        gdjax.check_restored(metadata(folder), target(make))


def test_orbax_itself_converts_another_dtype(folder: Path):
    """That is why this function is there; where Orbax refuses it one day, this test can go."""
    like = target(lambda: start(gdjax.adamw(0.01, mu_dtype=jnp.bfloat16)))
    assert restored(folder, like)[1][0].mu["w"].dtype == jnp.bfloat16


def test_the_state_of_another_optimizer_is_carried_over(folder: Path):
    """The advice in the message, followed."""
    params, state = restored(folder, target(start))
    lion = gdjax.lion(0.01)
    new, _ = gdjax.migrate(state, TX, lion, params)
    gdjax.check_restored(new, jax.eval_shape(lion.init, params))
    np.testing.assert_array_equal(new[0].mu["w"], state[0].mu["w"])


def test_half_a_checkpoint(folder: Path, tmp_path: Path):
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "_METADATA").unlink()
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        gdjax.check_restored(metadata(half), target(start))
        pytest.fail("half a checkpoint was taken for a whole one")
    assert "nothing was found" in str(raised.value) or "_METADATA" in str(raised.value)
    for nothing in (None, {}, [None]):
        with refused(r"nothing was found, and the target has \[0\]\['b'\], \[0\]\['w'\], .*: is the checkpoint whole"):
            gdjax.check_restored(nothing, target(start))


def test_a_restore_that_restored_nothing():
    wanted, fresh = target(start), start()
    with refused(
        r"\[0\]\['b'\] came back as it is in the target, and was not restored; .*does the restore get the tar"
    ):
        gdjax.check_restored(wanted, wanted)
    with refused(r"\[0\]\['b'\] came back as it is in the target"):
        gdjax.check_restored(fresh, fresh)
    with refused(r"\[1\]\[0\]\.count came back as it is in the target"):
        gdjax.check_restored((start()[0], wanted[1]), wanted)
    with refused(r"all arrays are those of start: this is a new run, and nothing was restored"):
        gdjax.check_restored(start(), wanted, start=start())
    with refused(r"all arrays are those of start"):
        gdjax.check_restored(start()[1], wanted[1], start=start()[1])
    gdjax.check_restored(start(), wanted)


@pytest.mark.full
def test_a_state_that_has_made_a_step_is_none_of_a_new_run():
    """Whatever shows it: a count, the place in a window, a key, or nothing but a moment."""
    params = random_tree(0)
    for tx in (TX, gdjax.MultiSteps(TX, 4), gdjax.add_noise(0.1, 0.5, 0), gdjax.apply_if_finite(gdjax.trace(0.9), 3)):
        _, state = tx.update(params, tx.init(params), params)
        gdjax.check_restored(state, jax.eval_shape(tx.init, params), start=tx.init(params))
        with refused("all arrays are those of start"):
            gdjax.check_restored(tx.init(params), jax.eval_shape(tx.init, params), start=tx.init(params))


@pytest.mark.skipif(not TAKES_SHAPES_OF_KEYS, reason="this Orbax restores no keys to shapes")
def test_a_key_is_saved_as_its_data(tmp_path: Path):
    tx = gdjax.add_noise(0.1, 0.5, 0)
    params = random_tree(0)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", tx.init(params))
    wanted = target(lambda: tx.init(params))
    gdjax.check_restored(metadata(tmp_path / "run"), wanted)
    gdjax.check_restored(restored(tmp_path / "run", wanted), wanted)
    several = jax.eval_shape(lambda: tx.init(params)._replace(rng_key=jax.random.split(jax.random.key(0))))
    with refused(r"\.rng_key was saved as uint32\[2\], and the target has key<fry>\[2\]"):
        gdjax.check_restored(metadata(tmp_path / "run"), several)


def test_arrays_that_lie_elsewhere():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    whole, divided = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    wanted = {"w": jax.ShapeDtypeStruct((8, 4), "float32", sharding=divided)}
    gdjax.check_restored(jax.device_put({"w": jnp.ones((8, 4))}, divided), wanted)
    gdjax.check_restored({"w": np.ones((8, 4), np.float32)}, wanted)  # NumPy's arrays lie nowhere yet
    with refused(r"\['w'\] lies as P\w*\(\) on 8 devices, and the target as P\w*\('data'.*give the sha"):
        gdjax.check_restored(jax.device_put({"w": jnp.ones((8, 4))}, whole), wanted)
    with refused(r"\['w'\] lies as SingleDeviceSharding\(.* on 1 devices, and the target as "):
        gdjax.check_restored({"w": jnp.ones((8, 4))}, wanted)
    free = {"w": jnp.zeros((8, 4))}  # it would go where the others are
    gdjax.check_restored(jax.device_put({"w": jnp.ones((8, 4))}, whole), free)


def test_a_start_of_other_leaves_says_nothing():
    gdjax.check_restored({"w": jnp.zeros(2)}, {"w": jax.ShapeDtypeStruct((2,), "float32")}, start={"b": jnp.zeros(2)})
    gdjax.check_restored((), (), start=())
