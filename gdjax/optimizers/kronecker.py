"""What the optimizers with Kronecker factors share: their slots, their stages, their factories."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, meshes
from gdjax.core.base import MaskedNode
from gdjax.core.types import Params, Roles
from gdjax.lift.leafwise import Hyper
from gdjax.lift.slots import start
from gdjax.lift.stages import Stage, Tree, Whole
from gdjax.linalg.matrices import Matrix
from gdjax.matrices import factored, kronecker
from gdjax.matrices.factored import Layout, blocks_of, of_each, stands_for_a_tree
from gdjax.matrices.kronecker import adjoint, averaged, gram
from gdjax.matrices.of_gradients import blocks_and
from gdjax.matrices.turns import in_turns
from gdjax.numerics import Array, bounded


def slots(**whats: str) -> dict[str, Any]:
    """Slots that start as `factored.started` says; of those that are "blocks" the dtype is `mu_dtype`.

    "method: what" is a slot for one value of an argument alone, "qr: QL" say.
    """
    return {name: Whole(functools.partial(_started, what)) for name, what in whats.items()}


def _started(what: str, params: Params, given: Mapping[str, Any]) -> Any:
    if stands_for_a_tree(params):
        return jnp.zeros(())
    found = blocks_of(given["label"], params, given["roles"], Matrix(), given["layout"])
    needed, _, what = what.rpartition(": ")
    if needed and needed not in (given.get("grafting"), given["refresh"]):
        return {name: MaskedNode() for name in found.numbers}
    return factored.started(params, found, what, given["mu_dtype"], start(given.get("init_factor", 1.0), {}))


def of_blocks(f: Any, tree: Tree, gs: Any, s: Any, roles: Roles, layout: Layout, numbers: Any, fields: Any) -> Any:
    """What f makes of the gradient and the slots of all blocks, with the numbers of the step.

    `fields` names it: fields of the state, which stay as they are where no block has them, and "u", the directions.
    """
    slots = {name: x for name, x in s._asdict().items() if name != "count"}
    found, xs = blocks_and(tree, gs, slots["mu"], lambda like: blocks_of(tree.label, like, roles, Matrix(), layout))
    real = numerics.widest_real(gs)
    numbers = {k: numerics.scalar(x, real) for k, x in numbers.items()}

    def all_blocks(xs: Any, slots: Any, numbers: Any) -> Any:
        g = {name: bounded(x, "summed") for name, x in found.together(xs).items()}
        new = of_each(functools.partial(f, **numbers), {"g": g, **slots}, fields)
        us = found.apart(new.pop("u")) if "u" in fields else []
        kept: dict[str, Any] = found.only_there(xs, new, slots)
        return kept | ({"u": [u for u, x in zip(us, xs, strict=True) if x is not None]} if "u" in fields else {})

    return meshes.partitioned(all_blocks, {k: gs if k == "u" else slots[k] for k in fields}, xs, slots, numbers)


def new_bases(moments: tuple[str, ...], squares: tuple[str, ...], in_order: bool = True) -> Stage:
    """The stage of the bases, after the rule; see `kronecker.bases`."""
    fields = kronecker.bases(moments, squares, "qr").fields

    def stage(gs: list[Array], s: Any, ps: list[Array], t: Array, precondition_frequency: Hyper, refresh: str) -> Any:
        turned = kronecker.bases(moments, squares, refresh, in_order)
        slots = {name: getattr(s, name) for name in ("L", "R", "mu", *fields)}
        of = lambda slots, count, every: in_turns(turned, slots, count, every)  # noqa: E731
        return meshes.partitioned(of, {name: slots[name] for name in fields}, slots, s.count, precondition_frequency)

    return Stage(stage, " ".join(fields), late=True)


def factors(x: Mapping[str, Any], beta: Hyper) -> dict[str, Any]:
    """Shampoo's averages of G G^T and G^T G."""
    g = x["g"]
    return {
        "L": averaged(x["L"], lambda: gram(g), beta),
        "R": averaged(x["R"], lambda: gram(adjoint(g)), beta),
    }


def labelled(
    rule: Any,
    label: str,
    *arguments: Any,
    refresh: str,
    layout: Layout,
    methods: Any = kronecker.REFRESHES,
    **staged: Any,
) -> Any:
    """The rule with these arguments, under the name `label`.

    Raises:
      ValueError: an unknown `sides` or `refresh`; a size below 1.
      TypeError: a size that is no int.
    """
    if refresh not in methods:
        raise ValueError(f"{label}: refresh must be one of {', '.join(methods)}, got {refresh!r}")
    made = rule(*arguments, refresh=refresh, layout=layout.checked(label), label=label, **staged)
    return base.part_of(made).labelled(label)
