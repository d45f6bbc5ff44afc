"""Proximal methods: ISTA and FISTA, and the proximal step behind any optimizer whose metric is diagonal."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from gdjax import numerics, tree
from gdjax.combine.chain import Chain
from gdjax.combine.conditional import all_finite
from gdjax.combine.hyperparams import Injected
from gdjax.core import base, checks, meshes
from gdjax.core.arrays import shape_of
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import ABOVE_0, FRACTION, AtLeast, Check
from gdjax.core.part import lookup
from gdjax.core.parts import calls_of, described, holding, known, within
from gdjax.core.types import Array, ArrayLike, OptState, Params, PerLeaf, Rate, Scalar, Transform, Updates, is_skipped
from gdjax.core.values import is_ours
from gdjax.lift import factors
from gdjax.lift.rule import Leafwise
from gdjax.lift.slots import initial_parameter
from gdjax.linesearch.line import ValueFn, bound, fit
from gdjax.numerics.elementwise import debias, divisor, sqrt
from gdjax.projections.common import wide
from gdjax.prox.common import Prox
from gdjax.prox.sets import none

__all__ = ["ProximalGradientState", "ProximalState", "proximal", "proximal_gradient"]

LABEL = "gdjax.proximal_gradient"
Map = Annotated[Prox, Check("function")]
NONE = none()


class ProximalGradientState(NamedTuple):
    """State of `proximal_gradient`."""

    count: Array  # () int32, updates made so far
    learning_rate: Array  # () the step size s of the last update
    t: Array  # () of the momentum, 1 where it begins anew
    x: Params  # like params, the iterate; None without acceleration, where the parameters are it

    def eval_params(self, params: Params) -> Params:
        """x, which is in the set, or sparse, where the extrapolated parameters are not."""
        return params if self.x is None else jax.tree.map(lambda p, x: x, params, self.x, is_leaf=is_skipped)


@transform
def proximal_gradient(
    learning_rate: Rate | None = None, prox: Map = NONE,
    *, accelerate: bool = True, restart: bool = True, max_backtracking_steps: Annotated[int | Array, AtLeast(1)] = 30,
    decrease_factor: Annotated[Scalar, FRACTION] = 0.5, increase_factor: Annotated[Scalar, ABOVE_0] = 1.25,
) -> GradientTransformation:  # fmt: skip
    """The proximal gradient method for f(x) + h(x), f smooth and h with a proximal map: ISTA, and accelerated FISTA.

        x_{k+1} = prox(y_k - s grad f(y_k), s)                         y_0 = x_0, t_0 = 1
        t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
        y_{k+1} = x_{k+1} + (t_k - 1) / t_{k+1} (x_{k+1} - x_k)        the parameters, where gradients are taken

    `eval_params(tx, state, params)` is x. Without a learning rate s is the first of s_0, d s_0, d^2 s_0, ... with

        f(x_{k+1}) <= f(y_k) + <grad f(y_k), x_{k+1} - y_k> + |x_{k+1} - y_k|^2 / (2 s)

        s_0 = increase_factor (s of the step before, 1 at first),    d = decrease_factor

    Args:
      learning_rate: s, a scalar or a schedule, at most 1 / L for a gradient with Lipschitz constant L; None searches.
      prox: h as a map `(tree, step) -> tree`, such as `gdjax.prox.l1(weight)`. A projection by
        `gdjax.prox.from_projection` makes it projected gradient descent.
      accelerate: False is ISTA: y_k = x_k, and the parameters themselves are x.
      restart: t_k = 1 where <y_k - x_{k+1}, x_{k+1} - x_k> > 0: the momentum points uphill.
      max_backtracking_steps: how often s is decreased in a step; at least 1.
      decrease_factor: d, between 0 and 1.
      increase_factor: above 0; with 1 s never grows, as in the reference, whose proof needs that for FISTA.

    The search asks `update` for `value` and `value_fn`, f and its value at the parameters, which `minimize` passes.
    Where both sides differ by rounding alone it compares <grad f(x_{k+1}) - grad f(y_k), x_{k+1} - y_k> with
    |x_{k+1} - y_k|^2 / s instead; if no s passes there, the s of the step before is taken. Where none passes elsewhere,
    because f is not finite for instance, y_{k+1} = x_k, and the next search goes on from the last s. A number
    of the gradient that is not finite makes its update NaN; x and s stay.

    Departs from JAXopt's `ProximalGradient`, which doubles s in every step, compares the values near a minimum too and
    has no restart.

    Raises:
      ValueError, TypeError: (in update) the parameters, `value` or `value_fn` are missing or do not fit.
      TypeError: `prox` is no function, or `learning_rate` a `per_leaf`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> A, b = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([4.0, 0.25])
      >>> loss = lambda x: jnp.sum((A @ x - b) ** 2) / 2
      >>> tx = gdjax.proximal_gradient(prox=gdjax.prox.l1(1.0))
      >>> run = gdjax.minimize(loss, jnp.zeros(2), tx, steps=50)
      >>> [round(float(x), 3) for x in gdjax.eval_params(tx, run.state, run.params)]
      [1.75, 0.0]

    Reference:
      Beck & Teboulle 2009, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, sections 3
      and 4, https://doi.org/10.1137/080716542; O'Donoghue & Candès 2015, Adaptive restart for accelerated gradient
      schemes, section 3.2 (the gradient scheme), https://arxiv.org/abs/1204.3982
    """
    if isinstance(learning_rate, PerLeaf):
        raise TypeError(f"{LABEL}: learning_rate must be one number for the whole tree, got {learning_rate!r}")
    checks.unscheduled(LABEL, {"decrease_factor": decrease_factor, "increase_factor": increase_factor})

    def init(params: Params) -> ProximalGradientState:
        checks.leaves(LABEL, "params", params)
        s, t = (jnp.ones((), numerics.widest_real(params)) for _ in range(2))
        x = jax.tree.map(lambda p: initial_parameter(p, {}), params) if accelerate else None
        return ProximalGradientState(jnp.zeros((), jnp.int32), s, t, x)

    def update(
        updates: Updates, state: OptState, params: Params = None,
        *, value: ArrayLike | None = None, value_fn: ValueFn | None = None, **extra_args: Any,
    ) -> tuple[Any, ProximalGradientState]:  # fmt: skip
        checks.state(LABEL, state, ProximalGradientState)
        checks.params(LABEL, params)
        fit(LABEL, "updates", updates, params)
        y, g = _trained(updates, params), _trained(updates, updates)
        old = _trained(updates, state.x) if accelerate else y
        point = _Point(y, g, prox, _trained(updates, params, jnp.asarray))
        if learning_rate is None:
            if value is None or value_fn is None:
                raise ValueError(f"{LABEL}: without a learning_rate update needs value= and value_fn=")
            f = bound(value_fn, extra_args)
            f_of_trained = lambda x: f(_replaced(updates, params, x, lambda p, z: z.astype(jnp.asarray(p).dtype)))
            search = _Search(point, f_of_trained, decrease_factor, max_backtracking_steps)
            s, next_s, x, taken = search(checks.extra(LABEL, "value", value), increase_factor, state.learning_rate)
            next_s = jnp.where(all_finite(g), next_s, state.learning_rate)
        else:
            s = learning_rate(state.count) if callable(learning_rate) else learning_rate
            s = next_s = checks.scalar(LABEL, "learning_rate", s).astype(state.learning_rate.dtype)
            x, taken = point.moved(s), jnp.bool_(True)
        x = tree.where(taken, x, old)
        new_y, t = _ahead(y, x, old, state.t, taken, restart) if accelerate else (x, state.t)
        cast = lambda p, z: z.astype(jnp.asarray(p).dtype)
        new_x = _replaced(updates, state.x, x, cast) if accelerate else None
        new_state = ProximalGradientState(numerics.safe_increment(state.count), next_s, t, new_x)
        # 0 g is NaN where g is not finite: no step is taken then, and the update shows why.
        u = jax.tree.map(lambda new, y, g: new - y + 0 * g, new_y, y, g)
        return _replaced(updates, updates, u, cast), new_state

    return holding(init, update, like="x" if accelerate else "")


def _trained(updates: Updates, xs: Any, form: Callable[[Any], Array] = wide) -> Any:
    """The leaves that have a gradient, in float32 or wider; None for the others."""
    leaf = lambda g, x: None if is_skipped(g) or base.is_float0(g) else form(x)
    return jax.tree.map(leaf, updates, xs, is_leaf=is_skipped)


def _replaced(updates: Updates, xs: Any, new: Any, cast: Callable[[Any, Array], Array]) -> Any:
    """`xs` with `new`, cast like the leaf in its place, where there is a gradient."""
    leaf = lambda g, x, z: x if is_skipped(g) or base.is_float0(g) else cast(x, z)
    return jax.tree.map(leaf, updates, xs, new, is_leaf=is_skipped)


def _along(x: Any, share: Array, d: Any) -> Any:
    """x + share d, each leaf in its own dtype."""
    return jax.tree.map(lambda x, d: x + share.astype(x.dtype) * d, x, d)


def _inner(x: Any, y: Any) -> Array:
    return jnp.real(tree.vdot(x, y))


def _ahead(y: Any, x: Any, old: Any, t: Array, taken: Array, restart: bool) -> tuple[Any, Array]:
    """The next y, and t."""
    if restart:
        taken = taken & ~(_inner(tree.sub(y, x), tree.sub(x, old)) > 0)
    t = jnp.where(taken, t, 1)
    new_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
    return _along(x, (t - 1) / new_t, tree.sub(x, old)), new_t


class _Point(NamedTuple):
    """A point, the gradient there, and the proximal map."""

    y: Any
    g: Any
    prox: Prox
    params: Any  # y in its own dtypes

    def moved(self, s: Array) -> Any:
        x = self.prox(_along(self.y, -s, self.g), s)
        return jax.tree.map(lambda z, p: z.astype(p.dtype).astype(z.dtype), x, self.params)  # as the state keeps it


class _Trial(NamedTuple):
    count: Array  # () int32, step sizes tried
    s: Array  # () the last of them
    x: Any  # where it leads
    enough: Array  # () bool, whether it is taken
    blind: Array  # () bool, whether the values there differ by rounding alone


class _Search(NamedTuple):
    """The search for a step size from a point."""

    point: _Point
    f: Callable[[Any], Array]
    decrease: Scalar
    most: int | Array

    def __call__(self, value: Array, increase: Scalar, last: Array) -> tuple[Array, Array, Any, Array]:
        """The step size, that of the next search, the point, and whether the step is taken."""
        number = lambda x: jnp.asarray(x).astype(last.dtype)
        value = number(value)

        def body(trial: _Trial) -> _Trial:
            s = jnp.where(trial.count > 0, number(self.decrease) * trial.s, trial.s)
            given_up = trial.blind & (trial.count == self.most)
            s = jnp.where(given_up, last, s)
            x = self.point.moved(s)
            d = tree.sub(x, self.point.y)
            most, slope = number(_inner(d, d)) / (2 * s), number(_inner(self.point.g, d))
            new, pull = jax.vjp(self.f, x)
            blind = most <= 64 * float(jnp.finfo(new.dtype).eps) * jnp.abs(value)

            def by_gradients() -> Array:
                return (number(_inner(tree.conj(pull(jnp.ones_like(new))[0]), d)) - slope) / 2

            rise = meshes.cond(blind, by_gradients, lambda: number(new) - value - slope)
            return _Trial(trial.count + 1, s, x, jnp.isfinite(new) & ((rise <= most) | given_up), blind)

        no, top = jnp.bool_(False), float(jnp.finfo(last.dtype).max) ** 0.5
        start = _Trial(jnp.int32(0), jnp.minimum(number(increase) * last, top), self.point.y, no, no)
        end = meshes.while_loop(lambda trial: ~trial.enough & (trial.count <= self.most), body, start)
        size = lambda x: jnp.sqrt(_inner(x, x))
        still = size(tree.sub(end.x, self.point.y)) <= 4 * float(jnp.finfo(last.dtype).eps) * size(self.point.y)
        following = jnp.where(end.enough & still, last, jnp.where(end.s > jnp.finfo(last.dtype).tiny, end.s, 1))
        return end.s, following, end.x, end.enough


class ProximalState(NamedTuple):
    """State of `proximal`."""

    inner_state: OptState


@transform
def proximal(inner: Transform, prox: Map) -> GradientTransformation:
    """A proximal step behind any optimizer whose steps divide each element by a number: ProxGen.

        x_{t+1} = argmin_x  h(x) + sum_i (x_i - x_{t,i} - u_{t,i})^2 / (2 s_{t,i})

    where u_t is the update of `inner`, and s_t its step size: lr for SGD; lr / (1 - momentum) with momentum, which adds
    up that many gradients; lr / (sqrt(nu_hat_t + eps_root) + eps) for Adam, and what divides the gradient in RMSProp,
    Adagrad, AMSGrad and Yogi. For the l1 norm this is a soft threshold at s_t weight, so that parameters
    become 0 exactly, and the minimum is that of f + h, as a decay or a penalty in the loss cannot give.

    Args:
      inner: the optimizer: a chain of one of these directions, decay, a rate and, before them, clips and noise; also in
        groups, under masks, with injected hyperparameters or schedules. Weight decay stays in its update.
      prox: h as a map `(tree, step) -> tree`, such as `gdjax.prox.l1(weight)`. Around Adam and the like it gets a step
        for each element, which maps of groups refuse.

    It comes last, after all that changes updates; what skips or accumulates steps goes around it.

    Raises:
      ValueError: (in init) the step size of a part of `inner` is not known, or no learning rate reaches a leaf; the map
        does not take such steps.
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - jnp.array([3.0, 0.5])) ** 2) / 2
      >>> tx = gdjax.proximal(gdjax.adam(0.1), gdjax.prox.l1(1.0))
      >>> print(gdjax.minimize(loss, jnp.ones(2), tx, steps=300).params.round(2))
      [2. 0.]

    Reference:
      Yun, Lozano & Yang 2021, Adaptive proximal gradient methods for structured neural networks, Algorithm 1,
      https://arxiv.org/abs/2006.07065; there the momentum is an average, and the rate ours over 1 - momentum.
    """
    label = "gdjax.proximal"
    base.check_transform(label, 0, inner)

    def stepped(updates: Updates, old: OptState, new: OptState, params: Params, by: Updates) -> Any:
        ps = _trained(updates, params)
        moved = jax.tree.map(lambda p, u: p + u.astype(p.dtype), ps, _trained(updates, by))
        return prox(moved, _steps(label, inner, old, new, ps))

    def init(params: Params) -> ProximalState:
        checks.leaves(label, "params", params)
        state = inner.init(params)
        jax.eval_shape(stepped, params, state, state, params, params)  # for its errors
        return ProximalState(state)

    def update(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[Any, ProximalState]:
        checks.state(label, state, ProximalState)
        checks.params(label, params)
        us, new = base.call_update(inner, updates, state.inner_state, params, extra_args)
        fit(label, "updates", us, params)
        x = stepped(us, state.inner_state, new, params, us)
        step = tree.sub(x, _trained(us, params))
        return _replaced(us, us, step, lambda u, z: z.astype(jnp.asarray(u).dtype)), ProximalState(new)

    return holding(init, update, inner_state=inner, growth="same")


# By the factory of a rule, what it multiplies gradients by: a function of its slots, hyperparameters and step.
Slots = Mapping[str, Any]


def _of_adam(s: Slots, h: Slots, t: Any) -> Any:
    return 1 / divisor(sqrt(debias(s["nu"], h["b2"], t) + h["eps_root"]), h["eps"])


def _of_amsgrad(s: Slots, h: Slots, t: Any) -> Any:
    return 1 / divisor(sqrt(s["nu_max"] + h["eps_root"]), h["eps"])


def _of_root(nu: Array, h: Slots) -> Any:
    return 1 / divisor(sqrt(nu + h["eps"]) if h["eps_in_sqrt"] else sqrt(nu) + h["eps"])


def _of_rms(s: Slots, h: Slots, t: Any) -> Any:
    mu, nu = (debias(x, h["decay"], t) if h["bias_correction"] else x for x in (s.get("mu", jnp.zeros(())), s["nu"]))
    return _of_root(jnp.maximum(nu - numerics.abs_sq(mu), 0), h)


DIRECTIONS: Mapping[str, Callable[[Slots, Slots, Any], Any]] = {
    "scale_by_adam": _of_adam, "scale_by_nadam": _of_adam, "scale_by_yogi": _of_adam, "scale_by_amsgrad": _of_amsgrad,
    "scale_by_rms": _of_rms, "scale_by_stddev": _of_rms,
    "scale_by_rss": lambda s, h, t: _of_root(s["sum_of_squares"], h), "trace": lambda s, h, t: 1 / (1 - h["decay"]),
    "scale_by_learning_rate": lambda s, h, t: h["learning_rate"], "scale": lambda s, h, t: abs(h["step_size"]),
    "scale_by_schedule": lambda s, h, t: abs(h["step_size_fn"]),
}  # fmt: skip
RATES = "scale_by_learning_rate", "scale", "scale_by_schedule"
# Wherever they stand.
NEUTRAL = "identity _decay _cautious_decay _weight_decay _weight_decay_to_start ema".split()
BEFORE = "clip clip_by_global_norm clip_by_block_rms adaptive_grad_clip zero_nans centralize add_noise".split()
Found = dict[int, list[tuple[Any, Any]]]  # by the identity of a leaf: whose factors, and these


def _steps(label: str, inner: Transform, old: OptState, new: OptState, params: Params) -> Any:
    """The step sizes of the update between two states: one number if all leaves share it, else a tree."""
    shapes = jax.tree.map(shape_of, params)
    leaves = tree_leaves_with_path(shapes)
    found: Found = {id(leaf): [] for _, leaf in leaves}
    with jax.numpy_dtype_promotion("standard"):
        _collect(label, inner, old, new, shapes, found)
        for path, leaf in leaves:
            if not any(name in (*RATES, "set_to_zero") for (name, *_), _ in found[id(leaf)]):
                raise ValueError(f"{label}: no learning rate in inner reaches params{keystr(path)}")
        shared = len({tuple(key for key, _ in factors) for factors in found.values()}) == 1
        steps = jax.tree.map(lambda leaf: functools.reduce(operator.mul, (x for _, x in found[id(leaf)])), shapes)
    return jax.tree.leaves(steps)[0] if shared else steps


def _collect(label: str, tx: Transform, old: OptState, new: OptState, shapes: Any, found: Found) -> None:
    """Adds the factors of a transform, of which `old` and `new` are states, to those found for the leaves it sees."""
    part, calls = known(tx, old), calls_of(tx)
    factory = part.factory if isinstance(part, Leafwise) else calls[-1].factory if calls else None
    name = getattr(factory, "__name__", "") if is_ours(factory) else ""
    seen = [found[id(leaf)] for leaf in jax.tree.leaves(shapes)]
    if isinstance(part, Injected):  # with the numbers of the step, which a program may have set
        _collect(label, part._inner(new.hyperparams), old.inner_state, new.inner_state, shapes, found)
    elif isinstance(part, Chain) or name in ("masked", "grouped"):
        for inside, inner_old in within(part, old):
            tree_seen = inside.sees(shapes)  # type: ignore[misc]
            _collect(label, inside.tx, inner_old, lookup(new, inside.path), tree_seen, found)
    elif name == "set_to_zero":
        for known_factors in seen:
            known_factors.append(((name,), 0.0))
    elif isinstance(part, Leafwise) and name in DIRECTIONS and not part.codecs:
        _of_rule(name, part, old, new, shapes, found)
    elif not (name in NEUTRAL or name in BEFORE and not any(seen)):
        where = " behind a direction or a rate" if name in BEFORE else ""
        raise ValueError(
            f"{label}: inner has {name or described(tx)}{where}, of which no step size is known; it may have SGD, "
            "momentum, Adam(W), NAdam, AMSGrad, Yogi, RMSProp or Adagrad, decay, a learning rate, and clips or noise "
            "before these; put wrappers that skip, average or accumulate around proximal"
        )


def _of_rule(name: str, part: Leafwise, old: OptState, new: OptState, shapes: Any, found: Found) -> None:
    count, slots, _ = part.split(new)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=is_skipped)
    columns = {f: structure.flatten_up_to(slot) for f, slot in zip(part.slots, slots, strict=True)}
    rows = factors.of_each(part.per_leaf, hyper := part.hyperparams(old), shapes)
    for i, sees in enumerate(part.sees(shapes) or [True] * len(leaves)):
        if not sees or is_skipped(leaves[i]):
            continue
        of_leaf = {f: wide(column[i]) for f, column in columns.items()}
        t = None if count is None else count.astype(numerics.real_dtype(numerics.at_least_float32(leaves[i].dtype)))
        factor = DIRECTIONS[name](of_leaf, {**hyper, **rows[i]}, t)
        alone = rows[i] or jnp.ndim(factor)
        found[id(leaves[i])].append(((name, id(part), i if alone else None), factor))
