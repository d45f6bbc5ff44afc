"""Checks for optimizers: what every `(init, update)` pair should keep, ours, Optax's or your own."""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import MaskedNode, is_float0
from gdjax.core.paths import named_leaves
from gdjax.core.structures import listed, mismatch
from gdjax.core.types import ArrayTree, Params, Transform, Updates
from gdjax.numerics import is_key
from gdjax.tree.updates import apply_updates

__all__ = ["assert_same_trajectory", "check_transform"]

Pair = tuple[Callable[..., Any], Callable[..., Any]]  # init and update
CHECKS: dict[str, Callable[["Subject"], Iterator[str]]] = {}  # each yields what it finds


def check_transform(
    tx: Transform, params: Params, *, grads: Sequence[Updates] | None = None,
    checks: Collection[str] | None = None, but: Collection[str] = (),
    updates: Literal["gradient", "any"] = "gradient", zero: Literal["zero", "finite", "any"] = "finite",
    huge: Literal["finite", "any"] = "finite", nonfinite: Literal["finite", "leaf", "any"] = "any",
    rtol: float = 1e-5, atol: float = 1e-6, name: str = "", **extra_args: Any,
) -> None:  # fmt: skip
    """Asserts what holds of any optimizer: try it on one of your own.

    Each check has a name:

    - `state`: an update gives back a state of the same structure, shapes, dtypes and weak types as `init`, or a `scan`
      fails and `jit` traces anew;
    - `updates`: the updates have structure, shapes and dtypes of the gradients;
    - `init`: it makes the same state of shapes as of arrays, and no two leaves share memory, or they cannot be donated;
    - `jit`, `scan`, `vmap`, `donate`: steps are the same numbers as written, compiled (in one trace), in a `scan`, for
      two trees at once, and with parameters and state donated;
    - `zero`, `huge`, `nonfinite`: what follows one gradient of zeros, one of 1e20 (1e4 in float16), one with a NaN in
      one leaf; what is demanded is an argument;
    - `masked`, `empty`, `scalars`, `narrow`: leaves that are None or a `MaskedNode`, trees without leaves, leaves of
      one number, and bfloat16 parameters keep to `state` and `updates`;
    - `mesh`: steps are the same with the parameters divided over all devices, where there are several.

    Args:
      tx: anything with `init(params)` and `update(grads, state, params, **extra_args)`, or a pair of the two.
      params: a small tree of arrays.
      grads: the gradients of the steps, trees as `params`. By default three of normal numbers, 0.1 large.
      checks: the names of the checks to run. By default all.
      but: names of checks to leave out.
      updates: "any" allows updates of another dtype than the gradients'.
      zero: "zero" demands that a gradient of zeros moves nothing, "finite" that no number becomes NaN or infinite.
      huge: "finite" demands that the step and the one after it are finite. A rule that multiplies gradients answers
        with infinities, and says "any".
      nonfinite: "finite" demands that no NaN reaches updates or state, as behind a guard; "leaf" that it reaches no
        other leaf's update. By default nothing: a NaN that shows is no error.
      rtol, atol: for numbers that should be the same.
      name: of the transform in messages. By default its repr, or the function that made it.
      **extra_args: passed to each update, as `value=` for a line search.

    Raises:
      AssertionError: one or more checks fail. The message has a line for each, with the leaf and both sides; an error
        that a transform raises is a line too.
      ValueError: there is no check of that name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax.testing import check_transform
      >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
      >>> check_transform(gdjax.lion(1e-3, weight_decay=0.0), params, zero="zero")
    """
    unknown = {*(checks or ()), *but} - CHECKS.keys()
    if unknown:
        raise ValueError(
            f"gdjax.testing: no check is named {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}"
        )
    subject = _subject(tx, params, grads or normal_gradients(params), extra_args, rtol, atol)
    subject.demands.update(updates=updates, zero=zero, huge=huge, nonfinite=nonfinite)
    lines, first = [], None
    for label in CHECKS:
        if label in (checks or CHECKS) and label not in but:
            try:
                lines += [f"{label}: {line}" for line in CHECKS[label](subject)]
            except Exception as error:
                first = first or error
                lines.append(f"{label}: it raises {type(error).__name__}: {str(error).partition(chr(10))[0]:.300}")
    if lines:
        raise AssertionError("\n- ".join([f"gdjax.testing: {name or _name(tx)}:", *lines])) from first


