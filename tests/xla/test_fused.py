"""The second mode of XLA:CPU, in which it writes several outputs in one loop: what is moved, and that the numbers stay.

A process has one mode for good, so that a second one runs `report`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

import gdjax
from gdjax.xla import loops
from gdjax.xla.loops import MOST, made_of, writes_several
from gdjax.xla.write_order import own

SHAPES = {"w": (64, 256), "v": (64, 256), "b": (256,)}
CASES = {
    "adamw": lambda: gdjax.adamw(1e-2),
    "lion": lambda: gdjax.lion(1e-2),
    "adabelief": lambda: gdjax.adabelief(1e-2),
    "clip + adamw": lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(1e-2)),
    "adan": lambda: gdjax.adan(1e-2),
    "guard": lambda: gdjax.apply_if_finite(gdjax.adamw(1e-2), 5),
    "lamb": lambda: gdjax.lamb(1e-2),
    "words": lambda: gdjax.quantize_state(gdjax.adamw(1e-2)),
}
# Bytes a parameter in float32 and in bfloat16, temporaries as a part of the parameters. float32 at its least: each
# array is read once, and each result written once; a norm reads gradients once more.
LEAST = {
    "adamw": (28, 24),
    "lion": (20, 10),
    "adabelief": (28, 26),
    "clip + adamw": (32, 28),
    "adan": (56, 46),
    "guard": (46, 36),
    "words": (26, 23),
}


def results(name: str, dtype: str) -> tuple[Any, list[list[float]]]:
    """The compiled step, and the parameters after three steps, the second with a gradient of infinity."""
    tx = CASES[name]()

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state

    params = {k: jnp.linspace(-1, 1, np.prod(n), dtype="float32").reshape(n).astype(dtype) for k, n in SHAPES.items()}
    state = tx.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
    for i in range(3):
        grads = {k: jnp.sin((i + 3) * x.astype("float32")).astype(dtype) for k, x in params.items()}
        grads["b"] = grads["b"].at[0].set([0, np.inf, 0][i])
        params, state = compiled(params, state, grads)
    return compiled, [np.asarray(x, "float32").ravel().tolist() for x in jax.tree.leaves(params)]


def report() -> None:
    """What `results` says in the second mode, as JSON: bytes and temporaries of each parameter, and parameters."""
    gdjax.fuse_cpu_outputs()
    size, found = sum(map(np.prod, SHAPES.values())), {}
    for name in sys.argv[1:]:
        for dtype in ("float32", "bfloat16"):
            compiled, params = results(name, dtype)
            moved, kept = compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().temp_size_in_bytes
            found[f"{name} {dtype}"] = moved / size, kept / size, params
    print(json.dumps(found))


@pytest.fixture(scope="module")
def fused(request: pytest.FixtureRequest) -> dict[str, Any]:
    if jax.__version_info__ < (0, 10):
        pytest.skip("this XLA:CPU has one mode")
    root = Path(__file__).parents[2]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(root)}
    asked = [x.callspec.params["name"] for x in request.session.items if "fused" in getattr(x, "fixturenames", ())]
    command = [sys.executable, "-c", "import tests.xla.test_fused as t; t.report()", *dict.fromkeys(asked)]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LEAST)
def test_each_array_is_read_and_written_once(name: str, dtype: str, fused: dict[str, Any]):
    moved, kept, _ = fused[f"{name} {dtype}"]
    assert moved <= 1.02 * LEAST[name][dtype == "bfloat16"]
    most = {"guard float32": 1, "guard bfloat16": 1, "adan bfloat16": 2}  # a byte for what is not finite
    most |= {"words float32": 2, "words bfloat16": 3}
    assert kept <= 0.1 + most.get(f"{name} {dtype}", 0)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_first_mode(name: str, dtype: str, fused: dict[str, Any]):
    _, expected = results(name, dtype)
    for x, y in zip(fused[f"{name} {dtype}"][2], expected, strict=True):
        # Of 16 bits the last ones, of parameters about 1 and of updates of 1e-2.
        rtol, atol = (2e-6, 1e-7) if dtype == "float32" else (2**-6, 1e-4)
        np.testing.assert_allclose(x, y, rtol, atol)


def test_an_expression_of_its_own_is_the_same_number():
    x = jnp.array([0.0, -0.0, 1e-40, jnp.inf, -jnp.inf, jnp.nan, 3.0])
    for dtype in ("float32", "bfloat16", "float16"):
        if dtype == "bfloat16" and jax.__version_info__ < (0, 6):
            x = x.at[2].set(0)  # this XLA flushes it
        for number in range(12):
            y = jax.jit(own, static_argnums=1)(x.astype(dtype), number)
            np.testing.assert_array_equal(y.astype("float32"), x.astype(dtype).astype("float32"))


def test_an_output_alone_is_made_of_inputs_or_of_new_slots():
    def rule(g: Any, mu: Any) -> Any:
        new = 0.5 * mu + g
        return -new, new

    closed = jax.make_jaxpr(rule)(jnp.ones(3), jnp.ones(3))
    assert len(made_of(closed, 0, []).eqns) == 3
    alone = made_of(closed, 0, [closed.jaxpr.outvars[1]])
    assert len(alone.eqns) == 1
    assert jaxpr_as_fun(alone)(jnp.ones(3), jnp.ones(3), jnp.full(3, 2.0))[0].tolist() == [-2.0] * 3


@pytest.mark.skipif(writes_several(), reason="this process is in the second mode")
def test_it_is_too_late_once_jax_has_started():
    flags, devices = os.environ["XLA_FLAGS"], len(jax.devices())
    with pytest.raises(RuntimeError, match=r"gdjax\.fuse_cpu_outputs: JAX has started"):
        gdjax.fuse_cpu_outputs()
    assert os.environ["XLA_FLAGS"] == flags and len(jax.devices()) == devices
    assert MOST == 20  # XLA's `kMaxOperands`


def test_an_option_that_is_off_is_not_taken_for_one_that_is_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=false")
    loops.writes_several.cache_clear()
    off = loops.writes_several()
    monkeypatch.undo()
    loops.writes_several.cache_clear()
    assert not off
