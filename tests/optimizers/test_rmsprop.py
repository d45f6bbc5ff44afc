"""RMSProp with all its options, and the error in the notes' listing."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import optax
import pytest

import gdjax
from tests import oracles
from tests.papers.descent import rmsprop
from tests.support import relaxed

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def rmsprop_as_listed(x: Any, gradient: Any, lr: float = 0.01, decay: float = 0.9, eps: float = 1e-8) -> Iterator[Any]:
    """The notes' listing to the letter: `cache += decay * cache + (1 - decay) * dx**2`."""
    cache = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        dx = gradient(t, x)
        cache += decay * cache + (1 - decay) * dx**2
        x = x - lr * dx / np.sqrt(cache + eps)
        yield x, {"nu": cache}


def rmsprop_as_torch(
    x: Any, gradient: Any, lr: Any, decay: float = 0.99, eps: float = 1e-8, momentum: float = 0.5
) -> Any:
    """The rate multiplies the sum of directions."""
    nu, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        nu = decay * nu + (1 - decay) * g**2
        v = momentum * v + g / (np.sqrt(nu) + eps)
        x = x - oracles.at(lr, t) * v
        yield x, {"nu": nu, "trace": v}


# With bias correction and nu_0 = 0 the first variance, g^2 - g^2, is rounding alone, and the first step g / sqrt(eps):
# the rounding of 1e-7 g^2 in float32, beside an eps of 1e-8, would change it by a factor of 3. In float64 it is 1e-16
# g^2 and changes the step by 1e-8 of it. The rate makes that step g.
FIRST_STEP_FROM_EPS = {"learning_rate": 1e-4, "centered": True, "bias_correction": True}


def test_variance_of_one_gradient():
    tx, oracle = (functools.partial(f, **FIRST_STEP_FROM_EPS) for f in (gdjax.rmsprop, rmsprop))
    oracles.assert_follows(tx(), oracle, "float64", rtol=1e-6, atol=1e-6)
    with relaxed():
        want = oracles.run(optax.rmsprop(**FIRST_STEP_FROM_EPS), "float64")
    oracles.assert_same(oracles.run(tx(), "float64"), want, rtol=1e-6, atol=1e-6)


def test_the_notes_listing_is_another_method():
    assert oracles.distance(rmsprop, rmsprop_as_listed) > 0.1
    _, state = oracles.expected(rmsprop_as_listed)
    assert state["nu"]["matrix"][-1].min() > 1e10  # the cache nearly doubles with every step
    with pytest.raises(AssertionError, match="params"):
        oracles.assert_follows(gdjax.rmsprop(0.01), rmsprop_as_listed, "float32")


@pytest.mark.parametrize("kwargs", [{"bias_correction": b, "initial_scale": 0.5} for b in (False, True)])
def test_directions(kwargs):
    for scale_by, centered in ((gdjax.scale_by_rms, False), (gdjax.scale_by_stddev, True)):
        want = oracles.expected(functools.partial(rmsprop, learning_rate=-1 / 16, centered=centered, **kwargs))
        got = oracles.run(gdjax.chain(scale_by(**kwargs), gdjax.scale(1 / 16)))
        oracles.assert_same(got, want, rtol=1e-5, atol=1e-5)


@DTYPES
def test_torchs_momentum(dtype):
    run = functools.partial(rmsprop_as_torch, lr=oracles.fall)
    oracles.assert_follows(gdjax.rmsprop(oracles.fall, momentum=0.5, like="torch"), run, dtype)
    as_optax = {"learning_rate": oracles.fall, "decay": 0.99, "eps_in_sqrt": False, "momentum": 0.5}
    assert oracles.distance(run, functools.partial(rmsprop, **as_optax)) > 1e-2  # the rate falls in step 20


@DTYPES
def test_the_paper_has_no_eps(dtype):
    def oracle(x: Any, gradient: Any) -> Iterator[Any]:
        nu = np.zeros(np.shape(x))
        for t in range(1, oracles.STEPS + 1):
            g = gradient(t, x)
            nu = 0.9 * nu + 0.1 * g**2
            x = x - 0.01 * g / np.sqrt(np.where(nu == 0, 1, nu))
            yield x, {"nu": nu}

    oracles.assert_follows(gdjax.rmsprop(0.01, like="paper"), oracle, dtype)
