"""Code for one kind of device, chosen when a program is lowered, or earlier if the kind is known."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gdjax.core.contexts import WHERE, within

_SEVERAL = "xla_cpu_use_multi_output_fusion"


def by_platform(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """`jax.lax.platform_dependent`; inside `branches` the choice is already made.

    A choice already made costs no trace of the other functions and no condition in the program.
    """
    chosen = {others.get(kind, default) for kind in WHERE.get().platforms}
    if len(chosen) == 1:
        return chosen.pop()(*args)
    return jax.lax.platform_dependent(*args, default=default, **others)


def branches(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """The same, for functions that call `by_platform` themselves.

    Inside them use `jitted` for `jax.jit`, which would reuse the trace for one kind of device on another.
    """
    kinds: dict[Any, frozenset[str]] = {}
    for kind in WHERE.get().platforms:
        f = others.get(kind, default)
        kinds[f] = kinds.get(f, frozenset()) | {kind}
    inside = {f: functools.partial(_where, mine, f) for f, mine in kinds.items()}
    return by_platform(*args, default=inside.get(default, default), **{k: inside.get(f, f) for k, f in others.items()})


def may_be(kind: str) -> bool:
    """Whether the program may run on a device of this kind."""
    return kind in WHERE.get().platforms


def _where(kinds: frozenset[str], f: Callable[..., Any], *args: Any) -> Any:
    with within(WHERE, platforms=kinds):
        return f(*args)


def fuse_cpu_outputs() -> None:
    """Lets XLA:CPU write several outputs in one loop, as it does for a GPU; to be called before JAX has started.

    It adds `--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true` to `XLA_FLAGS` of this process, where it
    may as well be from the beginning. A step of AdamW then moves 28 bytes a parameter in place of 40, one of Lion 20 in
    place of 28. The option is for the whole process: the model is compiled with it too, and may become slower. On other
    devices, and before JAX 0.10, nothing changes.

    Raises:
      RuntimeError: JAX has started, by an operation or a question for its devices, and reads `XLA_FLAGS` no more.

    Example:
      >>> import subprocess, sys
      >>> program = "import gdjax, os; gdjax.fuse_cpu_outputs(); print(os.environ['XLA_FLAGS'])"
      >>> run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
      >>> print(run.stdout.split("=")[-2:])
      ['xla_cpu_use_multi_output_fusion', 'true\\n']
    """
    flags, devices = os.environ.get("XLA_FLAGS", ""), getattr(jax.config, "jax_num_cpu_devices")  # noqa: B009
    if _SEVERAL in flags:
        return
    try:
        for number in (devices + 1, devices):  # which JAX refuses once it has started
            jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:
        raise RuntimeError(
            "gdjax.fuse_cpu_outputs: JAX has started, and reads XLA_FLAGS no more: call it first"
        ) from None
    os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={_SEVERAL}=true".strip()
    writes_several.cache_clear()


@functools.cache
def writes_several() -> bool:
    """Whether XLA:CPU writes several outputs in one loop; see `fuse_cpu_outputs`."""
    return jax.__version_info__ >= (0, 10) and _SEVERAL in os.environ.get("XLA_FLAGS", "")


def jitted(f: Callable[..., Any], static: Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function that calls `by_platform`."""
    traced = jax.jit(lambda _, *args: f(*args), static_argnums=(0, *(i + 1 for i in static)))

    @functools.wraps(f)
    def called(*args: Any) -> Any:
        return traced(WHERE.get().platforms, *args)

    return called