def assert_same_trajectory(
    tx: Transform, reference: Transform, params: Params, *, grads: Sequence[Updates] | None = None,
    loss_fn: Callable[[Params], Any] | None = None, steps: int = 5, rtol: float = 1e-5, atol: float = 1e-6,
    **extra_args: Any,
) -> None:  # fmt: skip
    """Asserts that two optimizers make the same updates, step for step.

    Both run compiled from the same parameters. States may differ in any way.

    Args:
      tx, reference: two transforms, from any library; or pairs `(init, update)`.
      params: where both start.
      grads: the gradients of the steps. By default `steps` of normal numbers, 0.1 large.
      loss_fn: `loss_fn(params)`, whose gradient at each one's own parameters takes the place of `grads`.
      steps: how many, where `grads` does not say.
      rtol, atol: as of `numpy.testing.assert_allclose`.
      **extra_args: passed to each update.

    Raises:
      AssertionError: they differ; the message names the step, the leaf, the place and both numbers.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax.testing import assert_same_trajectory
      >>> two = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-1e-3))
      >>> assert_same_trajectory(gdjax.adam(1e-3), two, {"w": jnp.ones(3)})
    """
    if loss_fn is not None:
        grads = [params] * steps  # not read: `_updates_of` takes the gradient of the loss
    grads = grads or normal_gradients(params, steps)
    names = f"by {_name(tx)}", f"by {_name(reference)}"
    sides = [_subject(side, params, grads, extra_args, rtol, atol) for side in (tx, reference)]
    for i, (mine, theirs) in enumerate(zip(*(_updates_of(side, loss_fn) for side in sides), strict=True), 1):
        if lines := [*sides[0].unequal({"updates": mine}, {"updates": theirs}, names)]:
            raise AssertionError(f"gdjax.testing: step {i} of {len(grads)}: {listed(lines, '; ')}")


def _updates_of(side: "Subject", loss_fn: Callable[[Params], Any] | None) -> Iterator[Updates]:
    """The updates of a side, step by step."""
    gradient = loss_fn and jax.jit(jax.grad(loss_fn))
    params, state = side.params, side.init(side.params)
    for g in side.grads:
        updates, state, params = side.compiled(gradient(params) if gradient else g, state, params)
        yield updates


