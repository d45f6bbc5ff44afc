"""States set back in part, and states as plain dicts that outlive a change of the chain."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, callers, meshes
from gdjax.core.parts import state_arrays
from gdjax.core.paths import Pattern, mask_by_path
from gdjax.core.structures import few
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection.walk import Entry, entries, pairs
from gdjax.numerics import is_key

__all__ = ["reset", "state_from_dict", "state_to_dict"]

VERSION = 1
KINDS = jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating  # each holds the numbers of those before it


def reset(
    tx: Transform, state: OptState, params: Params, where: Pattern | Sequence[Pattern] | None = None,
    fields: str | Sequence[str] | None = None,
) -> OptState:  # fmt: skip
    """Puts a part of a state back to its start, that of `tx.init(params)`; the rest stays as it is.

        reset(tx, state, params, where="decoder")          # all that the state keeps for these parameters
        reset(tx, state, params, fields="mu")              # the first moments of all parameters
        reset(tx, state, params, where="decoder", fields=["nu", "count"])

    Args:
      tx: the optimizer that the state is of.
      state: as `update` returned it.
      params: the parameters, from which the start is made.
      where: which parameters: regular expressions, searched for anywhere in the paths, or predicates of `(path, leaf)`.
        Numbers for the whole tree, as the count, stay.
      fields: names of fields, of transforms ("scale_by_adam") or of groups of `partition`: what is under one of them.
        A number for the whole tree is set back if its field, its transform or its group is named.

    A moment that is set back without its count is not corrected for its start. With the defaults of Adam the first
    update then has the size (1 - b1) / sqrt(1 - b2) = 3.2 rates if both moments are set back, 32 if only nu is.

    Warns:
      UserWarning: what SOAP and the like keep of all matrices of one shape in one stack stays as it is, with `where`.

    Raises:
      ValueError: neither `where` nor `fields` is given; a pattern matches no parameter, a name nothing in the state, or
        both together nothing; the state is not one of `tx`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.sgd(0.1, momentum=0.9)
      >>> params = {"decoder": jnp.ones(2), "encoder": jnp.ones(2)}
      >>> _, state = tx.update(params, tx.init(params))
      >>> state = gdjax.reset(tx, state, params, where="decoder")
      >>> trace = gdjax.tree.get(state, "trace")
      >>> print(trace["decoder"], trace["encoder"])
      [0. 0.] [1. 1.]
    """
    label = "gdjax.reset"
    base.check_transform(label, "tx", tx)
    if where is None and fields is None:
        raise ValueError(f"{label}: give where or fields; tx.init(params) sets everything back")
    start = tx.init(params)
    old, fresh = entries(label, state), entries(label, start)
    if wrong := sorted({x.path for x in old} ^ {x.path for x in fresh}):
        raise ValueError(f"{label}: the state is not one of {tx!r}: only one of the two has {', '.join(wrong)}")
    chosen = _chosen_leaves(where, params)
    wanted = (fields,) if isinstance(fields, str) else tuple(fields or ())
    if unknown := [name for name in wanted if not any(name in (*x.names, x.field) for x in old)]:
        known = sorted({name for x in old for name in (*x.names, x.field)})
        raise ValueError(f"{label}: nothing in the state is called {', '.join(map(repr, unknown))}, but {known}")

    def is_chosen(x: Entry, leaf: int | None) -> bool:
        named = not wanted or any(name in wanted for name in (*x.names, x.field))
        return named and (chosen[leaf] if leaf is not None else bool(wanted))

    whose = state_arrays(tx, start, params)
    flags = [is_chosen(x, y.leaf) for x, y in zip(old, whose, strict=True)]
    if not any(flags):
        raise ValueError(f"{label}: the state keeps nothing of that for these parameters")
    left = [x.of for x, y, flag in zip(old, whose, flags, strict=True) if where and y.of_several and not flag]
    if shared := sorted(set(left)):
        why = "keeps matrices of one shape together, whose ever they are, and stays as it is; fields would set it back"
        callers.warn(f"{label}: {', '.join(shared)} {why}")
    anew = {x.path: x.value for x in fresh}  # nnx keeps the arrays of a code in another order
    values = [anew[x.path] if flag else x.value for x, flag in zip(old, flags, strict=True)]
    return jax.tree.structure(state).unflatten(values)


def _chosen_leaves(where: Any, params: Params) -> list[bool]:
    """Whether each parameter is chosen."""
    if where is None:
        return [True] * len(jax.tree.leaves(params))
    several = where if isinstance(where, Sequence) and not isinstance(where, str) else (where,)
    return jax.tree.leaves(mask_by_path(*several)(params))


def state_to_dict(state: OptState) -> dict[str, Any]:
    """A state as nested dicts of arrays with strings for keys, to be saved in any format.

        {"version": 1, "state": {"scale_by_adam": {"count": ..., "mu": {"w": ...}, "nu": {"w": ...}}}}

    The names do not depend on the place in a chain: `state_from_dict` reads it for an optimizer with a transform more
    or less, too. PRNG keys are there as their raw data. What has no arrays, such as the state of a clip, is left out.

    Args:
      state: of any optimizer of this library.

    Raises:
      ValueError: two arrays go by one name, because keys of the parameters are alike as strings.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.1, momentum=0.9))
      >>> saved = gdjax.state_to_dict(tx.init({"w": jnp.zeros(2)}))
      >>> saved["version"], list(saved["state"])
      (1, ['trace'])
      >>> print(saved["state"]["trace"]["trace"]["w"])
      [0. 0.]
    """
    nested: dict[str, Any] = {}
    for x in entries("gdjax.state_to_dict", state):
        *groups, last = x.path.split("/")
        inside = nested
        for name in groups:
            inside = inside.setdefault(name, {})
        inside[last] = jax.random.key_data(x.value) if is_key(x.value) else x.value
    return {"version": VERSION, "state": nested}


def state_from_dict(tx: Transform, saved: Mapping[str, Any], params: Params) -> OptState:
    """The state of `tx` from what `state_to_dict` made, for the same optimizer or one like it.

    Args:
      tx: the optimizer that goes on. It may have transforms or wrappers that the saved one had not, and the other way
        round.
      saved: nested dicts, or one with keys such as "state/scale_by_adam/mu/w". The arrays may be NumPy's, or lists as
        JSON has them: they get the dtypes of the state.
      params: the parameters, from which what is not in `saved` starts.

    Warns:
      UserWarning: a part of the state is not in `saved` and starts anew, or a part of `saved` is not used.

    Raises:
      ValueError: `saved` is of another version, has nothing of the state, or an array has another shape; the message
        names the field and the leaf.
      TypeError: an array is of another kind: a floating one for whole numbers, for instance.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.zeros(2)}
      >>> saved = gdjax.state_to_dict(gdjax.adam(1e-3).init(params))
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.adam(1e-4))  # goes on with the moments
      >>> state = gdjax.state_from_dict(tx, saved, params)
      >>> print(gdjax.tree.get(state, "count"))
      0
    """
    label = "gdjax.state_from_dict"
    base.check_transform(label, "tx", tx)
    flat = dict(_flat(saved))
    if "version" not in flat or int(flat["version"]) != VERSION:
        version = flat.get("version", "none")
        raise ValueError(f"{label}: version {version} of a saved state; this gdjax reads {VERSION}, by state_to_dict")
    theirs = {path.removeprefix("state/"): x for path, x in flat.items() if path.startswith("state/")}
    fresh = tx.init(params)
    mine = entries(label, fresh)
    sources = pairs([x.path for x in mine], [x.end for x in mine], list(theirs))
    anew = [x for x in mine if x.path not in sources]
    unused = set(theirs) - set(sources.values())
    if mine and theirs and not sources:
        paths = few((x.path for x in mine), 8)
        raise ValueError(f"{label}: nothing of {few(theirs, 8)} is in the state, which has {paths}")
    if anew or unused:
        parts = [f"not saved, and starts anew: {few(dict.fromkeys(x.of for x in anew), 8)}"] if anew else []
        parts += [f"saved and not used: {few(sorted(unused), 8)}"] if unused else []
        callers.warn(f"{label}: {'; '.join(parts)}")
    values = [_restored(label, x, theirs[sources[x.path]]) if x.path in sources else x.value for x in mine]
    return jax.tree.structure(fresh).unflatten(values)


def _flat(nested: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(nested, Mapping):
        for key, x in nested.items():
            yield from _flat(x, f"{path}/{key}" if path else str(key))
    else:
        yield path, nested


def _restored(label: str, x: Entry, saved: Any) -> Any:
    """A saved array in the dtype, the place and the form of the one at the start."""
    like = jax.random.key_data(x.value) if is_key(x.value) else x.value
    new = saved if hasattr(saved, "dtype") else np.asarray(saved)
    where = f"{label}: {x.of}, params/{x.leaf}" if x.leaf else f"{label}: {x.of}"
    if new.shape != like.shape:
        raise ValueError(f"{where}: saved with shape {new.shape}, expected {like.shape}")
    if new.dtype.kind == "V" and new.dtype.itemsize == like.dtype.itemsize and not hasattr(saved, "sharding"):
        new = new.view(like.dtype)  # NumPy's files know no bfloat16
    if not 0 <= _kind(new.dtype) <= _kind(like.dtype):
        raise TypeError(f"{where}: saved with dtype {new.dtype}, expected {like.dtype}")
    new = meshes.placed(jnp.asarray(new).astype(like.dtype), like)
    return jax.random.wrap_key_data(new, impl=jax.random.key_impl(x.value)) if is_key(x.value) else new


def _kind(dtype: Any) -> int:
    return next((i for i, kind in enumerate(KINDS) if jnp.issubdtype(dtype, kind)), -1)
