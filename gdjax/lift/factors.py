"""Numbers that differ from leaf to leaf: the factors of `per_leaf`."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import callers, checks
from gdjax.core.paths import factors_by_path, keys_of, path_of
from gdjax.core.types import LABEL, Array, ArrayTree, Params, PerLeaf, base_of, is_skipped

Factors = Mapping[str, PerLeaf]  # by the name of the hyperparameter


def split(
    label: str, hyper: Mapping[str, Any], slots: Mapping[str, Any], of_tree: bool = False
) -> tuple[dict[str, Any], Factors]:
    """The hyperparameters with the base of each `per_leaf` in its place, and the `per_leaf`s themselves.

    Args:
      of_tree: whether the rule is one of the whole tree.

    Raises:
      TypeError: a rule of the whole tree, or the start of a slot, depends on one that leaves do not share.
    """
    factors = {k: x for k, x in hyper.items() if isinstance(x, PerLeaf)}
    used = set(factors) if of_tree else set()
    used |= {fill for slot in slots.values() if isinstance(fill := getattr(slot, "fill", None), str)}
    if shared := sorted(used & set(factors)):
        raise TypeError(
            f"{label.replace('._', '.')}: {', '.join(shared)} must be one number for the whole tree, which this method "
            "computes with; for factors of its updates write chain(tx, scale(per_leaf(1.0, factors)))"
        )
    return numerics.python_numbers({k: base_of(x) for k, x in hyper.items()}), factors


def check_paths(factors: Factors, params: Params) -> None:
    """Warns of patterns that decide for no leaf; raises if a tree of factors does not fit the parameters."""
    for x in factors.values():
        for level in x.levels():
            _level(level, params, True)


def of_each(factors: Factors, bases: Mapping[str, Any], tree: ArrayTree) -> list[dict[str, Any]]:
    """For each leaf, also without a gradient, base times factor of the hyperparameters whose factors are not all 1."""
    columns = {}
    for name, x in factors.items():
        levels = [_level(level, tree, False) for level in x.levels()]
        if all(isinstance(x, int | float) and x == 1 for level in levels for x in level):
            continue
        known: dict[Any, Any] = {}  # leaves with the same factor share the product
        columns[name] = [_times(bases[name], row, known) for row in zip(*levels, strict=True)]
    if not columns:
        return [{}] * len(jax.tree.leaves(tree, is_leaf=is_skipped))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _times(base: Any, row: Sequence[Any], known: dict[Any, Any]) -> Any:
    key = tuple(id(x) if isinstance(x, jax.Array) else x for x in row)
    if key not in known:
        product = base
        for x in row:
            product = product * (x.astype(product.dtype) if isinstance(x, Array) and isinstance(product, Array) else x)
        # A product of 0 becomes the constant 0: the rule then need not read the other factor.
        known[key] = 0.0 if any(isinstance(x, int | float) and x == 0 for x in row) else product
    return known[key]


def _level(level: PerLeaf, tree: ArrayTree, warn: bool) -> list[Any]:
    """The factors of one `per_leaf` for each leaf."""
    if level.patterns is not None:
        factors = factors_by_path(LABEL, dict(zip(level.patterns, level.factors, strict=True)), tree, warn)
        return list(map(_number, factors))
    prefix = level.factors
    if checks.is_function(prefix):
        prefix = callers.of_tree(LABEL, "factors", prefix, tree)
    checks.returned(LABEL, "the factors' function", prefix)
    known = dict(keys_of(prefix))
    leaves = keys_of(tree, is_skipped)
    factors, used = [], set()
    for keys, leaf in leaves:
        key = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in known), None)
        factors.append(1.0 if key is None else known[key])
        used.add(key)
        if key is None and not is_skipped(leaf):
            raise ValueError(f"{LABEL}: there is no factor for {path_of(keys)}; there are {_shown(known)}")
    if warn and not any(is_skipped(leaf) for _, leaf in leaves) and (idle := set(known) - used):
        raise ValueError(f"{LABEL}: the parameters have no {_shown(idle)}; they have {_shown(k for k, _ in leaves)}")
    return list(map(_number, factors))


def _number(factor: Any) -> Any:
    """A factor as a Python number, which adopts the dtype of the base, or as an array."""
    return float(factor) if isinstance(factor, checks.NUMBER) else jnp.asarray(factor)


def _shown(keys: Any) -> str:
    return ", ".join(sorted(map(path_of, keys))) or "entries"
