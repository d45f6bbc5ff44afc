"""Weight decay."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.combine.masking import mask_of, masked
from gdjax.core import checks
from gdjax.core.base import EmptyState, GradientTransformation, check_transform, part_of, transform
from gdjax.core.types import (
    Decay,
    Mask,
    Params,
    PerLeaf,
    Positive,
    Rate,
    ScalarOrSchedule,
    Size,
    Transform,
    base_of,
    per_leaf,
)
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Hyperparameters, initial_parameter
from gdjax.numerics import Array, real_product, widen, widest_real
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["WeightDecaySchedule", "WeightDecayState", "add_decayed_weights", "with_weight_decay"]


class WeightDecaySchedule(NamedTuple):
    """State of `add_decayed_weights` with a scheduled decay."""

    count: Array  # () int32, updates made so far


class WeightDecayState(NamedTuple):
    """State of the decay of `with_weight_decay` towards the start or an average."""

    count: Array  # () int32, updates made so far
    reference: Params  # like params, what `init` was given; or the average, float32 at least


@leafwise(scheduled=WeightDecaySchedule, growth="decay")
def _decay(g: Array, s: EmptyState, p: Array, t: Array, weight_decay: hyper.Size) -> tuple[Array, EmptyState]:
    return decayed(g, p, weight_decay), s


@leafwise(scheduled=WeightDecaySchedule, growth="decay")
def _cautious_decay(g: Array, s: EmptyState, p: Array, t: Array, weight_decay: hyper.Size) -> tuple[Array, EmptyState]:
    return g + weight_decay * jnp.where(real_product(g, p) < 0, 0, p), s


def decayed(g: Array, p: Array, weight_decay: Hyper) -> Array:
    """g + weight_decay p; for a constant 0 it is g, and p is not read, finite or not."""
    return g if isinstance(weight_decay, int | float) and weight_decay == 0 else g + weight_decay * p


@leafwise(scheduled=WeightDecaySchedule, growth="same")
def _weight_decay(
    g: Array, s: EmptyState, p: Array, t: Array,
    rate: Hyper, weight_decay: hyper.Size, peak: Hyper, kind: str, cautious: bool,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """u - eta weight_decay p, for an update u that is added to p."""
    return _beside(g, p, rate, weight_decay, peak, kind, cautious), s


@leafwise(WeightDecayState, reference=initial_parameter, growth="same")
def _weight_decay_to_start(
    g: Array, s: WeightDecayState, p: Array, t: Array,
    rate: Hyper, weight_decay: hyper.Size, peak: Hyper, kind: str, cautious: bool,
) -> tuple[Array, WeightDecayState]:  # fmt: skip
    return _beside(g, p - s.reference, rate, weight_decay, peak, kind, cautious), s


def _wide_start(p: Array, hyper: Hyperparameters) -> Array:
    return widen(initial_parameter(p, hyper), widest_real(p))


@leafwise(WeightDecayState, reference=_wide_start, growth="same")
def _weight_decay_to_average(
    g: Array, s: WeightDecayState, p: Array, t: Array,
    rate: Hyper, weight_decay: hyper.Size, peak: Hyper, kind: str, cautious: bool, average_decay: hyper.Decay,
) -> tuple[Array, WeightDecayState]:  # fmt: skip
    average = average_decay * s.reference + (1 - average_decay) * p
    return _beside(g, p - average, rate, weight_decay, peak, kind, cautious), s._replace(reference=average)


def _beside(g: Array, p: Array, rate: Hyper, weight_decay: Hyper, peak: Hyper, kind: str, cautious: bool) -> Array:
    if kind == "coupled":
        return decayed(g, p, weight_decay)
    share = 1 if kind == "decoupled" else rate / jnp.where(peak == 0, 1, peak)
    eta = share if kind == "independent" else rate * share
    if cautious:
        p = jnp.where(real_product(g, p) > 0, 0, p)
    return decayed(g, -eta * p, weight_decay)


def of_some(label: str, weight_decay: ScalarOrSchedule, mask: Mask, name: str = "weight_decay_mask") -> Any:
    """The weight decay of a rule that has decay among its arguments: 0 for the leaves that the mask, `name`, hides."""
    return weight_decay if mask is None else per_leaf(weight_decay, functools.partial(_factors, label, name, mask))


def _factors(label: str, name: str, mask: Mask, params: Params) -> Any:
    return jax.tree.map(float, mask_of(label, mask, params, name))


@transform
def add_decayed_weights(weight_decay: Size = 0.0, mask: Mask = None, *, cautious: bool = False) -> Any:
    """Adds the parameters times a rate to the updates.

        u = g + weight_decay p

    After an adaptive direction and before the learning rate this is decoupled decay (AdamW); before the direction it is
    the gradient of an L2 penalty of weight_decay / 2 |p|^2.

    Args:
      weight_decay: the rate, at least 0, or a schedule.
      mask: which leaves decay, all by default: a tree of booleans shaped like the parameters or a prefix of it, or a
        function from the parameters to one.
      cautious: only the elements decay that the step itself moves towards 0, or not at all: those with g p >= 0. The
        decay then does not pull against the gradient. Here g is still to be multiplied by a negative rate.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> decay = gdjax.add_decayed_weights(0.25, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([2.0]), "b": jnp.array([2.0])}
      >>> g = {"w": jnp.array([1.0]), "b": jnp.array([1.0])}
      >>> u, _ = decay.update(g, decay.init(params), params)
      >>> print(u["w"], u["b"])
      [1.5] [1.]
      >>> adamw = gdjax.chain(gdjax.scale_by_adam(), decay, gdjax.scale_by_learning_rate(0.1))

    Reference:
      Loshchilov & Hutter 2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101;
      Chen et al. 2025, Cautious weight decay, Algorithm 1, https://arxiv.org/abs/2510.12402 (`cautious`)
    """
    rule = (_cautious_decay if cautious else _decay)(weight_decay)
    return rule if mask is None else masked(rule, mask)


def descending(
    direction: Transform, learning_rate: ScalarOrSchedule, weight_decay: ScalarOrSchedule | None = None,
    mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """A direction, decoupled decay where there is one, and the step against both."""
    decay = () if weight_decay is None else (add_decayed_weights(weight_decay, mask),)
    return chain(direction, *decay, scale_by_learning_rate(learning_rate))


Kind = Literal["decoupled", "coupled", "independent", "corrected"]
Towards = Literal["zero", "start", "average"]


@transform
def with_weight_decay(
    inner: Transform, learning_rate: Rate, weight_decay: Size, mask: Mask = None,
    *, kind: Kind = "decoupled", cautious: bool = False, peak_learning_rate: Positive | None = None,
    towards: Towards = "zero", average_decay: Decay = 0.999,
) -> GradientTransformation:  # fmt: skip
    """An optimizer, and weight decay of one of four kinds beside it.

        x_{t+1} = x_t + u_t - eta_t weight_decay x_t

    where u_t is the update of the optimizer, and eta_t goes by the kind:

    - "decoupled": lr_t. AdamW as in Optax and torch;
    - "independent": lr_t / lr_max. The decay stays as it is where the rate is tuned, as in the AdamW paper;
    - "corrected": lr_t^2 / lr_max. AdamC: under a schedule the norm of normalised weights stays where it is;
    - "coupled": 0. Instead g_t + weight_decay x_t goes into the optimizer, the gradient of an L2 penalty.

    Args:
      inner: the optimizer, whose updates are added to the parameters: it has the learning rate, and so the sign. It
        should not decay weights itself.
      learning_rate: lr, that of `inner`: a scalar or a schedule, or `per_leaf(...)` of one. "coupled" does not read it.
      weight_decay: at least 0, a scalar or a schedule, or `per_leaf(...)` of one. For "independent" it is the share of
        x that decays in a step at the largest rate, commonly 1e-5 to 1e-3, and so weight_decay lr_max of the others.
      mask: which leaves decay, all by default: a tree of booleans shaped like the parameters or a prefix of it, or a
        function from the parameters to one.
      kind: see above.
      cautious: only the elements decay that u_t moves towards 0, or not at all: those with u_t x_t <= 0.
      peak_learning_rate: lr_max, the largest number of the schedule, above 0, for "independent" and "corrected". It may
        be left out where `learning_rate` is a number. Factors of `per_leaf` apply to it too.
      towards: "start" decays x_t - x_0 in place of x_t in all of these formulas, for fine-tuning; "coupled" is L2-SP
        then. The state keeps x_0, what `init` was given: a copy of each leaf that decays, saved and divided as they
        are. For a reference other than the start call `init` with that tree. "average" decays x_t - a_t, where
        a_t = b a_{t-1} + (1 - b) x_t from a_0 = x_0; the state keeps a_t, float32 at least.
      average_decay: b, in [0, 1), or a schedule. Only "average" reads it.

    It comes after all that changes updates, inside of averages such as `params_ema`. The state is that of
    `chain(inner, decay)`, of "coupled" that of `chain(decay, inner)`.

    An optimizer with a `weight_decay` of its own, times lr, can do the same with that alone: "independent" is
    weight_decay / lr_max, "corrected" the schedule `lambda count: weight_decay * rate(count) / lr_max`.

    Raises:
      ValueError: an unknown kind; `cautious` with "coupled"; no peak where it cannot be known.
      ValueError: (in update) params is missing.
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> zero, x, rate = jnp.zeros(1), jnp.ones(1), gdjax.linear_schedule(0.5, 0.0, 2)
      >>> kind = {"kind": "corrected", "peak_learning_rate": 0.5}
      >>> tx = gdjax.with_weight_decay(gdjax.adopt(rate), rate, 0.5, **kind)
      >>> _, state = tx.update(zero, tx.init(x), x)
      >>> u, _ = tx.update(zero, state, x)  # at half the rate; AdamW's is -0.125
      >>> print(u)
      [-0.0625]

    Reference:
      Loshchilov & Hutter 2019, Decoupled weight decay regularization, https://arxiv.org/abs/1711.05101 ("independent"
      with their factor of a schedule, "decoupled"); Defazio 2025, Why gradients rapidly increase near the end of
      training, https://arxiv.org/abs/2506.02285 ("corrected"); Chen et al. 2025, Cautious weight decay, Algorithm 1,
      https://arxiv.org/abs/2510.12402 (`cautious`); Li, Grandvalet & Davoine 2018, Explicit inductive bias for
      transfer learning with convolutional networks, equation 2, https://arxiv.org/abs/1802.01483 (`towards`)
    """
    label = "gdjax.with_weight_decay"
    to_average = functools.partial(_weight_decay_to_average, average_decay=average_decay)
    rule = {"zero": None, "start": _weight_decay_to_start, "average": to_average}[towards]
    return decaying(label, inner, learning_rate, weight_decay, mask, kind, cautious, peak_learning_rate, rule)


def decaying(
    label: str, inner: Transform, rate: ScalarOrSchedule, weight_decay: ScalarOrSchedule, mask: Mask, kind: Kind,
    cautious: bool, peak: ScalarOrSchedule | None, towards: Callable[..., Transform] | None = None,
) -> GradientTransformation:  # fmt: skip
    """`with_weight_decay`, by the rule of a reference where that is not 0; errors begin with `label`."""
    check_transform(label, "inner", inner)
    if kind == "coupled":
        if cautious:
            raise ValueError(f"{label}: cautious decay looks at the update, and kind='coupled' comes before it")
        if towards is None:
            return chain(add_decayed_weights(weight_decay, mask), inner)
    make = towards or _weight_decay
    decay = part_of(make(rate, weight_decay, _peak(label, kind, rate, peak), kind, cautious)).labelled(label)
    decay = decay if mask is None else masked(decay, mask)
    return chain(decay, inner) if kind == "coupled" else chain(inner, decay)


def _peak(label: str, kind: str, rate: ScalarOrSchedule, peak: ScalarOrSchedule | None) -> ScalarOrSchedule:
    """The largest rate, with the factors for leaves that the rate has; 1 for the kinds that do not read it."""
    if kind in ("decoupled", "coupled"):
        return 1.0
    if peak is None:
        peak = base_of(rate)
        if not isinstance(peak, checks.NUMBER):
            raise ValueError(f"{label}: kind={kind!r} needs peak_learning_rate, the largest learning_rate of the run")
    return rate.with_base(peak) if isinstance(rate, PerLeaf) and not isinstance(peak, PerLeaf) else peak
