"""PSGD's factors of all matrices of a tree: lists with an entry for each leaf, itself a list for its stacks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.linalg import whitening
from gdjax.linalg.matrices import Matrix
from gdjax.linalg.plan import Leaf, plan_of
from gdjax.linalg.roles import routing
from gdjax.linalg.stacks import in_stacks
from gdjax.linalg.whitening import Fit
from gdjax.numerics import Array, bounded, debias


def leaves_of(label: str, tree: Any, roles: Any) -> list[Leaf]:
    """The leaves of a tree, all of them matrices."""
    return list(plan_of(label, tree, None if roles is None else routing(roles), Matrix()).leaves)


def _diagonal(size: tuple[int, int, int], most: int, saving: str | None) -> tuple[bool, bool]:
    """Which factors of a matrix are diagonal: of long sides, of those of length 1, and as the mode says."""
    _, rows, columns = size
    alone = {None: (False, False), "one_diag": (rows > columns, rows <= columns), "all_diag": (True, True)}[saving]
    return rows <= 1 or rows > most or alone[0], columns <= 1 or columns > most or alone[1]


def _factors(p: Any, leaf: Leaf, scale: Array, most: int, saving: str | None) -> list[list[Array]]:
    """Factors `scale` I of one parameter, of each stack the left and the right one."""
    real = numerics.widest_real(p)
    dtype = numerics.complex_dtype(real) if jnp.iscomplexobj(p) else real

    def factor(n: int, alone: bool, number: int) -> Array:
        one = jnp.ones((n, 1), real) if alone else jnp.eye(n, dtype=dtype)
        return jnp.broadcast_to(one * scale.astype(one.dtype), (number, *one.shape))

    return [
        [factor(n, alone, size[0]) for n, alone in zip(size[1:], _diagonal(size, most, saving), strict=True)]
        for size in leaf.sizes
    ]


def first(which: str, params: Any, given: Mapping[str, Any]) -> list[Any]:
    """Q, P or L at the start, for each leaf; `given` are the arguments of the factory."""
    label, scale = "gdjax.scale_by_psgd_kron", given["precond_init_scale"]
    pairs = list(zip(jax.tree.leaves(params), leaves_of(label, params, given["roles"]), strict=True))
    if which == "L":
        return [[jnp.zeros((size[0], 1, 2), numerics.widest_real(p)) for size in leaf.sizes] for p, leaf in pairs]
    scale = jnp.asarray(scale(jnp.zeros((), int)) if callable(scale) else scale, float) ** (1 if which == "P" else 0.5)
    sides = given["max_size_triangular"], given["memory_save_mode"]
    return [_factors(p, leaf, scale, *sides) for p, leaf in pairs]


def _average(leaf: Leaf, normalize: bool, g: Array, mu: Array, b1: Array) -> Array:
    real = numerics.widest_real([g, mu])
    g, mu = numerics.widen((g, mu), real)
    b1 = numerics.scalar(b1, real)
    return b1 * mu + (1 - b1) * ready(leaf, normalize, g)


def ready(leaf: Leaf, normalize: bool, g: Array) -> Array:
    """The gradient in float32 or wider, bounded; with `normalize` its matrices have the norm 1."""
    (g,) = numerics.widen((g,), numerics.widest_real(g))
    g = bounded(g)
    if not normalize:
        return g
    norms = [numerics.unit_and_norm(x, (1, 2)) for x in leaf.split(g)]
    parts = [
        x * (1 / unit).astype(x.dtype) / jnp.where(norm == 0, 1, norm).astype(x.dtype)
        for x, (unit, norm) in zip(leaf.split(g), norms, strict=True)
    ]
    return leaf.joined(parts)


averaged = jax.jit(_average, static_argnums=(0, 1))  # leaves alike share one trace


def unbiased(mu: Array, b1: Any, t: Array) -> Array:
    """Momentum in float32 or wider, without its bias to zero."""
    real = numerics.widest_real(mu)
    (mu,) = numerics.widen((mu,), real)
    return debias(mu, numerics.scalar(b1, real), t.astype(real))


def refitted(
    leaves: Sequence[Leaf], gs: Sequence[Array], s: Any, key: Array, form: str, scalars: Sequence[Any]
) -> dict[str, Any]:
    """The fields Q, P and L after a step; `scalars` are the numbers of `whitening.Settings`."""
    numbers = [number for leaf in leaves for number, _, _ in leaf.sizes]
    if not numbers:
        return {"Q": s.Q, "P": s.P, "L": s.L}
    noise, kind = jax.random.key_data(jax.random.split(key, sum(numbers))), jax.random.key_impl(key)

    def fitted(gs: Sequence[Array], fits: Any, noise: Array, scalars: Sequence[Array]) -> Any:
        def one(g: Array, *xs: Array) -> Any:
            real = numerics.widest_real(g)
            settings = whitening.Settings(form, *(numerics.scalar(x, real) for x in scalars))
            return tuple(whitening.fitted(Fit(*xs[:-1]), g, jax.random.wrap_key_data(xs[-1][0], impl=kind), settings))

        ends = [sum(numbers[: i + 1]) for i in range(len(numbers))]
        each = [noise[end - n : end, None] for end, n in zip(ends, numbers, strict=True)]
        return in_stacks(whitening.in_batches(one), _stacks(leaves, gs), *fits, each)

    whole = tuple([None] * len(numbers) for _ in Fit._fields)
    new = meshes.partitioned(fitted, whole, list(gs), _fits(s), noise, list(scalars))
    left, right, smooth, left_product, right_product = map(iter, new)
    pairs = lambda a, b: [[[next(a), next(b)] for _ in leaf.sizes] for leaf in leaves]  # noqa: E731
    constants = [[next(smooth) for _ in leaf.sizes] for leaf in leaves]
    return {"Q": pairs(left, right), "P": pairs(left_product, right_product), "L": constants}


def whitened(leaves: Sequence[Leaf], gs: Sequence[Array], like: Sequence[Array], s: Any, most: Any) -> list[Array]:
    """P_l G P_r of all matrices, as leaves."""

    def of(gs: Sequence[Array], left: Sequence[Array], right: Sequence[Array], most: Array) -> list[Array]:
        def one(g: Array, p: Array, q: Array) -> Array:
            return whitening.whitened(p, q, g, numerics.scalar(most, numerics.widest_real(g)))

        each = iter(in_stacks(whitening.in_batches(one), _stacks(leaves, gs), left, right))
        return [leaf.joined([next(each) for _ in leaf.sizes]) for leaf in leaves]

    return meshes.partitioned(of, list(like), list(gs), *_fits(s)[3:], most)


def _stacks(leaves: Sequence[Leaf], xs: Sequence[Array]) -> list[Array]:
    return [stack for leaf, x in zip(leaves, xs, strict=True) for stack in leaf.split(x)]


def _fits(s: Any) -> list[list[Array]]:
    """The fields of `Fit`, a list of each over all the stacks."""
    q, p, constants = map(jax.tree.leaves, (s.Q, s.P, s.L))  # Flax's nnx keeps lists as dicts
    return [q[::2], q[1::2], constants, p[::2], p[1::2]]
