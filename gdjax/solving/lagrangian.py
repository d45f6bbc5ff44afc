"""Losses of parameters and multipliers: the Lagrangian, and the augmented one with its schedule of penalties."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.core import checks
from gdjax.core.field_docs import with_field_docs
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, Params, Scalar
from gdjax.numerics import widest_real
from gdjax.training import objective
from gdjax.tree.norms import wide

__all__ = ["AugmentedLagrangian", "AugmentedLagrangianState", "Lagrangian", "augmented_lagrangian", "lagrangian"]

Function = Callable[..., Any]
KINDS = "equality", "inequality"
FARTHEST = 1e16  # multipliers go no farther from 0


@with_field_docs
class Lagrangian(NamedTuple):
    """What `lagrangian` returns: functions.

    Attributes:
      init: `init(params, *args)` returns {"x": params, "multipliers": zeros}.
      loss: `loss(tree, *args)` returns the Lagrangian at such a tree.
    """

    init: Function
    loss: Function


@with_field_docs
class AugmentedLagrangianState(NamedTuple):
    """State of an `augmented_lagrangian`.

    Attributes:
      multipliers: {"equality": tree, "inequality": tree}, like what the constraints return, float32 at least.
      penalty: () rho.
      violation: () the largest |h(x)| and |min(g(x), mu / rho)| at the last update; infinite before.
    """

    multipliers: ArrayTree
    penalty: Array
    violation: Array


@with_field_docs
class AugmentedLagrangian(NamedTuple):
    """What `augmented_lagrangian` returns: functions.

    Attributes:
      init: `init(params, *args)` returns an `AugmentedLagrangianState`, of multipliers 0.
      loss: `loss(params, state, *args)` returns L, which is minimized over the parameters.
      update: `update(params, state, *args)` returns the state for the next minimization.
    """

    init: Function
    loss: Function
    update: Function


def lagrangian(loss_fn: Function, equality: Function | None = None, inequality: Function | None = None) -> Lagrangian:
    """The Lagrangian of a loss with the constraints h(x) = 0 and g(x) >= 0, as a loss over one tree.

        L(x, lambda, mu) = f(x) - <lambda, h(x)> - <mu, g(x)>

    At the solution L is stationary in x, mu >= 0 and <mu, g(x)> = 0. `constrained` goes down in x and up in the
    multipliers. lambda is the derivative of the least f by b where h(x) = b, and mu where g(x) >= b.

    Args:
      loss_fn: f, `loss_fn(x, *args)` returns a real scalar.
      equality: h, `equality(x, *args)` returns a real array or a tree of them, to be 0.
      inequality: g, likewise, to be at least 0.

    Raises:
      TypeError: an argument is no function; a loss or a constraint is not real and floating.
      ValueError: there is no constraint.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> game = gdjax.lagrangian(lambda x: jnp.sum(x**2), equality=lambda x: x.sum() - 1)
      >>> tx = gdjax.constrained(gdjax.sgd(0.1), gdjax.sgd(0.1))
      >>> run = gdjax.minimize(game.loss, game.init(jnp.zeros(2)), tx, steps=200)
      >>> print(run.params["x"].round(3), run.params["multipliers"]["equality"].round(3))
      [0.5 0.5] 1.0

    Reference:
      Nocedal & Wright 2006, Numerical optimization, section 12.3
    """
    problem = problem_of("gdjax.lagrangian", loss_fn, equality, inequality)

    def init(params: Params, *args: Any) -> dict[str, Any]:
        return {"x": params, "multipliers": jax.tree.map(jnp.zeros_like, problem.constraints_at(params, args))}

    def loss(variables: dict[str, Any], *args: Any) -> Array:
        params, multipliers = variables["x"], variables["multipliers"]
        return problem.lagrangian(params, multipliers, args)

    return Lagrangian(init, loss)


def augmented_lagrangian(
    loss_fn: Function, equality: Function | None = None, inequality: Function | None = None,
    *, penalty: Scalar = 1.0, growth: Scalar = 10.0, decrease: Scalar = 0.5, max_penalty: Scalar | None = None,
) -> AugmentedLagrangian:  # fmt: skip
    """The augmented Lagrangian of Powell, Hestenes and Rockafellar, for the constraints h(x) = 0 and g(x) >= 0.

        L(x; lambda, mu, rho) = f - <lambda, h> + rho / 2 |h|^2 + (|max(0, mu - rho g)|^2 - |mu|^2) / (2 rho)

        lambda <- lambda - rho h(x),    mu <- max(0, mu - rho g(x))
        rho <- growth rho    unless the largest of |h(x)| and |min(g(x), mu / rho)| fell to `decrease` of the last one

    Minimize `loss` over the parameters by any optimizer, update the state, and so on: `solve_constrained` is that loop.

    Args:
      loss_fn, equality, inequality: f, h and g, as for `gdjax.lagrangian`.
      penalty: the first rho, above 0.
      growth: above 1.
      decrease: between 0 and 1.
      max_penalty: the largest rho; None is 1 / (100 eps), 8e4 in float32 and 4.5e13 in float64.

    Multipliers end at -1e16 and 1e16.

    Raises:
      TypeError: an argument is no function; a loss or a constraint is not real and floating.
      ValueError: there is no constraint; a number is out of range.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> al = gdjax.augmented_lagrangian(lambda x: jnp.sum(x**2), inequality=lambda x: x[0] - 1)
      >>> x = jnp.zeros(2)
      >>> state = al.init(x)
      >>> for _ in range(10):
      ...     x = gdjax.solve(al.loss, x, gdjax.lbfgs(), state).params
      ...     state = al.update(x, state)
      >>> print(x.round(3), state.multipliers["inequality"].round(3))
      [1. 0.] 2.0

    Reference:
      Birgin & Martínez 2014, Practical augmented Lagrangian methods for constrained optimization, Algorithm 4.1,
      https://doi.org/10.1137/1.9781611973365; Nocedal & Wright 2006, section 17.4.
    """
    label = "gdjax.augmented_lagrangian"
    problem = problem_of(label, loss_fn, equality, inequality)
    checks.unscheduled(label, {"penalty": penalty, "growth": growth, "decrease": decrease, "max_penalty": max_penalty})
    ranges = {"penalty": (penalty, 0, jnp.inf), "growth": (growth, 1, jnp.inf), "decrease": (decrease, 0, 1)}
    for name, (x, low, high) in {**ranges, "max_penalty": (max_penalty, 0, jnp.inf)}.items():
        if isinstance(x, checks.NUMBER) and not low < x < high:
            raise ValueError(f"{label}: {name} must be between {low} and {high}, got {x}")

    def init(params: Params, *args: Any) -> AugmentedLagrangianState:
        f, c = problem.at(params, args)
        dtype = widest_real((f, c))
        rho = jnp.asarray(penalty).astype(dtype)
        zeros = jax.tree.map(jnp.zeros_like, c)
        return AugmentedLagrangianState(zeros, rho, jnp.full((), jnp.inf, dtype))

    def loss(params: Params, state: AugmentedLagrangianState, *args: Any) -> Array:
        f, c = problem.at(params, args)
        rho = lambda c: state.penalty.astype(c.dtype)
        equal = lambda c, m: c * (rho(c) / 2 * c - m)
        at_least = lambda c, m: (jnp.maximum(m - rho(c) * c, 0) ** 2 - m**2) / (2 * rho(c))
        return _total(f, each(equal, at_least, c, problem.fit(state.multipliers, c)))

    def update(params: Params, state: AugmentedLagrangianState, *args: Any) -> AugmentedLagrangianState:
        c = problem.constraints_at(params, args)
        multipliers, old = problem.fit(state.multipliers, c), state.violation
        rho = lambda c: state.penalty.astype(c.dtype)
        new = each(
            lambda c, m: jnp.clip(m - rho(c) * c, -FARTHEST, FARTHEST),
            lambda c, m: jnp.clip(m - rho(c) * c, 0, FARTHEST), c, multipliers,
        )  # fmt: skip
        missed = each(lambda c, m: c, lambda c, m: jnp.minimum(c, m / rho(c)), c, multipliers)
        violation = largest(missed, old.dtype)
        number = lambda x: jnp.asarray(x).astype(old.dtype)
        most = number(largest_penalty(old.dtype) if max_penalty is None else max_penalty)
        grown = jnp.maximum(state.penalty, jnp.minimum(number(growth) * state.penalty, most))
        enough = violation <= number(decrease) * old
        return AugmentedLagrangianState(new, jnp.where(enough, state.penalty, grown), violation)

    return AugmentedLagrangian(init, loss, update)


class Constrained(NamedTuple):
    """A loss and its constraints, whose results are checked while they are traced."""

    label: str
    loss: Function
    constraints: dict[str, Function | None]

    def at(self, params: Params, args: Any) -> tuple[Array, dict[str, Any]]:
        """f and the constraints there, in float32 or wider."""
        return wide(self.loss(params, *args)[0]), self.constraints_at(params, args)

    def constraints_at(self, params: Params, args: Any) -> dict[str, Any]:
        return {name: f and self.checked(name, f(params, *args)) for name, f in self.constraints.items()}

    def lagrangian(self, params: Params, multipliers: Any, args: Any) -> Array:
        f, c = self.at(params, args)
        product = lambda c, m: -m * c
        return _total(f, each(product, product, c, self.fit(multipliers, c)))

    def checked(self, name: str, result: ArrayTree) -> Any:
        """What the constraint returned, as arrays."""
        if result is None:
            raise TypeError(f"{self.label}: {name} returned None, not an array or a tree of them; no return?")
        for where, c in named_leaves(name, result):
            checks.array(self.label, where, c)
            if not jnp.issubdtype(dtype := jnp.result_type(c), jnp.floating):
                truth = "; return the difference, x - 1 for x >= 1" if dtype == jnp.bool_ else ""
                parts = "; return the real and the imaginary part" if jnp.iscomplexobj(c) else ""
                raise TypeError(f"{self.label}: {where} has dtype {dtype}, and must be real and floating{truth}{parts}")
        return jax.tree.map(lambda c: wide(jnp.asarray(c)), result)

    def fit(self, multipliers: Any, c: dict[str, Any]) -> Any:
        """The multipliers; raises unless they are like the constraints."""
        paths, structure = jax.tree_util.tree_flatten_with_path(c)
        ms = checks.flatten_like(self.label, ("the constraints", "multipliers"), structure, c, multipliers)
        for (path, x), m in zip(paths, ms, strict=True):
            if jnp.shape(m) != x.shape:
                where = jax.tree_util.keystr(path)
                raise ValueError(
                    f"{self.label}: multipliers{where} has shape {jnp.shape(m)}, and the constraint returns {x.shape}"
                )
        return structure.unflatten([m.astype(x.dtype) for (_, x), m in zip(paths, ms, strict=True)])


def problem_of(label: str, loss_fn: Any, equality: Any, inequality: Any) -> Constrained:
    """The functions, checked."""
    constraints = {"equality": equality, "inequality": inequality}
    for name, f in {"loss_fn": loss_fn, **constraints}.items():
        if not (callable(f) or (f is None and name != "loss_fn")):
            raise TypeError(f"{label}: {name} must be a function of the parameters, got {f!r}")
    if equality is None and inequality is None:
        raise ValueError(f"{label}: there is no constraint; pass equality= or inequality=, or take gdjax.solve")
    return Constrained(label, objective.checked(label, loss_fn, False, None), constraints)


def each(equal: Function, at_least: Function, *trees: dict[str, Any]) -> dict[str, Any]:
    """One function of the equalities, leaf by leaf, and another one of the inequalities."""
    return {name: jax.tree.map(f, *(t[name] for t in trees)) for name, f in zip(KINDS, (equal, at_least), strict=True)}


def largest(c: ArrayTree, dtype: Any) -> Array:
    """The largest size of a number in a tree; 0 where there is none."""
    return jnp.maximum(tree.norm(c, "inf"), 0).astype(dtype)


def largest_penalty(dtype: Any) -> float:
    return 0.01 / float(jnp.finfo(dtype).eps)


def _total(f: Array, terms: ArrayTree) -> Array:
    dtype = widest_real((f, terms))
    return f.astype(dtype) + tree.sum(terms).astype(dtype)
