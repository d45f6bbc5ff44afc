"""Claims of `docs/from_optax.md`: what a program gives with Optax and with gdjax in its place."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import relaxed


class Claim(NamedTuple):
    """What one program, a function of the library, must give: a value, a predicate of it, or the class of an error."""

    theirs: Any
    ours: Any
    program: Callable[[Any], Any]


CLAIMS: dict[str, list[Claim]] = {}  # by the beginning of a row, as the page has it


def claim(*rows: str, theirs: Any, ours: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def add(program: Callable[[Any], Any]) -> Callable[[Any], Any]:
        for row in rows:
            CLAIMS.setdefault(row, []).append(Claim(theirs, ours, program))
        return program

    return add


def told(f: Callable[[], Any]) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f()
    return [str(w.message) for w in caught]


def met(program: Callable[[Any], Any], library: Any, expected: Any) -> bool:
    refused = isinstance(expected, type) and issubclass(expected, Exception)
    try:
        with relaxed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = program(library)
    except Exception as e:
        if refused and isinstance(e, expected):
            return True
        raise
    if refused:
        return False
    if callable(expected):
        return bool(expected(got))
    return type(expected) is type(got) and bool(np.all(got == expected))


def updates(tx: Any, gs: Any, p: Any, **extra: Any) -> list[Any]:
    """Those of a run in which the parameters stay."""
    state, found = tx.init(p), []
    for g in gs:
        u, state = tx.update(g, state, p, **extra)
        found.append(u)
    return found


def last(tx: Any, gs: Any, p: Any, **extra: Any) -> Any:
    return updates(tx, gs, p, **extra)[-1]


def dtypes(tree: Any) -> set[str]:
    return {str(x.dtype) for x in jax.tree.leaves(tree)}


def is_nan(x: Any) -> bool:
    return bool(jnp.any(jnp.isnan(jnp.asarray(x))))


def finite(x: Any) -> bool:
    return all(bool(jnp.all(jnp.isfinite(jnp.asarray(y)))) for y in jax.tree.leaves(x))


def near(value: Any, tolerance: float = 1e-5) -> Callable[[Any], bool]:
    return lambda got: bool(np.allclose(np.asarray(got, np.float64), value, rtol=tolerance, atol=tolerance * 1e-3))


def apart(value: Any, tolerance: float = 1e-5) -> Callable[[Any], bool]:
    return lambda got: not near(value, tolerance)(got)


def anything(got: Any) -> bool:
    return True