@dataclass(frozen=True)
class Subject:
    """A transform, and what it is tried on."""

    init: Callable[..., Any]
    update: Callable[..., Any]
    params: Params
    grads: Sequence[Updates]
    extra_args: dict[str, Any]
    rtol: float
    atol: float
    demands: dict[str, str] = field(default_factory=dict)
    reported: set[str] = field(default_factory=set)  # of signatures, which for another tree are seldom others
    traces: list[None] = field(default_factory=list)  # one for each of `compiled`

    def step(self, g: Updates, state: Any, params: Params) -> tuple[Updates, Any, Params]:
        updates, state = self.update(g, state, params, **self.extra_args)
        return updates, state, apply_updates(params, updates)

    def shapes(self, g: Updates, state: Any, params: Params) -> tuple[Updates, Any]:
        return jax.eval_shape(lambda *args: self.update(*args, **self.extra_args), g, state, params)

    def run(self, step: Callable[..., Any], params: Params, grads: Sequence[Updates]) -> dict[str, Any]:
        """The parameters and the state after the steps."""
        state = self.init(params)
        for g in grads:
            _, state, params = step(g, state, params)
        return {"params": params, "state": state}

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        def step(g: Updates, state: Any, params: Params) -> tuple[Updates, Any, Params]:
            self.traces.append(None)
            return self.step(g, state, params)

        return jax.jit(step)

    @cached_property
    def end(self) -> dict[str, Any]:
        """Where compiled steps lead: what other ways to make them are compared with."""
        return self.run(self.compiled, self.params, self.grads)

    def unequal(self, got: dict[str, Any], wanted: dict[str, Any], sides: tuple[str, str]) -> Iterator[str]:
        """Where trees of the same names differ: in structure, or the numbers of a leaf by more than the tolerances."""
        if jax.tree.structure(got) != jax.tree.structure(wanted):
            yield mismatch(sides, got, wanted)
            return
        for (name, x), (_, y) in zip(_numbers(**got), _numbers(**wanted), strict=True):
            far = ~np.isclose(x, y, self.rtol, self.atol, equal_nan=True)
            if far.any():
                at = _first(far)
                yield f"{name}{_place(at)} is {x[at]:.8g} {sides[0]}, {y[at]:.8g} {sides[1]}"

    def signatures(self, params: Params, what: str = "") -> Iterator[str]:
        """What an update changes of a state, and how updates differ from gradients, without computing anything."""
        state, grads = jax.eval_shape(self.init, params), normal_gradients(params, 1)[0]
        updates, after = self.shapes(grads, state, params)
        yield from self.unlike(after, state, "state", ("after an update", "at init"), what)
        yield from self.unlike_gradients(updates, grads, what)

    def unlike(self, got: Any, wanted: Any, name: str, sides: tuple[str, str], what: str = "", **of: bool) -> Any:
        """Where two trees differ in structure, shapes, dtypes or weak types."""
        if jax.tree.structure(got) != jax.tree.structure(wanted):
            yield mismatch((f"{name} {sides[1]}", f"{name} {sides[0]}"), wanted, got) + what
            return
        for (leaf, x), (_, y) in zip(named_leaves(name, got), named_leaves(name, wanted), strict=True):
            x, y = _signature(x, **of), _signature(y, **of)
            line = f"{leaf} is {x} {sides[0]}, {y} {sides[1]}"
            if x != y and line not in self.reported:
                self.reported.add(line)
                yield line + what

    def unlike_gradients(self, updates: Updates, grads: Updates, what: str = "") -> Iterator[str]:
        same = self.demands["updates"] == "gradient"
        sides = "as an update", "as a gradient"
        yield from self.unlike(updates, grads, "updates", sides, what, weak=False, dtype=same)

    def after(self, change: Callable[[Any], Any]) -> tuple[Updates, Any, Params]:
        """The first step, with its gradient changed."""
        leaves, structure = jax.tree.flatten(self.grads[0])
        g = structure.unflatten([change(x) if _is_inexact(x) else x for x in leaves])
        return self.compiled(g, self.init(self.params), self.params)


def check(f: Callable[[Subject], Iterator[str]]) -> Callable[[Subject], Iterator[str]]:
    CHECKS[f.__name__.strip("_")] = f
    return f


@check
def _state(x: Subject) -> Iterator[str]:
    state = x.init(x.params)
    _, after = x.shapes(x.grads[0], state, x.params)
    yield from x.unlike(after, state, "state", ("after an update", "at init"))


@check
def _updates(x: Subject) -> Iterator[str]:
    updates, _ = x.shapes(x.grads[0], x.init(x.params), x.params)
    lines = [*x.unlike_gradients(updates, x.grads[0])]
    params = x.params if lines else jax.eval_shape(apply_updates, x.params, updates)
    yield from lines or x.unlike(params, x.params, "params", ("after a step", "before"), weak=False)


@check
def _init(x: Subject) -> Iterator[str]:
    state = x.init(x.params)
    yield from x.unlike(jax.eval_shape(x.init, x.params), state, "state", ("of shapes", "of arrays"))
    first: dict[int, str] = {}
    for name, a in [*named_leaves("params", x.params), *named_leaves("state", state)]:
        if isinstance(a, jax.Array) and not is_key(a) and a.size and len(a.devices()) == 1:
            if (other := first.setdefault(a.unsafe_buffer_pointer(), name)) != name:
                yield f"{name} and {other} are one buffer, which cannot be donated twice"


