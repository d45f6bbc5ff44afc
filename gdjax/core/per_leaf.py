"""Hyperparameters that differ by leaf: a base, which may be a schedule, and a factor for each leaf."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from gdjax.core import patterns
from gdjax.core.values import key_of

LABEL = "gdjax.per_leaf"
Number = int | float | np.number | np.ndarray | jax.Array


@jax.tree_util.register_pytree_node_class
class PerLeaf:
    """A base and its factors, made by `per_leaf`; the base is a number, an array, a schedule or another `PerLeaf`."""

    def __init__(self, base: Any, patterns: tuple[Any, ...] | None, factors: Any):
        self.base, self.patterns, self.factors = base, patterns, factors

    @property
    def number(self) -> Any:
        """The innermost base: a number, an array or a schedule."""
        return self.base.number if isinstance(self.base, PerLeaf) else self.base

    def with_base(self, base: Any) -> "PerLeaf":
        """The same factors with another innermost base."""
        base = self.base.with_base(base) if isinstance(self.base, PerLeaf) else base
        return PerLeaf(base, self.patterns, self.factors)

    def levels(self) -> "list[PerLeaf]":
        """This and the `PerLeaf`s inside its base."""
        return [self, *(self.base.levels() if isinstance(self.base, PerLeaf) else [])]

    def constants(self) -> list[float]:
        """The factors that are plain numbers, known when a transform is built."""
        known = [x for x in jax.tree.leaves(self.factors) if isinstance(x, int | float | np.number)]
        return [*map(float, known), *(self.base.constants() if isinstance(self.base, PerLeaf) else [])]

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.base, self.factors), self.patterns

    @classmethod
    def tree_unflatten(cls, patterns: Any, children: Any) -> "PerLeaf":
        return cls(children[0], patterns, children[1])

    def _key(self) -> Hashable:
        return key_of((self.base, self.patterns, self.factors))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerLeaf) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        factors = self.factors if self.patterns is None else dict(zip(self.patterns, self.factors, strict=True))
        return f"per_leaf({self.base!r}, {factors!r})"


def per_leaf(base: Any, factors: Any) -> PerLeaf:
    """A number that differs from leaf to leaf: base times the leaf's factor.

    It may stand wherever an optimizer or a transform takes a number for each array: `adamw(per_leaf(schedule,
    {"embed": 0.1, "head": 10.0}), weight_decay=per_leaf(1e-2, {"bias$": 0.0}))`. There is one schedule, and no state.

    Args:
      base: a number, a scalar array, a schedule, or another `per_leaf`, whose factors this one multiplies.
      factors: from pattern to factor, where the first pattern that matches the path of a leaf counts, a regular
        expression or a predicate of `(path, leaf)`; a leaf that none matches has the factor 1. Or a tree of factors,
        the parameters' or a prefix; or a function from the parameters to one, such as `layerwise_decay(...)`. A dict
        whose values are all numbers is one of patterns. A factor is a number or an array that broadcasts against the
        leaf.

    A weight decay with the factor 0 does not read the parameter. Behind a transform of another library write
    `chain(tx, scale(per_leaf(1.0, factors)))`.

    Raises:
      TypeError: base is None, or a factor is no number; (in the transform) one number for the whole tree depends on it,
        as in Prodigy.
      ValueError: a factor is infinite or NaN; a pattern is no regular expression; (in init) a tree of factors is no
        prefix of the parameters.

    Warns:
      UserWarning: (in init) a pattern decides for no leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones(1), "head": jnp.ones(1), "norm": jnp.ones(1)}
      >>> tx = gdjax.sgd(gdjax.per_leaf(0.5, {"embed": 0.5, "head": 2.0}))
      >>> u, _ = tx.update(params, tx.init(params))
      >>> print(u["embed"], u["head"], u["norm"])
      [-0.25] [-1.] [-0.5]
    """
    if base is None or isinstance(base, str | bool | type):
        raise TypeError(f"{LABEL}: base must be a number, a scalar array or a schedule, got {base!r}")
    if callable(factors) and jax.tree.leaves(factors) == [factors]:
        return PerLeaf(base, None, factors)
    found = PerLeaf(base, None, factors)
    if isinstance(factors, Mapping) and all(isinstance(x, Number) for x in factors.values()):
        found = PerLeaf(base, tuple(factors), tuple(factors.values()))
    patterns.check(LABEL, found.patterns or ())
    for x in jax.tree.leaves(found.factors, is_leaf=lambda x: x is None):
        if not isinstance(x, Number) or isinstance(x, bool):
            raise TypeError(f"{LABEL}: a factor is {x!r}, not a number")
    if not all(map(math.isfinite, found.constants())):
        raise ValueError(f"{LABEL}: the factors must be finite, got {found.constants()}")
    return found


def base_of(x: Any) -> Any:
    """The innermost base of a `per_leaf`; any other number as it is."""
    return x.number if isinstance(x, PerLeaf) else x
