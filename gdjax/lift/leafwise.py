"""The lift: a rule written for one array becomes a transform over any pytree.

A rule is a function of one gradient `g`, the transform's state for it `s`, its parameter `p` (None where `update` got
none), the step `t` = 1, 2, ... (None where the state has no count) and the hyperparameters. It returns a direction,
shaped like `g`, and the new state. Everything else is done here, once for all rules:

- walking the tree; None, `MaskedNode` and float0 leaves; the step count;
- dtypes: a rule computes in float32 or wider and sees every real or complex array in that dtype; results return to the
  gradient's dtype, and to each slot's own. Integers, booleans and PRNG keys of the state reach it as they are;
- hyperparameters: numbers are constants of the program, arrays and `per_leaf` its arguments, schedules are evaluated;
- what a rule needs from the whole tree, numbers or arrays for each leaf, and numbers that its state keeps: see
  `reduce`, `gdjax.lift.stages` and `Shared`;
- errors that name the transform, the leaf and the field of the state that does not fit; name scopes for profiles;
- speed: one traced function per (rules, shape, dtype), shared by all leaves like it; see `fused`.
"""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Concatenate, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, checks
from gdjax.core.base import EmptyState, GradientTransformation
from gdjax.core.codec import Codec
from gdjax.core.types import OptState, Params, ScalarOrSchedule, Updates
from gdjax.lift import factors, rule_checks
from gdjax.lift.all_leaves import fused
from gdjax.lift.signatures import arguments_of, hashable, like_rule
from gdjax.lift.slots import Shared, Stored, first, first_moment, is_like_parameter, resolved
from gdjax.lift.stages import Planned, Reduced, Stage, Tree, Whole, stages_of  # noqa: F401  optimizers import it here
from gdjax.lift.trace import Kernel
from gdjax.xla.write_order import once

P = ParamSpec("P")
Array = jax.Array
Prepared = Callable[..., Mapping[str, Any]] | Stage
OfLeaf = Callable[[Tree, Any], Sequence[Hashable]]
Hyper = Annotated[Any, ScalarOrSchedule]  # a scalar in a rule; what a user passes to the factory made from it


class ScaleByScheduleState(NamedTuple):
    """State of a stateless rule that has a scheduled hyperparameter."""

    count: Array  # () int32, updates made so far


class ScheduledState(NamedTuple):
    """State of a rule whose own state has no count and that has a scheduled hyperparameter."""

    count: Array  # () int32, updates made so far
    inner_state: Any  # the rule's own state