@check
def _jit(x: Subject) -> Iterator[str]:
    yield from x.unequal(x.run(x.step, x.params, x.grads), x.end, ("op by op", "compiled"))
    if len(x.traces) > 1:
        yield f"{len(x.grads)} steps are traced {len(x.traces)} times, not once"


@check
def _scan(x: Subject) -> Iterator[str]:
    def step(carry: Any, g: Updates) -> Any:
        params, state = carry
        _, state, params = x.step(g, state, params)
        return (params, state), None

    def run(params: Params, grads: Any) -> Any:
        return dict(zip(("params", "state"), jax.lax.scan(step, (params, x.init(params)), grads)[0], strict=True))

    stacked = jax.tree.map(lambda *gs: (np if is_float0(gs[0]) else jnp).stack(gs), *x.grads)
    yield from x.unequal(jax.jit(run)(x.params, stacked), x.end, ("in a scan", "step by step"))


@check
def _vmap(x: Subject) -> Iterator[str]:
    def half(a: Any) -> Any:
        return (a * 0.5).astype(a.dtype) if _is_inexact(a) else a

    def both(a: Any, b: Any) -> Any:
        return (np if is_float0(a) else jnp).stack([a, b])

    params, grads = jax.tree.map(half, (x.params, [*x.grads[::-1]]))  # the second tree, and its gradients
    batch = replace(x, init=jax.vmap(x.init)).run(
        jax.jit(jax.vmap(x.step)), *jax.tree.map(both, (x.params, [*x.grads]), (params, grads))
    )
    for i, end in enumerate((x.end, x.run(x.compiled, params, grads))):
        one = jax.tree.map(lambda a, i=i: a[i], batch)
        yield from x.unequal(one, end, (f"as tree {i} of a vmap", "alone"))


@check
def _donate(x: Subject) -> Iterator[str]:
    step = jax.jit(x.step, donate_argnums=(1, 2))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Some donated buffers")
        for _ in range(2):  # the transform outlives a state of its own
            params = jax.tree.map(jnp.array, x.params)
            yield from x.unequal(x.run(step, params, x.grads), x.end, ("donated", "kept"))


@check
def _zero(x: Subject) -> Iterator[str]:
    if x.demands["zero"] != "any":
        updates, state, _ = x.after(jnp.zeros_like)
        yield from _not_finite(updates, state, "after a gradient of zeros")
        for name, u in _numbers(updates=updates if x.demands["zero"] == "zero" else ()):
            moved = np.isfinite(u) & (u != 0)
            if moved.any():
                yield f"{name}{_place(_first(moved))} is {u[_first(moved)]:.4g} after a gradient of zeros, not 0"


@check
def _huge(x: Subject) -> Iterator[str]:
    if x.demands["huge"] == "finite":
        size = {jnp.dtype("float16"): 1e4}
        updates, state, params = x.after(lambda g: (jnp.sign(g) * size.get(g.dtype, 1e20)).astype(g.dtype))
        lines = [*_not_finite(updates, state, "after a huge gradient")]
        updates, state, _ = x.compiled(x.grads[-1], state, params)
        yield from lines or _not_finite(updates, state, "in the step after a huge gradient")


@check
def _nonfinite(x: Subject) -> Iterator[str]:
    demand = x.demands["nonfinite"]
    spoilt = next((name for name, g in _numbers(updates=x.grads[0]) if g.size), None)
    if demand == "any" or spoilt is None:
        return
    turn = iter([True])
    updates, state, _ = x.after(lambda g: g.at[(0,) * g.ndim].set(jnp.nan) if g.size and next(turn, False) else g)
    if demand == "finite":
        yield from _not_finite(updates, state, "after a NaN in one leaf of the gradient")
        return
    for name, u in _numbers(updates=updates):
        if name != spoilt and not np.isfinite(u).all():
            yield f"{name} is not finite too, after a NaN in {spoilt.replace('updates', 'the gradient', 1)}"


@check
def _masked(x: Subject) -> Iterator[str]:
    leaves, structure = jax.tree.flatten(x.params)
    for hidden in (None, MaskedNode()) if leaves else ():
        yield from x.signatures(structure.unflatten([hidden, *leaves[1:]]), f", where the first leaf is {hidden}")


