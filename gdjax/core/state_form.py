"""An update keeps the form of a state: its structure and its classes."""

import jax

from gdjax.core.skipped import is_skipped
from gdjax.core.types import OptState


def as_formed(new: OptState, old: OptState) -> OptState:
    """A new state in the form of the old one, as `jax.lax.scan` requires of its carry.

    Where the old state has an Optax class with the same fields, the new one gets it too. Where a gradient is missing
    and the new state has None, the old array stays.
    """
    if jax.tree.structure(old) == jax.tree.structure(new):
        return new
    if is_skipped(new):
        return old
    fields = getattr(new, "_fields", None)
    if isinstance(new, tuple) and isinstance(old, tuple) and len(old) == len(new):
        if getattr(old, "_fields", None) != fields:
            return new
        parts = map(as_formed, new, old)
        return tuple(parts) if fields is None else type(old)(*parts)
    if isinstance(new, dict) and isinstance(old, dict) and old.keys() == new.keys():
        return type(new)((k, as_formed(x, old[k])) for k, x in new.items())
    try:
        return jax.tree.map(lambda x, y: y if is_skipped(x) else x, new, old, is_leaf=is_skipped)
    except (ValueError, TypeError):  # a different structure, which this function must not hide
        return new