def leafwise(
    State: Any = EmptyState,  # noqa: N803
    *,
    scheduled: Any = None,
    count: Callable[[Any], Any] | None = None,
    numbers: Callable[..., dict[str, Any]] | None = None,
    reduce: Prepared | tuple[Prepared, ...] | None = None,
    staged: str = "",
    static: Mapping[str, OfLeaf] | None = None,
    extra: str = "",
    domains: Mapping[str, str] | None = None,
    **slots: Shared | Whole | Planned | Callable[[Any, Mapping[str, Any]], Any],
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[P, GradientTransformation]]:
    """Makes a rule for one array a factory of transforms over trees; the factory takes the rule's hyperparameters.

    Args:
      State: a NamedTuple class, or a function from the hyperparameters (a dict) to one. Its field `count`, if it has
        one, is the number of updates; the rule sees it with this one. Every other field is a slot: one array in the
        rule, a tree of arrays shaped like the parameters in the state.
      scheduled: the state class, of one field `count`, of a stateless rule with a scheduled hyperparameter;
        `ScaleByScheduleState` by default. A rule with slots and no count then keeps `ScheduledState`.
      count: the updates made so far, from the `Shared` fields of a state that counts them under another name.
      numbers: new numbers for all leaves, a function `(s, t, ...) -> dict` of the `Shared` fields of the state and the
        hyperparameters that it names. Entries that name a `Shared` field are its new values, which the rule then finds
        in `s`; the rule gets the others by name, declared as `name=Reduced` or `name: Reduced = None`.
      reduce: what the rule needs from the whole tree: a stage, a function `(gs, s, ps, t, ...) -> dict` of the lists of
        gradients, slots and parameters, which runs before the rule; a `Stage`, which may run every k steps or after the
        rule; or a tuple of those. Entries of the dict that name fields of the state are their new values; the rule gets
        the others by name, declared like those of `numbers`.
      staged: "table size": arguments that only stages get, and that need not be numbers; the rule finds None.
      static: what a leaf is: from the name of an argument, of any kind, to a function `(tree, argument) -> list` of the
        `Tree` of an update, with an entry that can be hashed for each leaf that has a gradient. The rule gets the entry
        of its leaf.
      extra: "value": arguments of `update`, numbers, that the rule gets by name; the factory does not have them.
      domains: from the name of a hyperparameter to the interval in which it must lie, such as {"b1": "[0, 1)"}: a
        bracket includes its end. Numbers are checked when the factory is called; traced ones and schedules are not.
      **slots: what a field starts as: a `Shared` number; a `Moment` (by default `first_moment`), `Factor`, `Integer` or
        `Key`; one of these `Stored`; or a function `(p, hyperparameters) -> arrays` of one parameter.

    Raises:
      TypeError: State is neither such a class nor such a function, or has no field of a slot's name; `staged` or
        `domains` names no argument of the rule; a stage of `reduce` takes fewer than four arguments by their places.
      ValueError: a domain is no interval; (in the factory) a number lies outside its domain.
      ValueError, TypeError: (in update) the rule returned no update shaped like `g`, no state, or a field of another
        shape or kind than its slot: real numbers are rounded to the slot's dtype, nothing else is cast. `reduce`
        returned no dict, or what neither the state nor the rule has.

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

    def decorate(rule: Callable[..., Any]) -> Callable[..., GradientTransformation]:
        arguments = arguments_of("leafwise", rule, 4, (staged, static or {}, extra), domains, reduce)
        applied = hashable(rule)

        def factory(*args: Any, **kwargs: Any) -> GradientTransformation:
            call = arguments.call(factory, args, kwargs)
            label, (hyper, for_stages) = base.label_of(call), arguments.of(call)
            kinds = rule_checks.state_class(label, State, call.arguments), scheduled or ScaleByScheduleState
            split = factors.split(label, hyper, slots, stages_of(reduce), numbers)
            of_leaves = static or {}, tuple(extra.split())
            part = Leafwise(label, applied, *kinds, slots, reduce, numbers, count, *split, for_stages, *of_leaves)
            return base.made_by(call, part)

        return like_rule(factory, rule, arguments.of_factory, Hyper)

    return decorate


@dataclass(frozen=True, eq=False)
class Leafwise:
    """A rule with its hyperparameters: the transform that `leafwise` makes."""

    label: str
    rule: Callable[..., Any]
    State: Any
    Scheduled: Any
    initial: Mapping[str, Any]
    reduce: Any
    numbers: Callable[..., dict[str, Any]] | None
    counted: Callable[[Any], Any] | None
    hyper: Mapping[str, Any]
    per_leaf: factors.Factors  # of the hyperparameters that differ from leaf to leaf, whose bases are in `hyper`
    staged: Mapping[str, Any] = field(default_factory=dict)  # the arguments that only stages get, and the rule as None
    static: Mapping[str, OfLeaf] = field(default_factory=dict)  # what leaves are, from some of these arguments
    extra: tuple[str, ...] = ()  # the arguments of `update` that the rule gets

    def labelled(self, label: str) -> "Leafwise":
        return replace(self, label=label)

    @functools.cached_property
    def shared(self) -> tuple[str, ...]:
        """The fields that are one number for the whole tree, or `Whole`."""
        return tuple(f for f in self.State._fields if isinstance(self.initial.get(f), Shared | Whole))

    @functools.cached_property
    def whole(self) -> tuple[str, ...]:
        """The fields that are `Whole`."""
        return tuple(f for f in self.shared if isinstance(self.initial[f], Whole))

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        return stages_of(self.reduce)

    def seen(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        hidden = [f for f in self.whole if not self.initial[f].seen]
        return {f: None if f in hidden else x for f, x in shared.items()}  # what the rule sees of them

    @functools.cached_property
    def slots(self) -> tuple[str, ...]:
        """The fields that are trees."""
        return tuple(f for f in self.State._fields if f != "count" and f not in self.shared)

    @functools.cached_property
    def schedules(self) -> Mapping[str, Any]:
        return {k: v for k, v in self.hyper.items() if callable(v) and not isinstance(v, type)}

    @functools.cached_property
    def arrays(self) -> Mapping[str, Any]:
        return {k: v for k, v in self.hyper.items() if isinstance(v, jax.Array | np.ndarray)}

    @functools.cached_property
    def kernel(self) -> Kernel:
        rest = {k: v for k, v in self.hyper.items() if k not in {*self.schedules, *self.arrays, *self.per_leaf}}
        constants = tuple((k, type(v), v) for k, v in [*rest.items(), *((k, None) for k in self.staged)])
        name = self.label.removeprefix("gdjax.")
        return Kernel(name, self.rule, self.State, constants, tuple(self.codecs.items()), staged=bool(self.stages))

    @functools.cached_property
    def moments(self) -> tuple[str, ...]:
        """The slots shaped like the parameter."""
        return tuple(f for f, slot in self.declared.items() if is_like_parameter(slot))

    @functools.cached_property
    def declared(self) -> Mapping[str, Any]:
        return {f: resolved(self.initial.get(f, first_moment), self.hyper) for f in self.slots}

    @functools.cached_property
    def codecs(self) -> Mapping[str, Codec]:
        return {f: slot.codec for f, slot in self.declared.items() if isinstance(slot, Stored)}

    @functools.cached_property
    def stateless(self) -> bool:
        """Whether any state will do, and is returned as it is."""
        return not self.counts and not self.slots and not self.shared

    @functools.cached_property
    def heeds_params(self) -> bool:
        """Whether parameters must fit even if the rule does not read them: it has slots for them or a learning rate."""
        return bool(self.slots or self.whole or "learning_rate" in self.hyper)

    @property
    def counts(self) -> bool:
        return "count" in self.State._fields or bool(self.schedules) and self.counted is None

    @property
    def outer(self) -> Any:
        """The class of the whole state."""
        if not self.counts or "count" in self.State._fields:
            return self.State
        return ScheduledState if self.slots else self.Scheduled

    def init(self, params: Params) -> Any:
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        if self.slots or self.shared:
            checks.leaves(self.label, "params", params)
        factors.check_paths(self.per_leaf, params)
        arguments = {**self.hyper, **self.staged, "label": self.label}
        leaves = [p for _, p in paths]
        found = {f: x.init(params, arguments) for f, x in self.initial.items() if isinstance(x, Planned | Whole)}
        made = {
            f: found[f] if f in found else first(self.label, x, paths, self.hyper, i * len(paths))
            for i, (f, x) in enumerate(self.declared.items())
        }
        trees = [structure.unflatten(made[f]) for f in self.slots]
        numbers: Any = {f: found[f] if f in found else self.initial[f](leaves, self.hyper) for f in self.shared}
        return self.join(jnp.zeros((), jnp.int32) if self.counts else None, trees, numbers)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, (state,) = fused([self], updates, [state], params, extra_args)
        return updates, state

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = lambda count: count) -> dict[str, Any]:
        """The hyperparameters, schedules evaluated for the next update, or at another count made from that."""
        count = at(self.split(state)[0]) if self.schedules else None
        return {k: checks.scalar(self.label, k, v(count)) if k in self.schedules else v for k, v in self.hyper.items()}

    def sees(self, updates: Updates) -> Sequence[bool] | None:
        """Which leaves the rule applies to; None for all."""
        return None

    def split(self, state: OptState) -> tuple[Any, list[Any], dict[str, Any]]:
        """The count (None if there is none), the trees of the slots and the shared numbers."""
        if self.stateless:
            return None, [], {}
        checks.state(self.label, state, self.outer)
        inner = state.inner_state if self.outer is ScheduledState else state
        shared = {f: getattr(inner, f) for f in self.shared}
        count = state.count if self.counts else None if self.counted is None else self.counted(inner)
        return count, [getattr(inner, f) for f in self.slots], shared

    def join(self, count: Any, slots: Sequence[Any], shared: Mapping[str, Any]) -> Any:
        fields = {**dict(zip(self.slots, slots, strict=True)), **shared}
        if self.outer is ScheduledState:
            return ScheduledState(count, self.State(**fields))
        return self.outer(**({"count": count} if self.counts else {}), **fields)

    def scalars(self, count: Any) -> dict[str, Any]:
        """The hyperparameters that are not constants."""
        return {**self.arrays, **{k: once(checks.scalar(self.label, k, f(count))) for k, f in self.schedules.items()}}