@check
def _empty(x: Subject) -> Iterator[str]:
    for tree in ({}, [], {"a": None}):
        yield from x.signatures(tree, f", of params {tree}")


@check
def _scalars(x: Subject) -> Iterator[str]:
    yield from x.signatures({"scalar": jnp.ones(()), "one": jnp.ones(1)})


@check
def _narrow(x: Subject) -> Iterator[str]:
    def narrow(p: Any) -> Any:
        return p.astype(jnp.bfloat16) if jnp.issubdtype(p.dtype, jnp.floating) else p

    yield from x.signatures(jax.tree.map(narrow, x.params), ", of params in bfloat16")


@check
def _mesh(x: Subject) -> Iterator[str]:
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), "all")

    def placed(a: Any) -> Any:
        axes = [i for i, n in enumerate(a.shape) if n and n % len(devices) == 0]
        spec = jax.sharding.PartitionSpec(*[None] * axes[0], "all") if axes else jax.sharding.PartitionSpec()
        return jax.device_put(a, jax.sharding.NamedSharding(mesh, spec)) if _is_inexact(a) else a

    if len(devices) > 1:
        params, grads = jax.tree.map(placed, (x.params, list(x.grads)))
        yield from x.unequal(x.run(x.compiled, params, grads), x.end, (f"over {len(devices)} devices", "on one"))


def normal_gradients(params: ArrayTree, number: int = 3) -> list[Any]:
    """Gradients of normal numbers, a tenth large; of a leaf that is not floating, JAX's `float0`."""
    rng = np.random.default_rng(0)

    def leaf(p: Any) -> Any:
        if not _is_inexact(p):
            return np.zeros(p.shape, jax.dtypes.float0)
        g = 0.1 * rng.standard_normal((2, *p.shape))
        return jnp.asarray(np.asarray(g[0] + 1j * g[1] if jnp.iscomplexobj(p) else g[0]).astype(p.dtype))

    return [jax.tree.map(leaf, params) for _ in range(number)]


def _subject(tx: Transform | Pair, params: Params, *args: Any) -> Subject:
    strong = jax.tree.map(lambda x: jnp.array(x, jnp.asarray(x).dtype), params)
    return Subject(*_pair(tx), strong, *args)


def _pair(tx: Transform | Pair) -> Pair:
    return (tx.init, tx.update) if hasattr(tx, "update") else tx  # pyright: ignore


def _name(tx: Transform | Pair) -> str:
    """A repr without addresses, or the function that made its `update`."""
    update = _pair(tx)[1]
    factory = f"{update.__module__}.{update.__qualname__}".partition(".<locals>")[0]
    shown = factory if " at 0x" in repr(tx) else repr(tx)
    return shown if len(shown) <= 60 else f"{shown.partition('(')[0]}(...)"


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _signature(x: Any, dtype: bool = True, weak: bool = True) -> str:
    if not hasattr(x, "dtype"):
        return f"a Python {type(x).__name__}"
    shape = f"[{','.join(map(str, np.shape(x)))}]"
    return f"{x.dtype if dtype else ''}{shape}{' of weak type' if weak and getattr(x, 'weak_type', False) else ''}"


def _numbers(**trees: ArrayTree) -> Iterator[tuple[str, np.ndarray]]:
    """The leaves as NumPy compares and prints them: 16-bit numbers in float64, keys as their data; no float0."""
    for name, x in (item for root, tree in trees.items() for item in named_leaves(root, tree)):
        if not is_float0(x):
            x = np.asarray(jax.random.key_data(x) if is_key(x) else x)
            yield name, x if x.dtype.kind in "biuc" else x.astype(np.float64)


def _not_finite(updates: Updates, state: Any, when: str) -> Iterator[str]:
    for name, x in _numbers(updates=updates, state=state):
        bad = ~np.isfinite(x)
        if bad.any():
            yield f"{name}{_place(_first(bad))} is {x[_first(bad)]} {when}"


def _first(flags: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(flags)[0])


def _place(at: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, at))}]" if at else ""
