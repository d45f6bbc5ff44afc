"""How tests declare transforms: as a `Case` for the contract tests, as a `Twin` for the comparison with Optax.

The declarations are in `tests/declared/`, one file for each group of transforms.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

import gdjax

# Those that differ in kind: what `make test` asks of these alone is asked of the others in the slow sweeps.
SAMPLE = (
    "adamw noisy_sgd chain partition inject_hyperparams lion adafactor prodigy muon "
    "MultiSteps apply_if_finite sam schedule_free"
).split()
# Of the sample, those that hand each leaf on as it is: what a property of one leaf costs is not spent on them.
WRAPPERS = ("chain", "partition", "inject_hyperparams", "MultiSteps", "apply_if_finite", "sam")


def one_in(number: int, name: str) -> bool:
    """Whether a name is among one in so many, the same in each run: a thin sweep has these and `SAMPLE`."""
    return zlib.crc32(name.encode()) % number == 0


class Case(NamedTuple):
    """A transform, and what the contract tests may ask of it."""

    name: str  # "adam" or "adam/nesterov": what precedes the slash is the factory in gdjax
    factory: Callable[..., Any]
    hyper: Mapping[str, Any] = {}  # its numbers
    fixed: Mapping[str, Any] = {}
    quiet: Mapping[str, Any] = {}  # changes of hyper after which a zero gradient gives a zero update
    needs_params: bool = False
    complex: bool = True
    random: bool = False
    scheduled: bool = True  # every number of hyper takes a schedule
    reverse: bool = True  # has derivatives in reverse mode, which a `while_loop` does not
    wide: bool = False  # the updates of 16-bit gradients are float32
    slow: bool = False  # near another case: only in the slow sweeps

    def make(self, **changes: Any) -> Any:
        return self.factory(**{**self.fixed, **self.hyper, **changes})

    @property
    def sampled(self) -> bool:
        return self.name in SAMPLE

    @property
    def covers(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True, eq=False)
class Twin:
    """The same transform in both libraries."""

    name: str  # "adam" or "adam/nesterov": what precedes the slash is the factory in optax
    make: Callable[[Any], Any]  # from the library to the transform
    extra: Callable[..., Mapping[str, Any]] | None = None  # (value, grads, params) -> the extra arguments of update
    rtol: float = 1e-5  # in float32, beside what Optax itself loses there
    rtol64: float = 1e-9  # in float64; 1e-6 with schedules, which Optax computes in float32
    shapes: tuple[tuple[str, Any], ...] = (("matrix", (4, 3)), ("vector", (5,)), ("scalar", ()))
    reset: str = ""  # why Optax's state cannot go on here, if it cannot

    @property
    def covers(self) -> str:
        return self.name.split("/")[0]


def is_matrix(x: Any) -> bool:
    return len(getattr(x, "shape", ())) > 1


def matrices(tree: Any) -> Any:
    """A mask: True for what has two dimensions or more."""
    return jax.tree.map(is_matrix, tree)


def by_rank(tree: Any) -> Any:
    """Labels: "matrix" or "vector"."""
    return jax.tree.map(lambda x: "matrix" if is_matrix(x) else "vector", tree)


def halve(g: Any, p: Any) -> Any:
    return jax.tree.map(lambda x: x / 2, g)


@gdjax.transform
def supplied(tx: Any, **extra: Any) -> gdjax.GradientTransformation:
    """`tx` with extra arguments of its update filled in, as the contract tests, which pass none, need it."""

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> Any:
        return tx.update(updates, state, params, **{**more, **extra})

    return gdjax.GradientTransformation(tx.init, update)
