"""gdjax in Optax's place, for a program, or a library, that imports `optax` and is not to be edited.

    python -m gdjax.as_optax program.py --steps 100
    python -m gdjax.as_optax -m pytest tests

run it unchanged. Inside a program `gdjax.as_optax.install()` does the same, before anything imports Optax. Optax need
not be installed. `import gdjax` does not import this module.

`optax` and its public modules hold gdjax's objects. Optax's private modules are there too, for the programs that import
from them and for pickles of Optax's states, which name them: each finds every public name, and the few private ones
that programs use. The rest of Optax's inside is not there. `optax.__version__` is the release whose names these are.
A process that the program starts is another one, and imports what is installed there. JAX is imported before a
program's first line: what JAX reads from the environment then (`JAX_PLATFORMS`) must be set in the shell.
"""

import functools
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

import gdjax
from gdjax import numerics
from gdjax.core import arrays, callers
from gdjax.core.values import value_of

VERSION = "0.2.8"
USAGE = "usage: python -m gdjax.as_optax (PROGRAM.py | -m MODULE) [ARGUMENT ...]"

# The files of that release, by folder.
PRIVATE = {
    "_src": "alias base combine constrain factorized linear_algebra linesearch lookahead numerics schedule transform "
    "update utils wrappers",
    "assignment": "_hungarian_algorithm",
    "contrib": "_acprop _ademamix _adopt _cocob _complex_valued _dadapt_adamw _dog _galore _madgrad _mechanic _momo "
    "_muon _privacy _prodigy _reduce_on_plateau _sam _schedule_free _sophia",
    "losses": "_classification _fenchel_young _ranking _regression _segmentation _self_supervised _smoothing",
    "microbatching": "_microbatching",
    "perturbations": "_make_pert",
    "projections": "_projections",
    "schedules": "_inject _join _schedule",
    "second_order": "_deprecated",
    "transforms": "_accumulation _adding _clipping _combining _conditionality _constraining _freezing _layouts "
    "_masking _monitoring",
    "tree_utils": "_casting _random _state_utils _tree_math",
}


def _canonicalize_dtype(dtype: Any) -> Any:
    return None if dtype is None else jax.dtypes.canonicalize_dtype(dtype)


def _set_diags(a: jax.Array, new_diags: Any) -> jax.Array:
    i = jnp.arange(a.shape[-1])
    return a.at[..., i, i].set(new_diags)


# Names of Optax's private modules that programs use, where gdjax has none of that name.
NAMES = {
    "NO_PARAMS_MSG": "this transform needs the parameters: update(updates, state, params)",
    "PRNGKey": jax.Array,
    "PyTree": Any,
    "Shape": tuple[int, ...],
    "canonicalize_dtype": _canonicalize_dtype,
    "canonicalize_key": arrays.fresh_key,
    "set_diags": _set_diags,
}
# Functions that warn in Optax, and what they say.
DEPRECATED = {
    "convex_kl_divergence": "optax.convex_kl_divergence is deprecated: use generalized_kl_divergence instead",
    "optimistic_adam": "`optimistic_adam` is deprecated: use `optimistic_adam_v2` instead",
}
# Functions whose updates differ from Optax's where the rate changes.
SCHEDULE_FREE = "schedule_free", "schedule_free_adamw", "schedule_free_sgd"
OTHER_WEIGHTS = (
    "gdjax, in the place of Optax: {}: the average weighs step t by the rate of step t, where Optax takes that of step "
    "t + 1; see schedule_free in docs/from_optax.md for the form with Optax's weights"
)


class _Finder(MetaPathFinder, Loader):
    """Finds the modules that stand in for Optax's, so that `importlib.reload` leaves them as they are."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        stands_in = isinstance(sys.modules.get(fullname), _Module)
        return ModuleSpec(fullname, self, origin=__file__, is_package=True) if stands_in else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


FINDER = _Finder()


class _Module(ModuleType):
    """A module of Optax, made of gdjax's names."""

    def __init__(self, name: str, names: Mapping[str, Any]):
        super().__init__(name, f"`{name}`, by gdjax.")
        self.__file__, self.__path__ = __file__, []
        self.__spec__ = ModuleSpec(name, FINDER, origin=__file__, is_package=True)
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"gdjax, which is here in the place of Optax, has nothing for {self.__name__}.{name}")


def _public(module: ModuleType) -> dict[str, Any]:
    """The names of a module's list; without one, those that do not begin with an underscore."""
    names = getattr(module, "__all__", [name for name in vars(module) if name[0] != "_"])
    found = {name: getattr(module, name) for name in names}
    found |= {name: _warning(name, found[name]) for name in DEPRECATED if name in found}
    return found | {name: _warning_of_weights(name, found[name]) for name in SCHEDULE_FREE if name in found}


def _warning(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        callers.warn(DEPRECATED[name], DeprecationWarning)
        return function(*args, **kwargs)

    return call


def _warning_of_weights(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        arguments = value_of(made.update).call.arguments
        warmup = arguments.get("warmup_steps")
        warms_up = warmup is not None and not (isinstance(warmup, int) and warmup == 0)
        if callable(arguments["learning_rate"]) or warms_up:
            callers.warn(OTHER_WEIGHTS.format(name))
        return made

    return call


def modules() -> dict[str, ModuleType]:
    """`optax` and the modules below it, by name, each also an attribute of the one above."""
    everything = NAMES | _public(numerics) | _public(gdjax.contrib) | _public(gdjax.tree_utils) | _public(gdjax)
    everything = {name: x for name, x in everything.items() if not isinstance(x, ModuleType)}
    public = {name: x for name, x in _public(gdjax).items() if isinstance(x, ModuleType)}
    made: dict[str, ModuleType] = {}
    made["optax"] = _Module("optax", _public(gdjax) | {"__all__": gdjax.__all__, "__version__": VERSION})
    made["optax._src"] = _Module("optax._src", {})
    for name, module in public.items():
        made[f"optax.{name}"] = _Module(f"optax.{name}", _public(module))
    for folder, files in PRIVATE.items():
        nearest = _public(public[folder]) if folder in public else {}
        made |= {(name := f"optax.{folder}.{f}"): _Module(name, everything | nearest) for f in files.split()}
    made["optax.experimental._aggregating"] = gdjax.experimental.aggregating
    for name, module in made.items():
        above, _, own = name.rpartition(".")
        if above:
            setattr(made[above], own, module)
    return made


def install() -> None:
    """From here on `import optax`, in this process, imports gdjax. A second call does nothing.

    Raises:
      ImportError: Optax itself is imported already; what imported it would keep its own functions and classes.
    """
    there = sys.modules.get("optax")
    if there is None:
        sys.modules.update(modules())
        sys.meta_path.insert(0, FINDER)
    elif there.__file__ != __file__:
        raise ImportError(
            f"gdjax.as_optax.install: optax is imported already, from {there.__file__}; call install before the first "
            "import that reaches Optax, or run python -m gdjax.as_optax program.py"
        )


def main(arguments: list[str]) -> None:
    """Runs a program or a module as `python` would, with gdjax in the place of Optax."""
    by_name = arguments[:1] == ["-m"]
    program = arguments[by_name:]
    if not program or program[0].startswith("-"):
        sys.exit(USAGE)
    install()
    sys.argv = program
    if by_name:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        if not sys.flags.safe_path:
            sys.path[0] = os.path.dirname(os.path.realpath(program[0]))
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
