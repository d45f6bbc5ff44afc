"""The loop of `minimize` as a pure function, which jit, vmap and derivatives go through."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.combine.chain import Chain
from gdjax.combine.conditional import eval_params
from gdjax.core import base, callers, checks, meshes, misuse
from gdjax.core.field_docs import with_field_docs
from gdjax.core.parts import calls_of, known
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.linesearch.backtracking import scale_by_backtracking_linesearch
from gdjax.linesearch.line import searches, value_and_grad_from_state
from gdjax.linesearch.zoom import scale_by_zoom_linesearch
from gdjax.numerics import widest_real
from gdjax.optimizers.gauss_newton import GaussNewtonState
from gdjax.optimizers.proximal import proximal_gradient
from gdjax.solving import implicit
from gdjax.solving.implicit import Implicit, Reals, Unrolled
from gdjax.training import objective
from gdjax.training.stationary import gradient_mapping, parts_of, projected_norm
from gdjax.training.step import Gradient, Inputs, change, is_steady, none_lower, norm_of, updated
from gdjax.tree.arithmetic import conj

__all__ = ["Solution", "solve"]

LABEL = "gdjax.solve"
CONVERGED, ALL_STEPS, NOT_FINITE, NO_LOWER_POINT, STEADY = range(5)
WORDS = (
    "converged", "all steps done", "not finite", "the line search finds no lower point", "the residuals hardly fall",
)  # fmt: skip
RUNNING = ALL_STEPS  # what the status is while the loop runs
NO_BATCH = Inputs((), np.int32(0), None)


@with_field_docs
class Solution(NamedTuple):
    """What `solve` returns: arrays all, so that a function that solves may be compiled, batched and differentiated.

    Attributes:
      params: the parameters at the end, averaged where the optimizer keeps an average (`eval_params`).
      value: () the loss there.
      error: () the norm of the gradient at the last step; with bounds or a proximal map that of p - prox(p - gradient).
      steps: () int32, updates made.
      status: () int32: 0 converged, the error is within the tolerance; 1 all steps done; 2 the loss or its gradient
        was not finite; 3 the line search finds no lower point, along the gradient neither; 4 the residuals hardly
        fall, by the `decrease_tol` of `gauss_newton`.
      aux: the second part of the loss at `params`, with `has_aux`; else None.
    """

    params: Params
    value: Array
    error: Array
    steps: Array
    status: Array
    aux: ArrayTree = None

    @property
    def converged(self) -> Array:
        """() bool, whether the status is 0 or 4."""
        return (self.status == CONVERGED) | (self.status == STEADY)

    @property
    def message(self) -> Any:
        """The status in words; an array of words for a batch of solutions. Not under a transformation."""
        words = np.asarray(WORDS)[np.asarray(self.status)]
        return str(words) if words.ndim == 0 else words


class Loop(NamedTuple):
    """What one step of `solve` leaves to the next."""

    params: Params
    state: OptState
    value: Array  # () the loss at `params`
    grads: list[Array]  # the gradient there, of the floating leaves
    error: Array  # ()
    count: Array  # () int32
    status: Array  # () int32
    failures: Array  # () int32, line searches in a row that found no lower point


class Problem(NamedTuple):
    """A loss, of which all arguments but the parameters are fixed, and the optimizer for it."""

    loss: Callable[[Params], Array]
    tx: Transform
    functions: dict[str, Callable[[Params], Any]]

    def value_and_grad(self, params: Params) -> tuple[Array, list[Array]]:
        value, grads = jax.value_and_grad(self.loss, allow_int=True)(params)
        return value, _floating(conj(grads))

    def stored(self, params: Params, state: OptState) -> tuple[Array, list[Array]]:
        """Both, read from the state where the last part of the optimizer is a line search, which evaluated them."""
        if not (_ends_in_search(self.tx) and len(_floating(params)) == len(jax.tree.leaves(params))):
            return self.value_and_grad(params)
        value, grads = value_and_grad_from_state(self.loss)(params, state=state)
        return value, _floating(conj(grads))

    def gradient(self, params: Params, value: Array, grads: list[Array]) -> Gradient:
        """What the update of the optimizer gets."""
        new = iter(grads)
        tree = jax.tree.map(lambda p: next(new) if _is_floating(p) else np.zeros(p.shape, jax.dtypes.float0), params)
        extra = {"value": value, "grad": tree, "value_fn": self.loss, **self.functions}
        return Gradient(value, None, tree, jnp.zeros(()), extra)


def _is_floating(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _floating(tree: ArrayTree) -> list[Array]:
    return [x for x in jax.tree.leaves(tree) if _is_floating(x)]


def _ends_in_search(tx: Transform) -> bool:
    """Whether a line search sees the update last, so that its state has value and gradient at the next point."""
    part = known(tx)
    if isinstance(part, Chain):
        return bool(part.parts) and _ends_in_search(part.parts[-1])
    factories = [call.factory for call in calls_of(tx)]
    return bool(factories) and factories[-1] in (scale_by_backtracking_linesearch, scale_by_zoom_linesearch)


def solve(
    loss_fn: Callable[..., Any], params: Params, tx: Transform | Callable[..., Transform], *args: Any,
    steps: int | Array = 1000, tol: float | Array | None = None,
    derivative: Literal["implicit", "unrolled"] | Implicit | Unrolled | None = "implicit", has_aux: bool = False,
    extra_fns: Mapping[str, Callable[..., Any]] | None = None, check: Literal["warn", "nan"] | None = None,
) -> Solution:  # fmt: skip
    """The minimum of a loss, as a function that jit, vmap and derivatives go through.

        p <- p + update(grad loss(p, *args))    until |grad loss| <= tol, or `steps` updates are made

    One `while_loop`, which traces the loss a few times however many steps it takes. Compile it, with `jax.jit`: a
    call outside compiles the loop anew. A thousand fits are `jax.vmap` of one. For progress, a history and batches
    there is `minimize`.

    The derivative of the solution by `args`, and by whatever else the loss is made from, comes from the optimality
    condition and not through the steps, forward and backward, any number of times. It is that of a minimum, and so as
    exact as the solution is converged: `status` tells. By the start it is 0. Inside a `shard_map` it needs
    `check_vma=False`, which JAX's own linear solves want there.

    Args:
      loss_fn: `loss_fn(params, *args)` returns a real scalar; with `has_aux` a pair of that and anything else.
      params: where to start: a tree of arrays; integer leaves stay as they are.
      tx: any optimizer of this library or another one; or a function of `*args` that makes it, for instance
        `lambda weight: gdjax.proximal_gradient(0.1, gdjax.prox.l1(weight))`.
      *args: further arguments of the loss, trees of arrays and numbers.
      steps: the most updates to make; it may be traced.
      tol: the error to stop at, at least 0. The error is the global norm of the gradient, and with bounds or a proximal
        map that of p - prox(p - gradient), prox being the map or the projection (of `mirror_descent` onto the simplex);
        with a map it is at least the rounding of p. None is the square root of the precision: 3.5e-4 in float32,
        1.5e-8 in float64.
      derivative: "implicit" or `Implicit(...)`, with the settings of its linear equations; "unrolled" or
        `Unrolled(steps)`, through more steps from the solution; None counts the solution as a constant.
      has_aux: whether the loss returns a pair. The second part at the solution is in `Solution.aux`.
      extra_fns: further functions for the update, called as the loss is: `{"residual_fn": residuals}` for
        `gauss_newton`.
      check: what happens where the solution has not converged: "nan" makes its derivatives NaN, "warn" warns when the
        program runs; None leaves it to `status`.

    Returns:
      A `Solution`.

    Raises:
      TypeError, ValueError: an argument is of the wrong kind or out of range; the loss is no real scalar; no parameter
        is a floating number; `derivative` is implicit and the optimizer decays weights, which moves its fixed point
        away from the minimum (add the penalty to the loss), or unrolled through a line search.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> A, b = jnp.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), jnp.array([1.0, 2.0, 3.0])
      >>> def ridge(x, weight):
      ...     return jnp.sum((A @ x - b) ** 2) + weight * jnp.sum(x**2)
      >>> fit = lambda weight: gdjax.solve(ridge, jnp.zeros(2), gdjax.lbfgs(), weight, tol=1e-3).params
      >>> print(jax.jit(jax.vmap(fit))(jnp.array([0.0, 1.0])).round(2))
      [[1.44 1.22]
       [1.06 1.  ]]
      >>> print(jax.jacrev(fit)(1.0).round(2))
      [-0.28 -0.12]

    Reference:
      Blondel et al. 2022, Efficient and modular implicit differentiation, https://arxiv.org/abs/2105.15183; Bolte,
      Pauwels & Vaiter 2023, One-step differentiation of iterative algorithms, https://arxiv.org/abs/2305.13768, for
      the last steps alone
    """
    how = implicit.checked(LABEL, derivative)
    params, make, tol = checked(LABEL, loss_fn, params, tx, args, steps, tol, check)
    loss, functions = objective.checked(LABEL, loss_fn, has_aux, None), objective.checked_functions(LABEL, extra_fns)

    def problem(args: Any) -> Problem:
        at = {name: jax.tree_util.Partial(lambda a, p, f=f: f(p, *a), args) for name, f in functions.items()}
        return Problem(jax.tree_util.Partial(lambda a, p: loss(p, *a)[0], args), make(args), at)

    def run(params: Params, args: Any) -> tuple[Params, OptState, Array, Array, Array]:
        """The end of the loop; the count and the status as floating numbers."""
        end = loop(problem(args), params, steps, tol)
        return end.params, end.state, end.error, end.count.astype(tol.dtype), end.status.astype(tol.dtype)

    if isinstance(how, Implicit):
        mapped = check_fixed_point(LABEL, make(args), params)
        run_to_average = lambda p, a: _averaged(make(a), *run(p, a))
        counts = lambda numbers: (check != "nan") | _converged(numbers[-1])
        condition = lambda x, a: gradient_condition(problem(a), params, x)
        x, *numbers = implicit.implicit(run_to_average, condition, params, args, how, not mapped, counts)
    else:
        free, of_run = implicit.without_closures(run, params, args)
        x, state, *numbers = free(*implicit.constant((params, args)), *implicit.constant(of_run))
        if how is not None:
            x, state = _unrolled(problem(args), x, state, how.steps)
        (x,) = _averaged(make(args), x, state)
        x = x if how is not None else implicit.constant(x)
    error, count, status = numbers[0], *(x.astype(jnp.int32) for x in numbers[1:])
    value, aux = loss(x, *args)
    if check == "warn":
        jax.debug.callback(_warn, status, error)
    return Solution(x, value, error, count, status, aux)


def loop(problem: Problem, params: Params, steps: int | Array, tol: Array) -> Loop:
    norm = projected_norm(LABEL, problem.tx, params)

    def judged(p: Params, value: Array, grads: list[Array]) -> tuple[Array, Array]:
        """The error, and the status by it."""
        tree = problem.gradient(p, value, grads).grads
        error = (norm_of(tree) if norm is None else norm(p, tree)).astype(tol.dtype)
        finite = jnp.isfinite(value) & jnp.isfinite(error)
        return error, jnp.where(finite, jnp.where(error <= tol, CONVERGED, RUNNING), NOT_FINITE).astype(jnp.int32)

    def step(t: Loop) -> Loop:
        p, state = updated(problem.tx, problem.gradient(t.params, t.value, t.grads), t.params, t.state)
        value, grads = problem.stored(p, state)
        value, grads = jax.tree.map(lambda x, y: x.astype(y.dtype), (value, grads), (t.value, t.grads))
        error, status = judged(p, value, grads)
        failures = t.failures
        if searches(state):
            failed = none_lower(t.state, state, NO_BATCH) & (change(p, t.params) == 0)
            failures = jnp.where(failed, failures + 1, 0)
            status = jnp.where((status == RUNNING) & (failures >= 2), NO_LOWER_POINT, status)
        if _has_residuals(state):
            status = jnp.where((status == RUNNING) & is_steady(state, NO_BATCH), STEADY, status)
        return Loop(p, state, value, grads, error, t.count + 1, status, failures)

    value, grads = problem.value_and_grad(params)
    error, status = judged(params, value, grads)
    zero = jnp.zeros((), jnp.int32)
    start = Loop(params, _strong(problem.tx.init(params)), value, grads, error, zero, status, zero)
    return meshes.while_loop(lambda t: (t.status == RUNNING) & (t.count < steps), step, start)


def _has_residuals(state: OptState) -> bool:
    is_one = lambda x: isinstance(x, GaussNewtonState)
    return any(map(is_one, jax.tree.leaves(state, is_leaf=is_one)))


def _strong(tree: ArrayTree) -> Any:
    """Arrays whose dtypes no operation of a step changes."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(jnp.asarray(x), jnp.result_type(x)), tree)


