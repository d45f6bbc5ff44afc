"""The arguments of `minimize`, the loss, its batches and the transform: errors and warnings that say what to do."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.combine.chain import flips, leaf_rules
from gdjax.core import callers
from gdjax.core.types import ArrayTree, KeyLike, Params, Transform
from gdjax.lift.rule import Leafwise

GIVEN = "value", "grad", "value_fn"  # what an `update` that takes extra arguments gets in any case
_BY_PLACE = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def checked(label: str, loss_fn: Callable[..., Any], has_aux: bool, data: ArrayTree) -> Callable[..., Any]:
    """`loss_fn` with a pair for its result in any case; the result is checked while it is traced."""

    def f(params: Params, *batch: Any, **key: KeyLike | None) -> tuple[Any, Any]:
        try:
            result = loss_fn(params, *batch, **key)
        except (TypeError, ValueError) as e:
            if isinstance(data, tuple | list) and data and all(hasattr(x, "shape") for x in data):
                e.add_note(
                    f"{label}: data is a {type(data).__name__} of {len(data)} arrays, and each is taken for a batch; "
                    "for one batch of several arrays pass data=[(x, y)] or itertools.repeat((x, y))"
                )
            raise
        pair = isinstance(result, tuple | list) and len(result) == 2
        if has_aux and not pair:
            raise TypeError(f"{label}: with has_aux loss_fn returns a pair, the loss and more; got {_kind(result)}")
        loss: Any
        loss, aux = result if has_aux else (result, None)
        if not (hasattr(loss, "dtype") or isinstance(loss, int | float | complex)):
            with_aux = "; if the first is the loss, pass has_aux=True" if pair and not has_aux else ""
            hint = _slip(loss, params) or with_aux
            raise TypeError(f"{label}: loss_fn must return a real scalar, got {_kind(loss)}{hint}")
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            to_scalar = _slip(loss, params) or "; take the mean or the sum"
            hint = to_scalar if jnp.shape(loss) else _of_integers(loss, params)
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
    elif _is_one_batch(data):
        shapes = " and ".join(str(x.shape) for x in data)
        raise TypeError(
            f"{label}: data is an iterable of batches, got a {type(data).__name__} of arrays of shapes {shapes}: pass "
            "data=[(x, y)] if they are one batch, data=[x1, x2], a list, or an iterator if each is one"
        )
    else:
        empty = False
        while not empty:
            empty = True  # and stays so if an iterator has ended
            for batch in data:
                empty = False
                yield (batch,)


def _is_one_batch(data: ArrayTree) -> bool:
    """Whether `data` is one such as (x, y): arrays with as many rows each, in a tuple, or of several ranks in a list.

    A list of arrays of one rank is one of batches.
    """
    arrays = isinstance(data, tuple | list) and len(data) > 1 and all(getattr(x, "shape", ()) for x in data)
    if not arrays or len({x.shape[0] for x in data}) > 1:
        return False
    return isinstance(data, tuple) or len({len(x.shape) for x in data}) > 1


def check_arguments(label: str, loss_fn: Callable[..., Any], data: ArrayTree, key: KeyLike | None) -> None:
    """Raises where the loss needs a batch and there is no data, or a key, or is given one that it does not take."""
    try:
        parameters = inspect.signature(loss_fn).parameters
    except (TypeError, ValueError):  # a callable that tells nothing
        return
    needed = [p.name for p in parameters.values() if p.kind in _BY_PLACE and p.default is p.empty]
    if data is None and len([name for name in needed if name != "key" or key is None]) > 1:
        or_key = ", or key=" if "key" in needed and key is None else ""
        has = ", ".join(needed)
        raise TypeError(f"{label}: loss_fn takes ({has}), and without data gets the first: pass data={or_key}")
    named = [p for p in parameters.values() if p.name == "key" and p.kind is not p.POSITIONAL_ONLY]
    if key is None and any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in named):
        raise TypeError(f"{label}: loss_fn takes a key; pass key=jax.random.key(0), from which each step gets its own")
    if key is not None and not named and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        has = ", ".join(parameters)
        raise TypeError(f"{label}: with key=, loss_fn gets an argument `key`; it has ({has}): add one of that name")


def checked_functions(label: str, extra_fns: Mapping[str, Callable[..., Any]] | None) -> dict[str, Callable[..., Any]]:
    """The functions by their names; raises where one is none, or has the name of what every `update` gets."""
    for name, f in (extra_fns or {}).items():
        if not callable(f):
            raise TypeError(f"{label}: extra_fns[{name!r}] must be a function of the parameters, got {f!r}")
        if name in GIVEN:
            raise ValueError(f"{label}: extra_fns has {name!r}, which is made from loss_fn: leave it out")
    return dict(extra_fns or {})


def warn_of_ascent(label: str, tx: Transform) -> None:
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
        callers.warn(
            f"{label}: the updates of tx go up the gradient: end it with one gdjax.scale_by_learning_rate(...), "
            "which multiplies by -1"
        )


def warn_of_negative_rates(label: str, history: Mapping[str, np.ndarray], first_step: int) -> None:
    """Warns if a learning rate in the history was below 0."""
    for name, rates in history.items():
        below = np.flatnonzero(rates < 0) if name.rpartition("/")[2] == "learning_rate" else []
        if len(below):
            callers.warn(
                f"{label}: {name} is {rates[below[0]]} at step {first_step + below[0]}, and below 0 in {len(below)} of "
                f"{len(rates)} steps: there the updates go up the gradient"
            )


def _slip(result: object, params: Params) -> str:
    """What was probably done where a loss returned no real scalar; empty where nothing is known."""
    leaves, structure = jax.tree.flatten(params)
    results = jax.tree.leaves(result)
    if jax.tree.structure(result) != structure or not all(hasattr(x, "shape") for x in results):
        return ""
    if [x.shape for x in results] != list(map(jnp.shape, leaves)):
        return ""
    if isinstance(result, tuple | list) and results[0].shape == ():  # the loss and more
        return ""
    or_sum = "take the mean or the sum, or " if hasattr(result, "shape") else ""  # a loss of each parameter
    return f"; {or_sum}pass the loss itself, not its gradient"


def _of_integers(loss: object, params: Params) -> str:
    exact = [jnp.issubdtype(jnp.result_type(x), jnp.integer) for x in (loss, *jax.tree.leaves(params))]
    return "; the parameters are integers: write 1.0 for 1" if exact[0] and any(exact[1:]) else ""


def _kind(x: Any) -> str:
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of {len(x)}"
    return f"an array of shape {x.shape}" if hasattr(x, "shape") else f"a {type(x).__name__}"


def check_again(label: str, data: Iterable[Any] | None) -> None:
    """Raises where `data` can be iterated once only, and several runs are to see it."""
    if isinstance(data, Iterator):
        raise TypeError(f"{label}: data is an iterator, which ends with the first run; pass a list of batches")


def made(label: str, where: str, pair: Any) -> tuple[Callable[..., Any], Params]:
    """The loss and the parameters that a user's `make` returned."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and callable(pair[0])):
        raise TypeError(f"{label}: {where} must return (loss_fn, params), got {type(pair).__name__}")
    return pair[0], pair[1]
