"""The lift: a rule written for one array becomes a transform over any pytree.

A rule is a function of one gradient `g`, the transform's state for it `s`, its parameter `p` (None where `update` got
none), the step `t` = 1, 2, ... (None where the state has no count) and the hyperparameters. It returns a direction,
shaped like `g`, and the new state. Everything else is done here, once for all rules:

- walking the tree; None, `MaskedNode` and float0 leaves; the step count;
- dtypes: a rule computes in float32 or wider and sees every real or complex array in that dtype; results return to the
  gradient's dtype, and to each slot's own. Integers, booleans and PRNG keys of the state reach it as they are;
- hyperparameters: numbers are constants of the program, arrays and `per_leaf` its arguments, schedules are evaluated;
- what a rule needs from the whole tree, numbers or arrays for each leaf, and numbers that its state keeps: see
  `gdjax.lift.meetings` and `Shared`;
- errors that name the transform, the leaf and the field of the state that does not fit; name scopes for profiles;
- speed: one traced function per (rules, shape, dtype), shared by all leaves like it; see `fused`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Concatenate, ParamSpec

import jax.numpy as jnp

from gdjax.core import base, types
from gdjax.core.base import EmptyState, GradientTransformation
from gdjax.core.growth import check_growth
from gdjax.lift import factors, layers, rule_checks
from gdjax.lift.rule import Leafwise, OfLeaf
from gdjax.lift.rule_checks import Special, arguments_of, hashable, like_rule
from gdjax.lift.slots import Planned, ScaleByScheduleState, Shared, Whole, read_by

__all__ = ["Hyper", "leafwise"]

P = ParamSpec("P")
Hyper = Annotated[Any, types.ScalarOrSchedule]  # of a rule, which gets a scalar: what its factory takes stands behind


class hyper:
    """The types of numbers as a rule has them."""

    Rate = Annotated[Any, types.Rate]
    Decay = Annotated[Any, types.Decay]
    Squares = Annotated[Any, types.Squares]
    Size = Annotated[Any, types.Size]
    Positive = Annotated[Any, types.Positive]
    Finite = Annotated[Any, types.Finite]
    Bound = Annotated[Any, types.Bound]
    Share = Annotated[Any, types.Share]
    Probability = Annotated[Any, types.Probability]
    Steps = Annotated[Any, types.Steps]


def leafwise(
    State: Any = EmptyState,
    *,
    scheduled: Any = None,
    count: Callable[[Any], Any] | None = None,
    static: Mapping[str, OfLeaf] | None = None,
    extra: str = "",
    growth: Any = None,
    **slots: Shared | Whole | Planned | Callable[[Any, Mapping[str, Any]], Any],
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[P, GradientTransformation]]:
    """Makes a rule for one array a factory of transforms over trees; the factory takes the rule's hyperparameters.

    Args:
      State: a NamedTuple class, or a function from the hyperparameters (a dict) to one. Its field `count`, if it has
        one, is the number of updates; the rule sees it with this one. Every other field is a slot: one array in the
        rule, a tree of arrays shaped like the parameters in the state.
      scheduled: the state class, of one field `count`, of a stateless rule with a scheduled hyperparameter;
        `ScaleByScheduleState` by default. A rule with slots and no count then keeps `ScheduledState`.
      count: the updates made so far, from the `Shared` fields of a state that counts them under another name. A field
        `count` of it is then one of these, and starts at 0.
      static: what a leaf is: from the name of an argument, of any kind, to a function `(tree, argument) -> list` of the
        `Tree` of an update, with an entry that can be hashed for each leaf that has a gradient. The rule gets the entry
        of its leaf.
      extra: "value": arguments of `update`, numbers, that the rule gets by name; the factory does not have them.
      growth: how the update grows with a matrix, for `transfer`: "elementwise" for numbers of one size, as Adam's;
        "orthonormal" for singular values of one size, as Muon's; "normalized" for a norm of one size; "gradient";
        "same" as what comes in, "unchanged" where it is that, "decay" where a number times the parameter is added;
        "direction" for what comes in at a norm of its own; "fits" where its largest singular value is
        about sqrt(outputs / inputs) already. None where it is not known: `transfer` then refuses the rule.
      **slots: what a field starts as: a `Shared` number; a `Moment` (by default `first_moment`), `Factor`, `Integer` or
        `Key`; one of these `Stored`; or a function `(p, hyperparameters) -> arrays` of one parameter.

    Raises:
      TypeError: State is neither such a class nor such a function, or has no field of a slot's name.
      ValueError: the domain of an argument is no interval; (in the factory) a number lies outside its domain.
      ValueError, TypeError: (in update) the rule returned no update shaped like `g`, no state, or a field of another
        shape or kind than its slot: real numbers are rounded to the slot's dtype, nothing else is cast.

    An annotation of the rule may say in which interval a hyperparameter must lie, such as `b1: Annotated[Hyper, "[0,
    1)"]`: a bracket includes its end. Numbers are checked when the factory is called, traced ones and schedules not.

    A rule with an argument `layer_axes=None` is one of a layer: the argument of its factory says how many leading axes
    of each leaf are layers, as that of `scale_by_trust_ratio` does. The rule is mapped over them and sees one layer. It
    has no fields that are one number or key.

    Each function may be decorated, partial, a method, an object that can be called, or compiled by `jax.jit`. The rule
    must be defined at the top level of a module for its transforms to pickle.

    Example:
      >>> import collections, gdjax
      >>> State = collections.namedtuple("State", "mu")
      >>> @gdjax.leafwise(State, mu=gdjax.first_moment)
      ... def heavy_ball(g, s, p, t, decay=0.9):
      ...     mu = decay * s.mu + g
      ...     return mu, s._replace(mu=mu)
      >>> gdjax.chain(heavy_ball(0.5), gdjax.scale(-0.1))
      chain(heavy_ball(decay=0.5), scale(step_size=-0.1))
    """
    rule_checks.declaration(State, slots)
    if count is not None and "count" in getattr(State, "_fields", ()):
        slots = {"count": Shared(0, jnp.int32), **slots}

    special = Special(static or {}, extra.split())
    return maker_of("leafwise", State, slots, count, special, growth, scheduled=scheduled)


def maker_of(
    maker: str, State: Any, slots: Mapping[str, Any], count: Any, special: Special, growth: Any, *,
    scheduled: Any = None, around: Callable[..., Any] | None = None, kind: type[Leafwise] = Leafwise, **fields: Any,
) -> Callable[..., Any]:  # fmt: skip
    """The decorator behind `leafwise`, `wrapper` and `matrixwise`.

    Args:
      around: from a rule, the name of an argument and a transform to a wrapper, which its factories make.
      kind: the class of the rule, with more `fields`.
    """
    check_growth(maker, growth)
    inner = inspect.Parameter("inner", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=GradientTransformation)
    before = [] if around is None else [inner]
    special = special._replace(settings=[*special.settings, *read_by(slots)])

    def decorate(rule: Callable[..., Any]) -> Callable[..., GradientTransformation]:
        by_layer = any(p.name == layers.LAYERS for p in rule_checks.named(rule, 4 + len(before)))
        static = {layers.LAYERS: layers.of_leaf, **special.static} if by_layer else special.static
        arguments = arguments_of(maker, rule, 4 + len(before), special._replace(static=static))
        checks = [x.check for x in slots.values() if isinstance(x, Whole) and x.check]
        applied = hashable(rule)
        if by_layer:
            layers.check(slots)
            applied = layers.mapped(applied)

        def factory(*args: Any, **kwargs: Any) -> GradientTransformation:
            call = arguments.call(factory, args, kwargs)
            label, (hyper, settings) = base.label_of(call), arguments.taken_apart(call)
            for check in checks:
                check({**call.arguments, "label": label})
            classes = rule_checks.state_class(label, State, call.arguments), scheduled or ScaleByScheduleState
            hyper, per_leaf = factors.split(label, hyper, slots, kind.of_tree)
            more = settings, static, special.extra, growth
            part = kind(label, applied, *classes, slots, count, hyper, per_leaf, factory, *more, **fields)
            return base.made_by(call, part if around is None else around(part, *next(iter(call.arguments.items()))))

        return like_rule(factory, rule, [*before, *arguments.of_factory])

    return decorate
