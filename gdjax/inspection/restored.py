"""Whether what a checkpoint has, or what came back of it, is what was asked for."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.structures import few, listed
from gdjax.core.types import ArrayTree
from gdjax.numerics import is_key

__all__ = ["check_restored"]

LABEL = "gdjax.check_restored"
CARRY = "For another optimizer restore with the one that was saved, and give the state to gdjax.migrate"
EMPTY = "is the checkpoint whole, and is this the item of it that has these? An older step may be whole"
Leaves = dict[tuple[str, ...], tuple[str, Any]]  # from a path, as names, to how JAX shows it, and the leaf


def check_restored(restored: Any, target: ArrayTree, *, start: ArrayTree | None = None) -> None:
    """Raises where a checkpoint, or what a restore made of it, is not what the target asks for.

        make = jax.jit(start, out_shardings=shardings)  # start makes (params, tx.init(params))
        target = make.eval_shape()                      # shapes, dtypes and shardings, no arrays
        with ocp.CheckpointManager(folder, item_handlers=ocp.StandardCheckpointHandler()) as manager:
            gdjax.check_restored(manager.item_metadata(step), target)              # before anything is read
            params, state = manager.restore(step, args=ocp.args.StandardRestore(target))
        gdjax.check_restored((params, state), target)                              # what came back

    Orbax itself refuses other names and shapes. It converts other dtypes without a word, which makes nonsense where
    one side has numbers and the other codes of numbers. This function finds these as well:

    - a leaf of another dtype, or that only one of the two has;
    - one that was not restored: it still is a `ShapeDtypeStruct`, or the very array of the target;
    - one that lies on other devices, or is divided in another way, than the target says;
    - with `start`, a state that is that of a new run: somebody made one where nothing could be restored.

    Nothing is read but shapes, types and places; with `start` arrays too, from the smallest on until one differs, which
    in most states is a count.

    Args:
      restored: what a checkpoint has, before it is read (the metadata of Orbax: dicts and lists), or what came back.
      target: a tree of arrays, or of `jax.ShapeDtypeStruct`, as given to the restore.
      start: what a new run begins with, of the same leaves: a state, for one that had made a step when it was saved.

    Raises:
      ValueError: `restored` is not what the target asks for; the message names the leaf, both sides and what to do.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> saved = gdjax.adamw(1e-3).init({"w": jnp.zeros(2)})
      >>> target = jax.eval_shape(gdjax.lion(1e-3).init, {"w": jnp.zeros(2)})
      >>> try:
      ...     gdjax.check_restored(saved, target)
      ... except ValueError as error:
      ...     print(str(error).partition(":")[2].partition(":")[0])
       [0].nu['w'] float32[2] was saved, and the target has no such leaf
    """
    if jax.tree_util.all_leaves([restored]):
        restored = getattr(restored, "tree", restored)  # Orbax's TreeMetadata
    found, wanted = _leaves(restored), _leaves(target)
    if wanted and not found:
        names = few((shown for shown, _ in wanted.values()), 3)
        raise ValueError(f"{LABEL}: nothing was found, and the target has {names}: {EMPTY}")
    for differences, advice in CHECKS:
        if differ := [*differences(found, wanted)]:
            raise ValueError(f"{LABEL}: {listed(differ, '; ')}: {advice}")
    if start is not None and found and _all_equal(found, _leaves(start)):
        raise ValueError(f"{LABEL}: all arrays are those of start: this is a new run, and nothing was restored")


def _leaves(tree: Any) -> Leaves:
    """Orbax makes a key of the name of a field, a list of a tuple: these have the same names."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {tuple(map(_key, path)): (jax.tree_util.keystr(path) or "the tree", x) for path, x in leaves}


def _key(entry: Any) -> str:
    return str(next((getattr(entry, name) for name in ("key", "name", "idx") if hasattr(entry, name)), entry))


def _only_one_has(restored: Leaves, wanted: Leaves) -> Iterator[str]:
    for shown, x in (leaf for key, leaf in wanted.items() if key not in restored):
        yield f"{shown} {_type(x)} is wanted, and was not saved"
    for shown, x in (leaf for key, leaf in restored.items() if key not in wanted):
        yield f"{shown} {_type(x)} was saved, and the target has no such leaf"


def _left(restored: Leaves, wanted: Leaves) -> Iterator[str]:
    """What is no more than the target: a shape, a mark of something left out, or the target's own array."""
    for key, (shown, y) in wanted.items():
        x = restored[key][1]
        if isinstance(x, jax.ShapeDtypeStruct) or x is ... or (isinstance(y, jax.Array) and x is y):
            yield f"{shown} came back as it is in the target, and was not restored"


def _of_another_shape(restored: Leaves, wanted: Leaves) -> Iterator[str]:
    for key, (shown, y) in wanted.items():
        x = restored[key][1]
        shape = _shape(x)[:-1] if _is_data_of(x, y) else _shape(x)
        if shape != _shape(y):
            yield f"{shown} was saved as {_type(x)}, and the target has {_type(y)}"


def _of_another_dtype(restored: Leaves, wanted: Leaves) -> Iterator[str]:
    for key, (shown, y) in wanted.items():
        x = restored[key][1]
        if _dtype(x) != _dtype(y) and not _is_data_of(x, y):
            yield f"{shown} was saved as {_type(x)}, and the target has {_type(y)}"


def _is_data_of(x: Any, y: Any) -> bool:
    """Whether y is a PRNG key and x its data, as which it is saved."""
    return is_key(y) and _dtype(x) == np.uint32


def _elsewhere(restored: Leaves, wanted: Leaves) -> Iterator[str]:
    for key, (shown, y) in wanted.items():
        x, place = restored[key][1], getattr(y, "sharding", None)
        if place is None or not getattr(y, "committed", True):  # an array of the target that may move says nothing
            continue
        if isinstance(x, jax.Array) and not x.sharding.is_equivalent_to(place, x.ndim):
            yield f"{shown} lies as {_placed(x.sharding)}, and the target as {_placed(place)}"


def _all_equal(restored: Leaves, start: Leaves) -> bool:
    pairs = [(x, start[key][1]) for key, (_, x) in restored.items() if key in start]
    pairs.sort(key=lambda pair: np.size(pair[0]))
    return bool(pairs) and all(isinstance(x, jax.Array | np.ndarray) and _equal(x, y) for x, y in pairs)


def _equal(x: Any, y: Any) -> bool:
    if is_key(x):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    # An array that is divided over processes is nowhere as a whole; of others the places may differ.
    here = all(getattr(z, "is_fully_addressable", True) or z.is_fully_replicated for z in (x, y))
    return bool(np.array_equal(x, y) if here else jnp.array_equal(x, y))


def _type(x: Any) -> str:
    return f"{_dtype(x)}[{','.join(map(str, _shape(x)))}]"


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _placed(sharding: Any) -> str:
    return f"{getattr(sharding, 'spec', sharding)} on {len(sharding.device_set)} devices"


CHECKS = (  # in this order: each needs what those before it have found to be so
    (_only_one_has, f"a checkpoint of another model or optimizer? {CARRY}"),
    (_left, "does the restore get the target, and is its result the one that is used?"),
    (_of_another_shape, "a checkpoint of a model of another size?"),
    (_of_another_dtype, f"a restore would convert it, and a code is not a number. {CARRY}"),
    (_elsewhere, "give the shardings to the restore, as those of the target"),
)
