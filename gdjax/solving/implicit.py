"""Derivatives of a solution: by its optimality condition, or through the last steps."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from gdjax.core import meshes
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import Array, ArrayTree, Params, Scalar
from gdjax.linalg.vectors import Gaps, as_leaves, as_vector
from gdjax.numerics import widest_real

__all__ = ["Implicit", "Unrolled"]

Reals = list[Array]  # the floating leaves of the parameters, of complex ones the real and the imaginary part
SMALL = 256  # the most numbers whose linear equations "auto" solves by a matrix


@with_field_docs
class Implicit(NamedTuple):
    """How `solve` differentiates a solution x(args) by its optimality condition F(x, args) = 0.

        dx = -(dF/dx + ridge I)^-1 dF/dargs dargs

    F is the gradient of the loss; for a proximal map and bounds it is x - prox(x - gradient). Neither the optimizer nor
    its rate matters, only where it ends: Adam's solution has the derivative of any other minimum.

    Attributes:
      linear_solve: "dense" makes the matrix dF/dx, by one product for each number of the parameters; "cg" takes steps
        of conjugate gradients, which are right where F is a gradient, "gmres" those of GMRES; "auto" is "dense" for up
        to 256 numbers, else "cg" for a gradient and "gmres" for anything else.
      ridge: is added to the diagonal of dF/dx, at least 0. Without one a flat minimum, where dF/dx is singular, has no
        derivative: it comes out as NaN, an infinity or a large number.
      tol: of "cg" and "gmres": the error of the equations, as a share of their right side; None is the square root of
        the precision, 3.5e-4 in float32 and 1.5e-8 in float64.
      steps: the most steps of "cg" and restarts of "gmres"; None is what JAX takes.
    """

    linear_solve: Literal["auto", "dense", "cg", "gmres"] = "auto"
    ridge: Scalar = 0.0
    tol: Scalar | None = None
    steps: int | None = None


@with_field_docs
class Unrolled(NamedTuple):
    """How `solve` differentiates a solution through its last steps.

    Attributes:
      steps: how many more steps are taken from the solution, which the derivative goes through; `Solution.steps` does
        not count them. Where they begin counts as constant, and so does the state of the optimizer.
    """

    steps: int = 10


def real_leaves(params: Params) -> Reals:
    """The floating leaves, complex ones as two."""
    leaves = [x for x in map(jnp.asarray, jax.tree.leaves(params)) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return [part for x in leaves for part in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]


def with_real_leaves(params: Params, reals: Reals) -> Any:
    """`params` with these in place of the leaves that `real_leaves` gives."""
    new = iter(reals)

    def leaf(x: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        return jax.lax.complex(next(new), next(new)) if jnp.iscomplexobj(x) else next(new)

    return jax.tree.map(leaf, params)


def implicit(
    run: Callable[..., Any], condition: Callable[[Reals, Any], Reals], start: Params, args: Any, how: Implicit,
    symmetric: bool, converged: Callable[[list[Array]], Array | bool],
) -> tuple[Any, ...]:  # fmt: skip
    """`run(start, args)`, where the derivative of the solution is that of the condition.

    Args:
      run: a function that returns the solution and numbers, all floating: a `shard_map` takes no tangents of others.
      condition: F, a function of the solution's `real_leaves` and of args.
      symmetric: whether dF/dx is.
      converged: from the numbers to whether the derivative counts; otherwise it is NaN.
    """
    # What both close over becomes an argument: a loss may be a function of numbers to be differentiated by.
    run, of_run = without_closures(run, start, args)
    like = meshes.varying(start, meshes.varying_axes(start, args, of_run))  # as the solution is, in a shard_map
    condition, of_condition = without_closures(condition, real_leaves(like), args)

    @jax.custom_jvp
    def root(start: Params, args: Any, of_run: Any, of_condition: Any) -> tuple[Reals, list[Array]]:
        solution, *numbers = run(start, args, *of_run)
        return real_leaves(solution), numbers

    @root.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        x, numbers = root(*primals)
        _, args, _, of_condition = primals
        change = tangents[1], tangents[3]
        b = jax.jvp(lambda a, c: _together(condition(x, a, *c)), (args, of_condition), change)[1]

        def A(v: Reals) -> Reals:
            Av = jax.jvp(lambda x: condition(x, args, *of_condition), (x,), (v,))[1]
            return [y + jnp.asarray(how.ridge).astype(u.dtype) * u for y, u in zip(Av, v, strict=True)]

        share = jnp.where(converged(numbers), 1.0, jnp.nan)  # a factor, so that it counts backward too
        dx = [share.astype(y.dtype) * y for y in _together(solved(A, [-y for y in b], how, symmetric))]
        return (x, numbers), (dx, [jnp.zeros_like(n) for n in numbers])

    x, numbers = root(start, args, of_run, of_condition)
    return with_real_leaves(start, x), *numbers


def without_closures(f: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], list[Any]]:
    """`f` for arguments like these, as a function of what it closes over too, and those values.

    `jax.closure_convert` leaves out the integers, which a rule of derivatives that runs after the trace of a `jit`
    may not close over either.
    """
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    structure, jaxpr, count = jax.tree.structure(shapes), closed.jaxpr, len(args)

    def free(*args_and_values: Any) -> Any:
        args, values = args_and_values[:count], list(args_and_values[count:])
        return structure.unflatten(jaxpr_as_fun(ClosedJaxpr(jaxpr, values))(*jax.tree.leaves(args)))

    return free, closed.consts


def _together(xs: Reals) -> Reals:
    """The same, each a function of all.

    A leaf of the solution that nothing uses has no cotangent, nor has one that no argument moves, and the transpose of
    the linear equations needs all: the first in JAX 0.5, the second in every JAX.
    """
    gaps: Gaps = [None] * len(xs)
    ys = as_leaves(as_vector(xs, gaps, widest_real(xs)), xs, gaps)
    return [y.astype(x.dtype) for x, y in zip(xs, ys, strict=True)]


def solved(A: Callable[[Reals], Reals], b: Reals, how: Implicit, symmetric: bool) -> Reals:
    """The x with A x = b, which jvp, vjp and vmap go through."""
    size, kind, dtype = sum(x.size for x in b), how.linear_solve, widest_real(b)
    if kind == "auto":
        kind = "dense" if size <= SMALL else "cg" if symmetric else "gmres"
    tol = jnp.finfo(dtype).eps ** 0.5 if how.tol is None else how.tol
    krylov = {"cg": jax.scipy.sparse.linalg.cg, "gmres": jax.scipy.sparse.linalg.gmres}

    def solve(A: Callable[[Reals], Reals], b: Reals) -> Reals:
        return _dense(A, b, dtype) if kind == "dense" else krylov[kind](A, b, tol=tol, maxiter=how.steps)[0]

    return jax.lax.custom_linear_solve(A, b, solve, solve, symmetric=symmetric)


def _dense(A: Callable[[Reals], Reals], b: Reals, dtype: Any) -> Reals:
    gaps: Gaps = [None] * len(b)

    def column(v: Array) -> Array:
        like = [x.astype(y.dtype) for x, y in zip(as_leaves(v, b, gaps), b, strict=True)]
        return as_vector(A(like), gaps, dtype)

    v = as_vector(b, gaps, dtype)
    units = meshes.varying(jnp.eye(v.size, dtype=dtype), meshes.varying_axes(v))
    matrix = jax.vmap(column, out_axes=1)(units)
    return [x.astype(y.dtype) for x, y in zip(as_leaves(jnp.linalg.solve(matrix, v), b, gaps), b, strict=True)]


def checked(label: str, how: object) -> Implicit | Unrolled | None:
    """The settings that `derivative` stands for.

    Raises:
      ValueError: none of those that there are, or a number out of range.
    """
    how = {"implicit": Implicit(), "unrolled": Unrolled()}.get(how, how) if isinstance(how, str) else how
    if not (how is None or isinstance(how, Implicit | Unrolled)):
        raise ValueError(
            f"{label}: derivative must be 'implicit', 'unrolled', None, Implicit(...) or Unrolled(...), got {how!r}"
        )
    if isinstance(how, Implicit) and how.linear_solve not in ("auto", "dense", "cg", "gmres"):
        raise ValueError(f"{label}: linear_solve must be 'auto', 'dense', 'cg' or 'gmres', got {how.linear_solve!r}")
    return how


def constant(tree: ArrayTree) -> Any:
    """The tree as a constant for derivatives."""
    return jax.tree.map(jax.lax.stop_gradient, tree)
