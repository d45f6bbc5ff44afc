"""What a call means beside its arguments: where an update runs, and the pass over its leaves. There are no others."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

PLATFORMS = frozenset(["cpu", "cuda", "rocm", "tpu", "other"])


class Where(NamedTuple):
    """Where an update runs, and on what."""

    mesh: Any = None  # see `meshes.owned_by`
    tiles: Any = ()  # see `owners.tiles_of`
    platforms: frozenset[str] = PLATFORMS  # on which the program may run; see `meshes.by_platform`
    params: Any = None  # all parameters, of which `update` may get some; see `types.left_out`
    tried: bool = False  # whether it is only tried, on arrays of other shapes; see `lift.probe`
    warned: bool = False  # whether a call is repeated, which has warned of its arguments already


class Pass(NamedTuple):
    """What the rules of a pass find in it."""

    replay: Any = None  # of the rules of one leaf; see `lift.meetings`
    answer: Any = None  # what meetings are told; see `lift.meetings`
    widened: Any = ()  # arrays and what they were widened from; see `xla.reads`
    selection: Any = None  # of a step that may be left out; see `lift.all_leaves`


WHERE, PASS = ContextVar("gdjax_where", default=Where()), ContextVar("gdjax_pass", default=Pass())  # noqa: B039


@contextlib.contextmanager
def within(variable: ContextVar[Any], **fields: Any) -> Iterator[None]:
    """Here some fields of a context are others."""
    token = variable.set(variable.get()._replace(**fields))
    try:
        yield
    finally:
        variable.reset(token)