def _averaged(tx: Transform, params: Params, state: OptState, *rest: Any) -> tuple[Any, ...]:
    return eval_params(tx, state, params), *rest


def _converged(status: Array) -> Array:
    return (status == CONVERGED) | (status == STEADY)


def gradient_condition(problem: Problem, params: Params, x: Reals) -> Reals:
    """What is 0 at the solution x: the gradient, or the gradient mapping."""
    p = implicit.with_real_leaves(params, x)
    value, grads = problem.value_and_grad(p)
    tree = problem.gradient(p, value, grads).grads
    mapping = gradient_mapping(LABEL, problem.tx, params)
    ys = implicit.real_leaves(_floating(tree if mapping is None else mapping(p, tree)))
    return [y.astype(z.dtype) for y, z in zip(ys, x, strict=True)]


def _unrolled(problem: Problem, params: Params, state: OptState, steps: int) -> tuple[Params, OptState]:
    has_search = lambda part: part.factory is proximal_gradient and part.arguments["learning_rate"] is None
    if searches(state) or _has_residuals(state) or any(map(has_search, parts_of(LABEL, problem.tx, params))):
        raise ValueError(
            f"{LABEL}: derivative='unrolled' goes through the steps, and a line search has a loop in each that no "
            "derivative goes back through: take 'implicit', or an optimizer with a learning rate"
        )

    def step(carry: Any, _: None) -> tuple[Any, None]:
        return updated(problem.tx, problem.gradient(carry[0], *problem.value_and_grad(carry[0])), *carry), None

    return jax.lax.scan(step, implicit.constant((params, state)), length=steps)[0]


