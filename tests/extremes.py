"""Steps with extreme numbers: one compiled update of each case, for all the tests of them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.cases import Case, by_name
from tests.trees import precision, random_tree

SHAPES = {"w": (3, 2), "b": (2,)}


class Compiled:
    """A case with its update compiled once for one dtype, and parameters that stay where they are."""

    def __init__(self, case: Case, dtype: str, **changes: Any):
        self.tx = case.make(**changes)
        self.dtype = dtype
        with precision(dtype):
            self.params = random_tree(0, dtype, SHAPES)
            self.ordinary = random_tree(1, dtype, SHAPES)
        self.step = jax.jit(self.tx.update)

    def constant(self, value: float) -> Any:
        """Gradients of one size, with the signs of the ordinary ones."""
        with precision(self.dtype):
            return jax.tree.map(lambda x: jnp.sign(x) * jnp.asarray(value, x.dtype), self.ordinary)

    def run(self, gradients: Any, params: Any = None) -> Iterator[tuple[Any, Any]]:
        """The updates and the state after each of the gradients."""
        with precision(self.dtype):
            params = self.params if params is None else params
            state = self.tx.init(params)
            for g in gradients:
                updates, state = self.step(g, state, params)
                yield updates, state


@functools.cache
def _compiled(name: str, dtype: str, changes: tuple[tuple[str, Any], ...]) -> Compiled:
    return Compiled(by_name(name), dtype, **dict(changes))


def compiled(case: Case, dtype: str = "float32", **changes: Any) -> Compiled:
    return _compiled(case.name, dtype, tuple(sorted(changes.items())))


def with_one(value: float, like: Any) -> Any:
    """Ordinary gradients with one element of another value, the first of `w`."""
    return {**like, "w": like["w"].at[0, 0].set(value)}


def sizes(tree: Any) -> np.ndarray:
    """The largest number of each leaf."""
    return np.array([np.abs(np.asarray(x, np.float64)).max(initial=0) for x in jax.tree.leaves(tree)])


def replaced(state: Any, kind: Callable[[Any], bool], value: Any) -> Any:
    """The state with other numbers in the leaves that `kind` chooses."""
    return jax.tree.map(lambda x: jnp.full_like(x, value) if kind(x) else x, state)
