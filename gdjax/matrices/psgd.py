"""PSGD's factors of all matrices of a tree, those of one shape in one stack, by its name; see `factored`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.types import Params
from gdjax.linalg import whitening
from gdjax.linalg.matrices import Matrix
from gdjax.linalg.whitening import Fit
from gdjax.matrices.factored import Blocks, Layout, Stacks, blocks_of, stands_for_a_tree
from gdjax.matrices.plan import Leaf
from gdjax.matrices.roles import routing
from gdjax.matrices.segments import over_stack
from gdjax.matrices.turns import of_run, spread
from gdjax.numerics import Array, bounded, debias


def matrices_of(label: str, roles: Any) -> Callable[[Any], Blocks]:
    """From a tree to its leaves, all of them matrices."""
    numbers = None if roles is None else routing(roles)
    return lambda tree: blocks_of(label, tree, numbers, Matrix(), Layout())


def _diagonal(rows: int, columns: int, most: int, saving: str | None) -> tuple[bool, bool]:
    """Which factors of a matrix are diagonal: of long sides, of those of length 1, and as the mode says."""
    alone = {None: (False, False), "one_diag": (rows > columns, rows <= columns), "all_diag": (True, True)}[saving]
    return rows <= 1 or rows > most or alone[0], columns <= 1 or columns > most or alone[1]


def first(which: str, params: Params, given: Mapping[str, Any]) -> Any:
    """Q, P or L at the start; `given` are the arguments of the factory."""
    if stands_for_a_tree(params):
        return jnp.zeros(())
    found, scale = matrices_of("gdjax.scale_by_psgd_kron", given["roles"])(params), given["precond_init_scale"]
    scale = jnp.asarray(scale(jnp.zeros((), int)) if callable(scale) else scale, float) ** (1 if which == "P" else 0.5)
    stacks, leaves = {}, jax.tree.leaves(params)
    for (name, rows, columns), members in found.members.items():
        number, own = sum(x.number for x in members), [leaves[x.leaf] for x in members]
        real = numerics.widest_real(own)
        dtype = numerics.complex_dtype(real) if jnp.iscomplexobj(own[0]) else real
        diagonal = _diagonal(rows, columns, given["max_size_triangular"], given["memory_save_mode"])
        ones = [
            jnp.ones((n, 1), real) if alone else jnp.eye(n, dtype=dtype)
            for n, alone in zip((rows, columns), diagonal, strict=True)
        ]
        pair = [jnp.broadcast_to(x * scale.astype(x.dtype), (number, *x.shape)) for x in ones]
        stacks[name] = jnp.zeros((number, 1, 2), real) if which == "L" else pair
    return stacks


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
    found: Blocks, gs: Sequence[Array | None], s: Any, period: int | None, form: str, scalars: Sequence[Any]
) -> dict[str, Any]:
    """The fields Q, P and L after a step; `scalars` are the numbers of `whitening.Settings`.

    With a period the matrices have their turns in so many steps, the first in the last of these. Without, all have it.
    """
    old, numbers = _fits(s), found.numbers
    if not numbers:
        return {"Q": s.Q, "P": s.P, "L": s.L}
    of_one = {name: (float(max(rows, columns) ** 3), numbers[name]) for name, rows, columns in found.members}
    turns, kind = spread(of_one, period or 1), jax.random.key_impl(s.key)
    keys = jax.random.key_data(jax.random.split(jax.random.fold_in(s.key, s.count), sum(numbers.values())))

    def fitted(gs: Any, old: Any, keys: Array, count: Array, scalars: Any) -> Any:
        def one(g: Array, fit: Sequence[Array], key: Array) -> Any:
            real = numerics.widest_real(g)
            settings = whitening.Settings(form, *(numerics.scalar(x, real) for x in scalars))
            return whitening.fitted(Fit(*fit), g, jax.random.wrap_key_data(key, impl=kind), settings)

        new, start = {name: dict(stacks) for name, stacks in old.items()}, 0
        for name, g in found.together(gs).items():
            end = start + numbers[name]
            g, olds, own = meshes.alike(g, [old[field][name] for field in Fit._fields], keys[start:end])
            turn = count % (period or 1), turns[name]
            news = of_run(one, g, olds, [own], *turn)
            for field, x in zip(Fit._fields, news, strict=True):
                new[field][name] = x
            start = end
        return found.only_there(gs, new, old)

    new = meshes.partitioned(fitted, old, gs, old, keys, s.count, list(scalars))
    pairs = lambda a, b: {name: [new[a][name], new[b][name]] for name in numbers}  # noqa: E731
    return {"Q": pairs("left", "right"), "P": pairs("left_product", "right_product"), "L": new["smooth"]}


def whitened(found: Blocks, gs: Sequence[Array | None], like: Sequence[Array], s: Any, most: Any) -> list[Any]:
    """P_l G P_r of all matrices, as leaves."""

    def of(gs: Any, fits: Any, most: Array) -> list[Any]:
        def one(g: Array, p: Array, q: Array) -> Array:
            return whitening.whitened(p, q, g, numerics.scalar(most, numerics.widest_real(g)))

        us = {}
        for name, g in found.together(gs).items():
            stacks = g, fits["left_product"][name], fits["right_product"][name]
            (us[name],) = over_stack(lambda *xs: [one(*xs)], stacks, [0])
        return [u for u, g in zip(found.apart(us), gs, strict=True) if g is not None]

    fits = {name: x for name, x in _fits(s).items() if name.endswith("product")}
    return meshes.partitioned(of, list(like), gs, fits, most)


def _fits(s: Any) -> dict[str, Stacks]:
    """The fields of `Fit`."""
    q, p = ({name: jax.tree.leaves(pair) for name, pair in x.items()} for x in (s.Q, s.P))  # nnx keeps lists as dicts
    side = lambda x, i: {name: pair[i] for name, pair in x.items()}  # noqa: E731
    return {"left": side(q, 0), "right": side(q, 1), "smooth": dict(s.L), "left_product": side(p, 0),
            "right_product": side(p, 1)}  # fmt: skip