def check_fixed_point(label: str, tx: Transform, params: Params) -> bool:
    """Whether the solution is the fixed point of a map and no zero of the gradient; raises where it is neither."""
    for part in parts_of(label, tx, params):
        decay = (part.hyper if part.rule else part.arguments).get("weight_decay")
        if decay is not None and not (isinstance(decay, checks.NUMBER) and decay == 0):
            raise ValueError(
                f"{label}: {part.name} decays weights, so that it does not end where the gradient is 0, and "
                "derivative='implicit' would be wrong: add the penalty weight / 2 |p|^2 to the loss and take "
                "weight_decay=0, or pass derivative='unrolled'"
            )
    return gradient_mapping(label, tx, params) is not None


def checked(
    label: str, loss_fn: Any, params: Params, tx: Any, args: Any, steps: Any, tol: Any, check: Any
) -> tuple[Params, Callable[[Any], Transform], Array]:
    """The parameters as arrays, the optimizer as a function of args, and the tolerance."""
    if not callable(loss_fn):
        raise TypeError(f"{label}: loss_fn must be a function of the parameters, got {loss_fn!r}")
    checks.leaves(label, "params", params)
    if isinstance(steps, checks.NUMBER):
        checks.structural(label, "steps", steps, 0)
    if check not in (None, "warn", "nan"):
        raise ValueError(f"{label}: check must be None, 'warn' or 'nan', got {check!r}")
    params = _strong(params)
    if not _floating(params):
        dtypes = ", ".join(sorted({str(x.dtype) for x in jax.tree.leaves(params)})) or "no leaf"
        raise TypeError(f"{label}: params have no floating number to move ({dtypes}): write 1.0 for 1")
    dtype = widest_real(params)
    if isinstance(tol, checks.NUMBER) and not tol >= 0:
        raise ValueError(f"{label}: tol must be at least 0, got {tol}")
    tol = jnp.finfo(dtype).eps ** 0.5 if tol is None else tol

    def make(args: Any) -> Transform:
        made: Any = tx if misuse.is_transform(tx) or not callable(tx) else tx(*args)
        return base.check_transform(label, "tx", made)

    make(args)
    return params, make, jnp.asarray(tol).astype(dtype)


def _warn(status: Any, error: Any) -> None:
    if status not in (CONVERGED, STEADY):
        callers.warn(f"{LABEL}: not converged ({WORDS[int(status)]}, error {float(error):.3g})")
