"""Updates outside of `jit`: their bits depend on the arguments alone, and new numbers compile nothing anew."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.closures import Form
from gdjax.core.values import value_of
from tests.conftest import Compiled

ROOT = Path(__file__).parents[2]
GRADIENTS = [jax.random.normal(jax.random.key(i), (5, 4)) for i in range(3)]
LABELS = ["a", "b", "a"]


@gdjax.leafwise()
def _scaled(g: Any, s: Any, p: Any, t: Any, rate: Any) -> tuple[Any, Any]:
    return g * rate, s


@gdjax.leafwise()
def _by_value(g: Any, s: Any, p: Any, t: Any, power: Any = 0.25) -> tuple[Any, Any]:
    return (g if power > 0.2 else -g), s


@gdjax.transform
def _clipped(rate: float) -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(3 * rate), gdjax.adamw(rate, weight_decay=rate / 7))


@gdjax.transform
def _around(rate: float) -> Any:
    return _clipped(rate)


MAKERS: dict[str, Callable[[float], Any]] = {
    "adam": gdjax.adam,
    "adamw and its decay": lambda r: gdjax.adamw(r, weight_decay=r / 3),
    "sgd": lambda r: gdjax.sgd(r, momentum=0.9),
    "a small momentum": lambda r: gdjax.sgd(0.1, momentum=r),
    "a rate above 1/2": lambda r: gdjax.adam(3.1 * r),
    "a negative factor": lambda r: gdjax.scale(-r),
    "chain": lambda r: gdjax.chain(gdjax.clip(r), gdjax.adam(r)),
    "groups": lambda r: gdjax.partition({"a": gdjax.sgd(r), "b": gdjax.adam(r)}, LABELS),
    "masked": lambda r: gdjax.masked(gdjax.sgd(r), [True, False, True]),
    "per leaf": lambda r: gdjax.adam(gdjax.per_leaf(r, {"0": 0.5})),
    "a mask of the decay": lambda r: gdjax.adamw(r, mask=[True, False, True]),
    "names": lambda r: gdjax.named_chain(("clip", gdjax.clip(r)), ("adam", gdjax.adam(r))),
    "frozen": lambda r: gdjax.selective_transform(gdjax.sgd(r), freeze_mask=[True, False, True]),
    "injected": lambda r: gdjax.inject_hyperparams(gdjax.sgd)(r),
    "wrapper": lambda r: gdjax.cautious(gdjax.adam(r)),
    "branches": lambda r: gdjax.MultiSteps(gdjax.adam(r), 2),
    "codes": lambda r: gdjax.quantize_state(gdjax.adamw(r)),
    "matrices": gdjax.muon,
    "a schedule of the rate": lambda r: gdjax.adafactor(r, like="torch"),
    "an array": lambda r: gdjax.adam(jnp.float32(r)),
    "a NumPy number": lambda r: gdjax.adam(np.float64(r)),
    "a rule of the program's": _scaled,
    "a factory of the program's": _clipped,
    "two factories of the program's": _around,
    "a factory of the program's inside": lambda r: gdjax.chain(_around(r), gdjax.scale(0.25)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_new_numbers_compile_nothing_anew(name: str):
    make = MAKERS[name]
    state = make(0.31).init(GRADIENTS)

    def update(rate: float) -> Any:
        tx = make(rate)  # what makes it may divide arrays
        before = Compiled.programs
        u, _ = tx.update(GRADIENTS, state, GRADIENTS)
        return u, Compiled.programs - before

    update(0.31)
    for rate in (0.3, 0.2, 0.1):
        u, programs = update(rate)
        assert programs == 0
        wanted, _ = jax.jit(make(rate).update)(GRADIENTS, state, GRADIENTS)
        jax.tree.map(np.testing.assert_array_equal, u, wanted)


def scheduled(rate: Any, after: Any = 0.0) -> Any:
    def schedule(count: Any, after: Any = after) -> Any:
        return jnp.where(count == 0, rate, after)

    return Form(value_of(gdjax.sgd(schedule).update))


def test_arrays_in_closures_are_leaves():
    rates = jnp.float32(0.1), jnp.float32(0.3)
    one, other = map(scheduled, rates)
    assert one == other != scheduled(0.1) and one.leaves[0] is rates[0]
    assert one != scheduled(rates[0], 0.5)
    tx, wanted = one.filled(other.leaves), value_of(other.made)
    for x in (tx, wanted):
        state = gdjax.sgd(lambda count: 0.0).init(GRADIENTS)
        u, _ = x(GRADIENTS, state, GRADIENTS)
        jax.tree.map(np.testing.assert_array_equal, u, [-rates[1] * g for g in GRADIENTS])
    assert one.filled(one.leaves) is one.made


def test_closures_over_themselves_and_over_nothing_yet():
    factor = jnp.float32(2.0)

    def falling(count: Any, left: int = 2) -> Any:
        return falling(count, left - 1) if left else factor * 0.1

    def early(count: Any) -> Any:
        return later

    forms = [Form(value_of(gdjax.sgd(f).update)) for f in (falling, early)]
    later = 0.5
    assert [len(form.leaves) for form in forms] == [1, 0] and early(0) == later
    u, _ = forms[0].filled([jnp.float32(3.0)])(GRADIENTS, gdjax.sgd(falling).init(GRADIENTS), GRADIENTS)
    assert jax.tree.structure(u) == jax.tree.structure(GRADIENTS)


def test_what_stays_a_constant():
    """A decay near 1, of which 1 - b is wanted; 0 and infinity, which leave something out; what is no float."""
    forms = lambda *xs: len({value_of(x.update).form for x in xs})
    assert forms(gdjax.adam(0.1), gdjax.adam(0.2), gdjax.adam(0.2, eps=1e-6)) == 1
    assert forms(gdjax.adam(0.1), gdjax.adam(0.1, b2=0.99)) == 2
    assert forms(gdjax.adamw(0.1), gdjax.adamw(0.1, weight_decay=0.0)) == 2
    assert forms(gdjax.scale(2), gdjax.scale(3), gdjax.scale(3.0)) == 3
    assert forms(_clipped(0.1), _around(0.1), gdjax.adam(0.1)) == 3
    assert forms(gdjax.chain(gdjax.sgd(0.1), gdjax.scale(2.5)), gdjax.chain(gdjax.sgd(0.2), gdjax.scale(3.5))) == 1
    assert value_of(gdjax.trace(0.999).update).form.leaves == []


def test_a_rule_that_decides_by_a_number():
    for power, sign in ((0.25, 1.0), (0.125, -1.0), (0.3, 1.0)):
        for tx in (_by_value(power), gdjax.chain(_by_value(power), gdjax.scale(1.0))):
            u, _ = tx.update(GRADIENTS, tx.init(GRADIENTS))
            jax.tree.map(np.testing.assert_array_equal, u, [sign * g for g in GRADIENTS])


def test_a_factory_of_the_program_that_alone_can_make_its_transform():
    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return jax.tree.map(lambda g: 2 * g, updates), state

    update.__module__ = "jax.numpy"  # a function of the program's would be called in every step
    calls = []

    @gdjax.transform
    def mine() -> Any:
        calls.append(1)
        return gdjax.GradientTransformation(gdjax.init_empty_state, update)

    for tx in (mine(), gdjax.chain(mine(), gdjax.scale(1.0))):
        u, _ = tx.update(GRADIENTS, tx.init(GRADIENTS))
        jax.tree.map(np.testing.assert_array_equal, u, [2 * g for g in GRADIENTS])
    assert len(calls) == 2


def test_a_factory_of_the_program_is_not_called_by_an_update():
    calls = []

    @gdjax.transform
    def mine(rate: float) -> Any:
        calls.append(rate)
        return gdjax.sgd(rate)

    for tx in (mine(0.25), gdjax.chain(mine(0.125), gdjax.scale(3.0))):
        tx.update(GRADIENTS, tx.init(GRADIENTS))
    assert calls == [0.25, 0.125]


def test_under_a_transfer_guard():
    state = gdjax.adam(0.21).init(GRADIENTS)
    with jax.transfer_guard("disallow"):
        u, _ = gdjax.adam(0.21).update(GRADIENTS, state, GRADIENTS)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            gdjax.adam(0.21).update([np.ones((5, 4), np.float32)] * 3, state, GRADIENTS)
    jax.tree.map(np.testing.assert_array_equal, u, gdjax.adam(0.21).update(GRADIENTS, state, GRADIENTS)[0])


PROGRAM = """
import hashlib, sys
import jax, numpy as np
import gdjax
from tests.core.test_forms import GRADIENTS, MAKERS, bits_of

def trained(make, rate):
    p, tx = GRADIENTS, make(rate)
    s = tx.init(p)
    for _ in range(3):
        u, s = tx.update(jax.tree.map(lambda x: 0.7 * x, p), s, p)
        p = gdjax.apply_updates(p, u)
    return p, s

if sys.argv[1] == "others":
    for i in range(1, 21):
        for name in ("adam", "adamw and its decay", "a factory of the program's"):
            tx = MAKERS[name](0.3 / i)
            tx.update(GRADIENTS, tx.init(GRADIENTS), GRADIENTS)
print(*(bits_of(trained(MAKERS[n], 0.0123)) for n in ("adamw and its decay", "a factory of the program's", "wrapper")))
"""


def bits_of(tree: Any) -> str:
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(tree))).hexdigest()[:16]


@pytest.mark.programs
def test_bits_do_not_depend_on_what_the_process_did_before():
    """Two processes; in one of them twenty other optimizers of the same factories were called before."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    run = lambda how: subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    alone, others = run("alone").stdout, run("others").stdout
    assert len(alone.split()) == 3 and alone == others
