"""Functions that users pass: how they are called, and where a call stands in their code."""

import contextlib
import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import jax

from gdjax.core import structures
from gdjax.core.contexts import WHERE
from gdjax.core.types import ArrayTree

# JAX lies in between while `init` is traced, the other two between a decorated function and its call.
_BETWEEN = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    os.path.dirname(jax.__file__) + os.sep,
    contextlib.__file__,
    functools.__file__,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the line that called the library: the nearest frame outside the library and JAX.

    No one `stacklevel` would do: it differs by the way in, through `chain`, `init` or a trace.
    """
    if WHERE.get().warned:
        return
    here = sys._getframe(1)
    at: FrameType | None = here
    while at is not None and at.f_code.co_filename.startswith(_BETWEEN):
        at = at.f_back
    at = at or here
    registry = at.f_globals.setdefault("__warningregistry__", {})  # shows a warning once for each line
    module = at.f_globals.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, at.f_code.co_filename, at.f_lineno, module, registry)


def line(outside: str) -> str:
    """The nearest calling line outside a file: "clipping.py:84"."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == outside:
        frame = frame.f_back
    return "" if frame is None else f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def parameters(fun: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function; none for one without a signature."""
    try:
        return [*inspect.signature(fun).parameters.values()]
    except (TypeError, ValueError):
        return []


def positional(fun: Callable[..., Any]) -> list[str]:
    """The arguments that a call may pass by position."""
    return [x.name for x in parameters(fun) if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]


def by_position(
    fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, by position up to the first one that the call leaves out."""
    rest = dict(kwargs)
    for name in positional(fun)[len(args) :]:
        if name not in rest:
            break
        args += (rest.pop(name),)
    return args, rest


def place(label: str, fun: Callable[..., Any], wanted: int | str, count: int, kwargs: Mapping[str, Any]) -> int | str:
    """Where a call passes an argument: its position, if that is below `count`, or its name in `kwargs`.

    Raises:
      ValueError: the call does not pass it.
    """
    names = positional(fun)
    if isinstance(wanted, str):
        at = names.index(wanted) if wanted in names else -1
    else:
        at = wanted + count if wanted < 0 else wanted
    if 0 <= at < count:
        return at
    name = names[at] if 0 <= at < len(names) else wanted
    if name not in kwargs:
        raise ValueError(f"{label}: the call has no argument {wanted!r}, which has a batch axis")
    return name


def schedule(label: str, name: str, value: Callable[..., Any]) -> None:
    """Raises unless the schedule of the hyperparameter `name` can be called with the count alone."""
    if slip := _misfit(value, (None,), {0: "write lambda count: ..."}, f"call it: {shown(value)}(...)"):
        raise TypeError(f"{label}: {name}: a schedule is called with the count, and {shown(value)} {slip}")


def of_tree(label: str, name: str, fun: Callable[..., Any], tree: ArrayTree) -> Any:
    """fun(tree), for a function of the parameters or updates that was passed as the argument `name`.

    Raises:
      TypeError: it cannot be called with the tree alone.
      ValueError: it raised an error, which is the cause of this one. Errors of this library stay what they are.
    """
    try:
        return fun(tree)
    except Exception as e:
        if _is_ours(e):
            raise
        what = f"{label}: {name}: the function {shown(fun)} is called with the whole tree"
        with_path = f"a function of (path, leaf) is a pattern of gdjax.mask_by_path or label_by_path: {shown(fun)}"
        if slip := _misfit(fun, (tree,), {0: "write lambda params: ...", 2: with_path}):
            raise TypeError(f"{what}, but it {slip}") from e
        of_a_leaf = isinstance(e, AttributeError | TypeError) and structures.is_container(tree)
        slip = "; if it is for one leaf, write lambda params: jax.tree.map(f, params)" if of_a_leaf else ""
        raise ValueError(f"{what}, {structures.described(tree)}, and raised {_one_line(e)}{slip}") from e


def of_leaf(label: str, fun: Callable[..., Any], path: str, leaf: object) -> bool:
    """Whether fun(path, leaf) is true, for a function that serves as a pattern of paths.

    Raises:
      TypeError: it cannot be called with a path and a leaf, or what it returned is neither true nor false.
      ValueError: it raised an error, which is the cause of this one.
    """
    what = f"{label}: the pattern {shown(fun)}"
    try:
        result = fun(path, leaf)
    except Exception as e:
        if _is_ours(e):
            raise
        if slip := _misfit(fun, (path, leaf), dict.fromkeys((0, 1), "write lambda path, leaf: ...")):
            raise TypeError(f"{what} is called with (path, leaf), but it {slip}") from e
        here = f"{path!r} and {structures.described(leaf)}"
        raise ValueError(f"{what} is called with (path, leaf), here {here}, and raised {_one_line(e)}") from e
    try:
        return bool(result)
    except Exception as e:
        got = f"{structures.described(result)} for {path!r}, which is neither true nor false"
        raise TypeError(f"{what} returned {got}; let it decide by the path, the shape or the dtype") from e


def shown(fun: object) -> str:
    """The name of a function."""
    return getattr(fun, "__name__", repr(fun))


def _misfit(fun: Callable[..., Any], args: tuple[Any, ...], remedies: Mapping[int, str], otherwise: str = "") -> str:
    """If a function cannot be called with `args`, the arguments it takes, and the remedy by their number; else ""."""
    try:
        inspect.signature(fun).bind(*args)
    except ValueError:  # it has no signature
        return ""
    except TypeError:
        needed = [p.name for p in parameters(fun) if p.default is p.empty and "VAR" not in p.kind.name]
        remedy = remedies.get(len(needed), otherwise)
        return f"takes {structures.listed(needed) or 'no argument'}" + (f"; {remedy}" if remedy else "")
    return ""


def _is_ours(error: Exception) -> bool:
    """Whether an error names its transform already, as those of `mask_by_path` do."""
    return bool(error.args) and str(error.args[0]).startswith("gdjax.")


def _one_line(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
