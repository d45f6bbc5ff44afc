"""Residuals of a user as a function of one vector, and their Jacobian as one matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.types import ArrayTree
from gdjax.linalg import least_squares, vectors
from gdjax.numerics import Array

NAMES = "the result of residual_fn", "the result of jacobian_fn"


class Residuals:
    """The residuals as a vector, a function of the vector of the parameters that are trained.

    Args:
      f: from the parameters to the residuals, a tree.
      jacobian_fn: from the parameters to what `jax.jacrev(f)` returns, or None.
      trained, whole: from a tree like the parameters to its leaves that are trained, and back.
      leaves: those of the parameters that are trained; the vector has the widest of their dtypes, float32 at least.
    """

    def __init__(
        self, label: str, f: Any, jacobian_fn: Any, trained: Callable[[ArrayTree], list[Array]],
        whole: Callable[[list[Array]], Any], leaves: list[Array],
    ):  # fmt: skip
        self.label, self.f, self.jacobian_fn, self.like = label, f, jacobian_fn, leaves
        self.trained, self.whole = trained, whole
        self.dtype = numerics.widest_real(leaves)
        self.where: vectors.Gaps = [None] * len(leaves)

    def vector(self, leaves: list[Array]) -> Array:
        return vectors.as_vector([meshes.whole(x) for x in leaves], self.where, self.dtype)

    def leaves(self, v: Array) -> list[Array]:
        """In the dtype of the vector."""
        return vectors.as_leaves(v, self.like, self.where)

    def __call__(self, v: Array) -> Array:
        return self.at(self.stored(v))

    def stored(self, v: Array) -> list[Array]:
        """In the dtypes of the parameters, and divided as they are."""
        return [meshes.placed(x.astype(p.dtype), p) for x, p in zip(self.leaves(v), self.like, strict=True)]

    def at(self, leaves: list[Array]) -> Array:
        found = self.f(self.whole(leaves))
        rs = jax.tree_util.tree_flatten_with_path(found)[0]
        for path, r in rs:
            where = f"the result of residual_fn{jax.tree_util.keystr(path)}"
            checks.leaf(self.label, where, r)
            if not jnp.issubdtype(jnp.result_type(r), jnp.floating):
                hint = "; return the real and the imaginary part, two arrays" if jnp.iscomplexobj(r) else ""
                raise TypeError(f"{self.label}: {where} has dtype {jnp.result_type(r)}, not a real floating one{hint}")
        if len(rs) == 1 and jnp.shape(rs[0][1]) == ():
            raise ValueError(
                f"{self.label}: residual_fn returned one scalar; return the residuals, of which the loss is the sum of "
                "squares, and a single one with shape (1,)"
            )
        if sum(jnp.size(r) for _, r in rs) == 0:
            raise ValueError(f"{self.label}: residual_fn returned no residuals")
        return jnp.concatenate([jnp.ravel(meshes.whole(jnp.asarray(r))).astype(self.dtype) for _, r in rs])

    def jacobian(self, v: Array, m: int) -> Array:
        """(m, n), by `jacobian_fn` if there is one."""
        if self.jacobian_fn is None:
            return least_squares.jacobian(self, v, m)
        if any(map(jnp.iscomplexobj, self.like)):
            raise TypeError(f"{self.label}: jacobian_fn is for real parameters; without it they may be complex")
        params = self.whole(self.stored(v))
        rs, structure = jax.tree.flatten(jax.eval_shape(self.f, params))
        rows = checks.flatten_like(self.label, NAMES, structure, structure.unflatten(rs), self.jacobian_fn(params))
        blocks = [self.row(r, row) for r, row in zip(rs, rows, strict=True)]
        return jnp.concatenate([jnp.concatenate(block, 1) for block in blocks])

    def row(self, r: Any, derivatives: ArrayTree) -> list[Array]:
        """The derivatives of one array of residuals by each leaf, as matrices."""
        found = []
        for d, p in zip(self.trained(derivatives), self.like, strict=True):
            if d.shape != r.shape + p.shape:
                raise ValueError(
                    f"{self.label}: jacobian_fn returned a derivative of shape {d.shape} for residuals of shape "
                    f"{r.shape} and a parameter of shape {p.shape}; expected {r.shape + p.shape}, as of "
                    "jax.jacrev(residual_fn)"
                )
            found.append(meshes.whole(d).reshape(r.size, p.size).astype(self.dtype))
        return found
