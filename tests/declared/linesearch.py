"""Line searches and quasi-Newton methods. Those of Optax are compared with it in tests/linesearch/test_parity.py."""

from typing import Any

import jax
import jax.numpy as jnp

import gdjax
from gdjax import numerics
from gdjax.core.base import is_float0
from tests.declare import Case


def height(params: Any) -> Any:
    """The function that the cases search."""
    leaves = jax.tree.leaves(params)
    real = numerics.widest_real(leaves)
    return sum((jnp.sum(numerics.abs_sq(x)) / 2 for x in numerics.widen(leaves, real)), jnp.zeros((), real))


@gdjax.transform
def searched(tx: Any) -> gdjax.GradientTransformation:
    """`tx` with what a line search asks of the caller: the value, the gradient and the function."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        known = {} if params is None else {"value": height(params), "grad": params, "value_fn": height}
        return tx.update(updates, state, params, **known)

    return gdjax.GradientTransformation(tx.init, update)


def _lbfgs(learning_rate: Any) -> Any:
    return searched(gdjax.lbfgs(learning_rate, memory_size=2, linesearch=None))


def _dense(name: str, **fixed: Any) -> Any:
    return lambda learning_rate: searched(getattr(gdjax, name)(learning_rate, linesearch=None, **fixed))


def _zoom() -> Any:
    return searched(gdjax.lbfgs(memory_size=2))


def _backtracking(learning_rate: Any) -> Any:
    return searched(gdjax.chain(gdjax.sgd(learning_rate), gdjax.scale_by_backtracking_linesearch(5)))


@gdjax.transform
def solved(tx: Any) -> gdjax.GradientTransformation:
    """`tx` with residuals that are equal to the updates at these parameters; their Jacobian is the identity.

    One more, which is always zero, makes them a list for a tree of one scalar and for one without numbers.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        def residuals(p: Any) -> Any:
            gs, structure = jax.tree.flatten(updates)
            now, then = structure.flatten_up_to(p), structure.flatten_up_to(params)
            rs = [g + (x - old).astype(g.dtype) for g, x, old in zip(gs, now, then, strict=True) if not is_float0(g)]
            parts = [part for r in rs for part in ((r.real, r.imag) if jnp.iscomplexobj(r) else (r,))]
            return [*parts, jnp.zeros(1, parts[0].dtype)] if parts else parts

        return tx.update(updates, state, params, residual_fn=residuals)

    return gdjax.GradientTransformation(tx.init, update)


def _gauss_newton(radius: Any) -> Any:
    return solved(gdjax.gauss_newton(radius=radius))


def _plain_gauss_newton(damping: Any) -> Any:
    return solved(gdjax.gauss_newton(damping))


def _spring(damping: Any) -> Any:
    return solved(gdjax.gauss_newton(damping, max_tries=0, momentum=0.9, max_norm=3.0))


def _proximal_gradient(**kwargs: Any) -> Any:
    return searched(gdjax.proximal_gradient(**kwargs))


def _proximal(learning_rate: Any) -> Any:
    return gdjax.proximal(gdjax.adam(learning_rate), gdjax.prox.l1(0.1))


def _anderson(learning_rate: Any) -> Any:
    return gdjax.anderson(gdjax.sgd(learning_rate), 2)


@gdjax.transform
def _on_simplex(learning_rate: Any) -> gdjax.GradientTransformation:
    """Mirror descent at parameters that are distributions, though those of the tests are not."""
    tx, onto = gdjax.mirror_descent(learning_rate), lambda ps: jax.tree.map(_softmax, ps)
    update = lambda updates, state, params=None, **extra: tx.update(updates, state, onto(params), **extra)
    return gdjax.GradientTransformation(lambda params: tx.init(onto(params)), update)


def _softmax(p: Any) -> Any:
    if isinstance(p, jax.ShapeDtypeStruct) or not jnp.issubdtype(jnp.result_type(p), jnp.floating) or not jnp.size(p):
        return p
    wide = jnp.asarray(p).astype(numerics.at_least_float32(jnp.result_type(p)))
    return jax.nn.softmax(wide, -1 if wide.ndim else None).astype(jnp.result_type(p))


@gdjax.transform
def _without_multipliers(tx: Any) -> gdjax.GradientTransformation:
    inside = lambda tree: None if tree is None else {"x": tree, "multipliers": {}}

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        updates, state = tx.update(inside(updates), state, inside(params))
        return updates["x"], state

    return gdjax.GradientTransformation(lambda params: tx.init(inside(params)), update)


def _constrained(learning_rate: Any) -> Any:
    return _without_multipliers(gdjax.constrained(gdjax.sgd(learning_rate), gdjax.sgd(0.1)))


CASES = (
    Case("anderson", _anderson, {"learning_rate": 0.1}, needs_params=True),
    Case("mirror_descent", _on_simplex, {"learning_rate": 0.1}, needs_params=True, complex=False),
    Case("constrained", _constrained, {"learning_rate": 0.1}, needs_params=True),
    Case("proximal_gradient", _proximal_gradient, {"learning_rate": 0.1}, needs_params=True),
    Case("proximal_gradient/search", _proximal_gradient, needs_params=True, reverse=False),
    Case("proximal", _proximal, {"learning_rate": 0.1}, quiet={"learning_rate": 0.0}, needs_params=True),
    Case("lbfgs", _lbfgs, {"learning_rate": 0.1}, needs_params=True),
    Case("scale_by_lbfgs", _lbfgs, {"learning_rate": 0.1}, needs_params=True, slow=True),
    Case("nonlinear_cg", _dense("nonlinear_cg"), {"learning_rate": 0.1}),
    Case("scale_by_nonlinear_cg", gdjax.scale_by_nonlinear_cg, fixed={"method": "dai-yuan"}, slow=True),
    Case("bfgs", _dense("bfgs"), {"learning_rate": 0.1}, needs_params=True),
    Case("scale_by_bfgs", _dense("bfgs", self_scaling=True), {"learning_rate": 0.1}, needs_params=True, slow=True),
    Case("bfgs/bounds", _dense("bfgs", bounds=(-3.0, 3.0)), {"learning_rate": 0.1}, needs_params=True, complex=False),
    Case("ssbroyden", _dense("ssbroyden"), {"learning_rate": 0.1}, needs_params=True),
    Case("scale_by_ssbroyden", _dense("ssbroyden"), {"learning_rate": 0.1}, needs_params=True, slow=True),
    Case("gauss_newton", _gauss_newton, {"radius": 0.1}, needs_params=True, scheduled=False, reverse=False),
    Case(
        "gauss_newton/plain", _plain_gauss_newton, {"damping": 0.1}, needs_params=True, scheduled=False, reverse=False
    ),
    Case("gauss_newton/spring", _spring, {"damping": 0.1}, needs_params=True),
    Case("scale_by_zoom_linesearch", _zoom, needs_params=True, reverse=False),
    Case("scale_by_backtracking_linesearch", _backtracking, {"learning_rate": 0.1}, needs_params=True),
)
TWINS = ()
