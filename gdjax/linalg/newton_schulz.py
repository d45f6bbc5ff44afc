"""The polar factor of matrices, computed by products alone."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.meshes import by_platform
from gdjax.numerics import Array
from gdjax.numerics.norms import unit_and_norm

Preconditioning = Literal["frobenius", "spectral", "aol", "schatten"]
NORMS: tuple[str, ...] = get_args(Preconditioning)
Triple = tuple[Array, ...]  # a, b, c


def orthogonalize(
    x: Array, coeffs: Array, steps: int | Array, preconditioning: str = "frobenius", eps: ArrayLike = 1e-8,
    products: DTypeLike | None = None,
) -> Array:  # fmt: skip
    """About U V^T of X = U S V^T, for each matrix: X over a norm, then steps of

        A = X X^T,    X <- a X + (b A + c A^2) X

    which take each singular value s to a s + b s^3 + c s^5 and leave U and V. For a tall X it is A = X^H X, with the
    polynomial on the right: a transposition instead would be expensive on a TPU.

    Args:
      x: (n, rows, columns) or (rows, columns), real or complex, float32 or wider.
      coeffs: (a, b, c) for every step; or (n, 3), one triple for each of n steps, whatever `steps` is.
      steps: an int; or a traced integer, in a loop, which has no derivative: (n, 3) then are the first n steps, and the
        last of them all that follow.
      preconditioning: the norm, which must bound the singular values: "frobenius", |X|; "spectral", the largest
        singular value, by the eigenvalues of A; "schatten", |A|^(1/2), between the two; "aol", for each row i of A a
        number (sum_j |A_ij|)^(1/2), by which that row of X, or that column of a tall X, is divided.
      eps: added to the first two norms; the least value of the last two.
      products: the dtype that factors are rounded to, for real x; sums of their products have the dtype of x.
    """
    if x.size == 0:
        return x
    # First X over its Frobenius norm, so that squares neither over- nor underflow. The rest cancels that, but for eps.
    unit, size = unit_and_norm(x, (-2, -1))
    over = 1 / jnp.where(size == 0, 1, size)
    eps = jnp.asarray(eps).astype(unit.dtype) / unit * over
    narrow = None if products is None else jnp.dtype(products)
    given = [x * (1 / unit).astype(x.dtype) * (over / (1 + eps)).astype(x.dtype)]
    if preconditioning != "frobenius":
        x = x * (1 / unit).astype(x.dtype) * over.astype(x.dtype)
        a = _gram(x, narrow)
        if preconditioning == "spectral":
            norm = numerics.sqrt(jnp.linalg.eigvalsh(a)[..., -1:, None].clip(0)) + eps
        elif preconditioning == "schatten":
            norm = jnp.maximum(numerics.sqrt(numerics.sqrt(jnp.sum(numerics.abs_sq(a), (-2, -1), keepdims=True))), eps)
        else:
            norm = jnp.maximum(numerics.sqrt(jnp.sum(jnp.abs(a), -1, keepdims=True)), eps)
        over = (1 / jnp.where(norm == 0, 1, norm)).astype(x.dtype)
        given = [x * (over.mT if _tall(x) else over), a * over * over.mT]
    coeffs = coeffs.astype(x.dtype)
    if not isinstance(steps, int):
        return _looped(jnp.atleast_2d(coeffs), steps, narrow, *given)
    triples = [tuple(coeffs)] * steps if coeffs.ndim == 1 else list(map(tuple, coeffs))
    by_columns = functools.partial(_by_columns, triples, narrow)
    if narrow is not None or 2 * max(x.shape[-2:]) <= 3 * min(x.shape[-2:]):
        return by_columns(*given)
    by_rows = functools.partial(_by_rows, triples)
    return by_platform(*given, cpu=by_rows, default=by_columns)


def _by_columns(triples: Sequence[Triple], narrow: DTypeLike | None, x: Array, a: Array | None = None) -> Array:
    for i, c in enumerate(triples):
        x = _step(c, x, _gram(x, narrow) if a is None or i else a, narrow)
    return x


def _looped(coeffs: Array, steps: int | Array, narrow: DTypeLike | None, x: Array, a: Array | None = None) -> Array:
    """The same with a number of steps that is no constant."""

    def step(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        i, x = carry
        c = tuple(coeffs[jnp.minimum(i, len(coeffs) - 1)])
        return i + 1, _step(c, x, _gram(x, narrow), narrow)

    steps = jnp.asarray(steps).astype(jnp.int32)
    return meshes.while_loop(lambda carry: carry[0] < steps, step, (jnp.zeros((), jnp.int32), x))[1]


@functools.partial(jax.jit, static_argnames="narrow")  # all steps share one trace
def _step(c: Triple, x: Array, a: Array, narrow: DTypeLike | None) -> Array:
    """a X + (b A + c A^2) X. If factors are rounded, X, A and the polynomial of A are.

    A is then rounded in b A too, not only as a factor: b + 2 c is small where 2 c is not, and so is the effect of
    rounding.
    """
    if narrow is None:
        return c[0] * x + _times(c[1] * a + c[2] * (a @ a), x)
    wide, one = x.dtype, _one(a)
    a = a.astype(narrow).astype(wide)
    p = c[0] * one + c[1] * a + c[2] * _product("...ij,...jk->...ik", a, a, narrow)
    return _times(p, x, narrow).astype(narrow).astype(wide)


def _by_rows(triples: Sequence[Triple], x: Array, a: Array | None = None) -> Array:
    """The same in fewer operations for a long X: with X <- P X and A <- P A P, only a product of several P meets X.

    Of three P at most: where products are in full float32, the errors then are those of the plain steps. This Gram form
    is for a CPU. GPU and TPU round the factors of products, by default too, and its errors then grow with every P: it
    needs float16 or float32, and X A anew after two or three steps, which leaves little of what it saves.
    """
    one = None
    for start in range(0, len(triples), 3):
        a = _gram(x) if a is None or start else a
        one = _one(a) if one is None else one
        product = one
        for i, c in enumerate(three := triples[start : start + 3]):
            p = _polynomial(c, a, one)
            product = p if i == 0 else p @ product
            a = a if i + 1 == len(three) else p @ a @ p
        x = _times(product, x)
    return x


@jax.jit
def _polynomial(c: Triple, a: Array, one: Array) -> Array:
    return c[0] * one + c[1] * a + c[2] * (a @ a)


def _one(a: Array) -> Array:
    return jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)


def _tall(x: Array) -> bool:
    return x.shape[-2] > x.shape[-1]


@functools.partial(jax.jit, static_argnames="narrow")
def _gram(x: Array, narrow: DTypeLike | None = None) -> Array:
    """X X^H; X^H X of a tall X."""
    if _tall(x):
        return _product("...ji,...jk->...ik", x.conj(), x, narrow)
    return _product("...ij,...kj->...ik", x, x.conj(), narrow)


def _times(p: Array, x: Array, narrow: DTypeLike | None = None) -> Array:
    """P X; X P of a tall X."""
    return _product("...ij,...jk->...ik", *((x, p) if _tall(x) else (p, x)), narrow)


def _product(indices: str, x: Array, y: Array, narrow: DTypeLike | None) -> Array:
    """The product of x and y, rounded to a dtype if there is one, in the dtype of x."""
    narrow = x.dtype if narrow is None else narrow
    return jnp.einsum(indices, x.astype(narrow), y.astype(narrow), preferred_element_type=x.dtype)
