"""The arguments of `minimize`, the loss, its batches and the transform: errors and warnings that say what to do."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gdjax.combine.chain import flips, leaf_rules
from gdjax.lift.leafwise import Leafwise


def checked(label: str, loss_fn: Callable[..., Any], has_aux: bool, data: Any) -> Callable[..., Any]:
    """`loss_fn` with a pair for its result in any case; the result is checked while it is traced."""

    def f(params: Any, *batch: Any) -> tuple[Any, Any]:
        try:
            result = loss_fn(params, *batch)
        except (TypeError, ValueError) as e:
            if isinstance(data, tuple | list) and data and all(hasattr(x, "shape") for x in data):
                e.add_note(
                    f"{label}: data is an iterable of batches, here of {len(data)}, one array each; "
                    "for one batch of several arrays pass data=[(x, y)]"
                )
            raise
        pair = isinstance(result, tuple | list) and len(result) == 2
        if has_aux and not pair:
            raise TypeError(f"{label}: with has_aux loss_fn returns a pair, the loss and more; got {_kind(result)}")
        loss: Any
        loss, aux = result if has_aux else (result, None)
        if not (hasattr(loss, "dtype") or isinstance(loss, int | float | complex)):
            hint = "; if the first is the loss, pass has_aux=True" if pair and not has_aux else ""
            raise TypeError(f"{label}: loss_fn must return a real scalar, got {_kind(loss)}{hint}")
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            hint = "; take the mean or the sum" if jnp.shape(loss) else ""
            raise TypeError(
                f"{label}: loss_fn must return a real scalar, got shape {jnp.shape(loss)} and dtype "
                f"{jnp.result_type(loss)}{hint}"
            )
        return jnp.asarray(loss), aux

    return f


def batches(label: str, data: Iterable[Any] | None) -> Iterator[tuple[Any, ...]]:
    """For each step the arguments of the loss after the parameters."""
    if data is None:
        yield from itertools.repeat(())
    elif isinstance(data, str | Mapping) or not isinstance(data, Iterable):
        raise TypeError(f"{label}: data must be an iterable of batches, got {type(data).__name__}")
    else:
        empty = False
        while not empty:
            empty = True  # and stays so if an iterator has ended
            for batch in data:
                empty = False
                yield (batch,)


def warn_of_ascent(label: str, tx: Any) -> None:
    """Warns if `tx` makes updates that go up the gradient, as far as this can be told before the run.

    It does not warn of transforms that do not show their rules, nor of rules that have a learning rate of their own and
    keep the sign on purpose. For the rest, such as `scale_by_adam()` alone, an update of four numbers tells.
    """
    rules = list(leaf_rules(tx))
    rates = [flips(rule) for rule in rules if rule is not None and "learning_rate" in rule.hyper]
    if None in rules or sum(rates) % 2 or not all(rates) or any(type(rule) is not Leafwise for rule in rules):
        return
    p, g = jnp.ones(4), jnp.arange(1.0, 5.0)
    try:
        u, _ = tx.update(g, tx.init(p), p)
        ascends = float(jnp.vdot(u, g)) > 0
    except Exception:  # the mask is for another tree, or an argument is missing that only the program has
        return
    if ascends:
        warnings.warn(
            f"{label}: the updates of tx go up the gradient: end it with one gdjax.scale_by_learning_rate(...), "
            "which multiplies by -1",
            stacklevel=3,
        )


def warn_of_negative_rates(label: str, history: Mapping[str, np.ndarray]) -> None:
    """Warns if a learning rate in the history was below 0."""
    for name, rates in history.items():
        below = np.flatnonzero(rates < 0) if name.rpartition("/")[2] == "learning_rate" else []
        if len(below):
            warnings.warn(
                f"{label}: {name} is {rates[below[0]]} at step {below[0]}, and below 0 in {len(below)} of {len(rates)} "
                "steps: there the updates go up the gradient",
                stacklevel=4,
            )


def _kind(x: Any) -> str:
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of {len(x)}"
    return f"an array of shape {x.shape}" if hasattr(x, "shape") else f"a {type(x).__name__}"
