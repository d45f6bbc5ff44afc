"""`matrixwise`: a rule of one matrix becomes a transform of all matrices of a tree, over the stacks that it keeps."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec

from gdjax.core.base import GradientTransformation
from gdjax.lift.rule_checks import named
from gdjax.lift.slots import Key, Moment, Shared, first_moment
from gdjax.lift.treewise import treewise
from gdjax.lift.whole_tree import Tree
from gdjax.matrices.all_shapes import of_matrices
from gdjax.matrices.one_shape import Declared
from gdjax.matrices.slots import LIFTED, Slot, arguments_of, as_declared
from gdjax.numerics import Array

P = ParamSpec("P")


def matrixwise(
    State: Any,  # noqa: N803
    *,
    then: Callable[..., Sequence[Array]] | None = None,
    domains: Mapping[str, str] | None = None,
    **slots: Slot | Sequence[Slot] | Moment | Shared | Key,
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[P, GradientTransformation]]:
    """Makes a rule for one matrix a factory of transforms of all matrices of a tree.

    The rule is a function `(G, s, p, t, ...) -> (U, s)` of the gradient of one matrix, (rows, columns), the fields of
    the state for it, None in the place of the parameter, the step, and hyperparameters. It computes in float32 at
    least. Matrices of one shape are one stack of the state, by its name: `state.L["768x3072"]`. So a step has one
    program for each shape, and `in_turns` says what is done for some of the matrices in each step.

    Args:
      State: a NamedTuple class with a field `count`; every other field is a slot.
      then: a function of the whole matrices, `(us, ...) -> us`, after the rule: it gets a list of stacks (number, rows,
        columns), none of them cut into blocks or transposed, and arguments of the factory that it names.
      domains: as for `leafwise`.
      **slots: what each field is: a `Block` like the matrix, a `Side` along its rows or columns, or `Along` these; or a
        list of those. Or what a field of `leafwise` is: a `Moment` (by default `first_moment`), which lies in the state
        as the parameter does, and which the rule sees as a matrix; a `Shared` number, of which the rule makes the new
        value from numbers alone; a `Key`, one for the tree, which stays as it is: the rule finds another in its place
        for each matrix and step.

    Returns:
      A decorator. The factory that it makes has the arguments of the rule, and by name
      block_size: matrices are cut evenly into blocks with sides of at most that; the rule sees blocks.
      sides: which sides have factors: "both"; "short"; "rows"; "columns". The slots of others are None in the rule.
      max_precond_dim: a side longer than that has no factor.
      roles: how each leaf is a matrix, if not all have two axes: by role (None, or a dict from pattern to role), a
        tree, or a function from the parameters to one.
      and those of `then`, and the names of dtypes, starts and seeds that slots have.
      A rule may name these too, for a place and a default of its own; editors and type checkers then know them. Where
      it names one of the four, there are no others of them. Seeds do not reach it.
      With `sides` "both" or "short" a tall matrix lies in its stack on its side: the rule sees it transposed.

    Raises:
      TypeError: a slot is of another kind.
      ValueError: (in init) a leaf that is no matrix, an unknown `sides`, a size below 1.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "count L")
      >>> @gdjax.matrixwise(State, L=gdjax.Side(0))
      ... def whitened(G, s, p, t, decay=0.9):
      ...     L = decay * s.L + (1 - decay) * G @ G.T
      ...     return gdjax.inverse_root(L, 2) @ G, s._replace(L=L)
      >>> whitened(sides="rows").init({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}).L["2x3"].shape
      (2, 2, 2)
    """
    kinds = {f: slots.get(f, first_moment) for f in getattr(State, "_fields", ()) if f != "count"} | slots
    kinds = {f: tuple(x) if isinstance(x, list) else x for f, x in kinds.items()}
    for f, x in kinds.items():
        if not all(isinstance(y, Slot) for y in x) if isinstance(x, tuple) else not isinstance(x, _KINDS):
            raise TypeError(f"gdjax.matrixwise: {f} is {x!r}, no slot of a rule of one matrix")

    def decorate(rule: Callable[..., Any]) -> Any:
        own, last = named(rule, 4), [p.name for p in named(then, 1)] if then else []
        after = [p for p in named(then, 1) if p.name not in {x.name for x in own}] if then else []
        known = {p.name for p in (*own, *after)}
        of_slots = {name: x for slot in kinds.values() for name, x in arguments_of(slot).items()}
        of_slots |= {} if known & LIFTED.keys() else LIFTED
        seeds = [x.seed for x in kinds.values() if isinstance(x, Key) and isinstance(x.seed, str)]

        def given(gs: list[Array], s: Any, tree: Tree, t: Any, **arguments: Any) -> Any:
            whole = functools.partial(then, **{name: arguments[name] for name in last}) if then else None
            hyper = {p.name: arguments[p.name] for p in own if p.name not in seeds}
            found = of_matrices(Declared(tree.label, rule, State, kinds), gs, s, t, tree, arguments, hyper, whole)
            return found.pop("u"), s._replace(**found)

        by_name = inspect.Parameter.KEYWORD_ONLY
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("gs", "s", "tree", "t")]
        lifted = [inspect.Parameter(name, by_name, default=x) for name, x in of_slots.items() if name not in known]
        functools.update_wrapper(given, rule)
        _sign(given, [*places, *own, *after, *lifted])
        settings = [p.name for p in (*own, *after, *lifted) if p in after or p.name in of_slots or p.name in LIFTED]
        return treewise(State, settings, domains, **{f: as_declared(x) for f, x in kinds.items()})(given)

    return decorate


_KINDS = (Slot, Moment, Shared, Key)


def _sign(f: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Gives f a signature, those that are taken by name last."""
    f.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))
