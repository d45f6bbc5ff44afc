"""Drawing with Hypothesis: trees made of every kind of container, and numbers for their leaves."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from tests.cases import CASES, WRAPPERS, Case
from tests.trees import Pair

FEW, MANY = 2, 50  # examples in the ordinary run and in the slow sweeps
# Every shape costs the compilation of every operation.
FEW_SHAPES = ((), (3, 2), (0,))
SHAPES = (*FEW_SHAPES, (2,), (0, 3))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: Any
    bias: Any


def swept(
    argument: str, few: int, many: int, condition: Callable[[Case], bool] = lambda case: True, but: Sequence[str] = ()
) -> Any:
    """Parametrises a test over the cases: `SAMPLE` without wrappers with `few`, all in the slow sweeps with `many`.

    In `make test` it is not run for those in `but`.
    """
    others = (*WRAPPERS, *but)
    return pytest.mark.parametrize(
        ("case", argument),
        [
            pytest.param(case, n, id=f"{case.name}-{n}", marks=[pytest.mark.slow] if n == many else [])
            for case in CASES
            for n in (few, many)
            if condition(case) and (n == many or case.sampled and case.name not in others)
        ],
    )


def check(examples: int, property_of: Callable[[st.DataObject], None]) -> None:
    """Runs a property with `examples` draws, the same ones in every process. Compiling knows no deadline."""
    chosen = settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    chosen(given(st.data())(property_of))()


def structures(dtypes: Sequence[str], shapes: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Trees of `jax.ShapeDtypeStruct`, of one leaf to six."""
    leaves = st.builds(jax.ShapeDtypeStruct, st.sampled_from(shapes), st.sampled_from(dtypes).map(jnp.dtype))
    empty = st.sampled_from([None, {}, (), []])

    def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, min_size=1, max_size=3)
        return st.one_of(
            several,
            several.map(tuple),
            st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
            st.builds(Pair, inner, inner),
            st.builds(Layer, inner, inner),
        )

    return st.recursive(leaves | empty, containers, max_leaves=6).filter(jax.tree.leaves)


def floats(largest: float, dtype: Any = "float32") -> st.SearchStrategy[Any]:
    """Numbers from -largest to largest, zeros and subnormal ones among them."""
    width = {2: 16, 4: 32, 8: 64}[4 if jnp.dtype(dtype) == jnp.bfloat16 else jnp.dtype(dtype).itemsize]
    return st.floats(-largest, largest, width=width)


def dyadic() -> st.SearchStrategy[Any]:
    """Quarters from -8 to 8: their sums and means are exact in every dtype."""
    return st.integers(-32, 32).map(lambda n: n / 4)


def filled(like: Any, elements: Callable[[Any], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Arrays for a tree of `jax.ShapeDtypeStruct`; `elements` is given each leaf's dtype."""
    leaves, structure = jax.tree.flatten(like)
    drawn = [
        arrays(np.float64, x.shape, elements=elements(x.dtype)).map(lambda a, x=x: jnp.asarray(a.astype(x.dtype)))
        for x in leaves
    ]
    return st.tuples(*drawn).map(structure.unflatten)
