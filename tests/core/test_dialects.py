"""The argument `like`: defaults of other implementations, and the rule behind them."""

import functools
import inspect
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core import misuse
from tests.trees import assert_equal, random_tree, steps

FACTORIES = [
    f for f in map(functools.partial(getattr, gdjax), gdjax.__all__)
    if inspect.isfunction(f) and "like" in inspect.signature(f).parameters
]  # fmt: skip
PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2, 3)]
EACH = pytest.mark.parametrize("factory", FACTORIES, ids=lambda f: f.__name__)


def made(factory: Any, **given: Any) -> Any:
    return factory(0.1, **given)


def test_which_factories_have_dialects():
    names = {f.__name__ for f in FACTORIES}
    assert names == {"adafactor", "adagrad", "amsgrad", "muon", "nadam", "nadamw", "radam", "rmsprop"}


@EACH
def test_the_default_is_optax(factory):
    parameter = inspect.signature(factory).parameters["like"]
    assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, "optax")
    assert made(factory) == made(factory, like="optax")


@EACH
@pytest.mark.parametrize("like", ["torch", "paper"])
def test_a_dialect_is_a_call_with_its_defaults_written_out(factory, like):
    defaults = dict(misuse.defaults(factory, like))
    tx = factory(**{"learning_rate": 0.1, **defaults}, like=like)
    given = {} if "learning_rate" in defaults else {"learning_rate": 0.1}
    assert factory(**given, like=like) == factory(**{**defaults, **given}, like=like)
    shown = repr(factory(**given, like=like))
    assert all(f"{name}={value!r}" in shown for name, value in defaults.items())
    assert pickle.loads(pickle.dumps(tx)) == tx
    for name, value in defaults.items():  # all are arguments of the factory, with another default
        assert inspect.signature(factory).parameters[name].default != value


def test_what_a_call_gives_stays():
    # 1e-7 is Optax's default of eps, and here it is given.
    tx = gdjax.adagrad(0.1, eps=1e-7, like="torch")
    assert repr(tx) == "adagrad(learning_rate=0.1, initial_accumulator_value=0.0, eps=1e-07, like='torch')"
    assert gdjax.adagrad(0.1, 0.1, 1e-7, like="torch") != gdjax.adagrad(0.1, like="torch")
    partial = functools.partial(gdjax.adagrad, like="torch")
    assert partial(0.1) == gdjax.adagrad(0.1, 0.0, 1e-10, like="torch")


@EACH
def test_an_unknown_dialect(factory):
    for like in ("keras", None, ["torch"], 1):
        message = rf"^gdjax\.{factory.__name__}: like must be one of optax, torch, paper, got "
        with pytest.raises(ValueError, match=message):
            made(factory, like=like)
        with pytest.raises(ValueError, match=message):
            gdjax.inject_hyperparams(factory)(0.1, like=like)


def test_a_method_without_dialects():
    with pytest.raises(TypeError, match=r"^gdjax\.adamax: unknown argument 'like'"):
        gdjax.adamax(0.1, like="torch")  # type: ignore[call-arg]


@pytest.mark.parametrize("factory", [gdjax.adagrad, gdjax.rmsprop, gdjax.nadam, gdjax.adafactor])
def test_injected_hyperparameters_are_those_of_the_dialect(factory):
    injected, plain = gdjax.inject_hyperparams(factory)(0.1, like="torch"), factory(0.1, like="torch")
    state = injected.init(PARAMS)
    for name, value in misuse.defaults(factory, "torch").items():
        if name in state.hyperparams and name != "learning_rate":
            np.testing.assert_allclose(state.hyperparams[name], value, rtol=1e-6)
    got, want = (steps(tx, PARAMS, GRADIENTS)[0] for tx in (injected, plain))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), got, want)


def test_a_dialect_of_a_factory_behind_a_decorator():
    @gdjax.transform
    @misuse.dialects(torch={"b": 2.0}, paper={})
    def scaled(a: float, b: float = 1.0, *, like: misuse.Dialect = "optax") -> Any:
        return gdjax.chain(gdjax.scale(a), gdjax.scale(b))

    g = jnp.ones(2)
    cases: tuple[tuple[misuse.Dialect, float], ...] = (("optax", 3.0), ("torch", 6.0), ("paper", 3.0))
    for like, want in cases:
        assert_equal(scaled(3.0, like=like).update(g, scaled(3.0).init(g))[0], want * g)
