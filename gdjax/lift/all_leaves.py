"""One pass over the leaves: the rules of a chain applied to each leaf in turn."""

import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, checks
from gdjax.core.skipped import is_skipped
from gdjax.lift import rule_checks
from gdjax.lift.one_leaf import kernel_of, promotion
from gdjax.xla.write_order import LARGE, after, destination, written

Array = jax.Array

RAW = "updates", "gradients"  # of a wrapper: those that it passes on, and those that came in


def fused(
    rules: Sequence[Any],
    updates: Any,
    states: Sequence[Any],
    params: Any,
    extra_args: dict[str, Any],
    raw: Sequence[Any] | None = None,
) -> tuple[Any, list[Any]]:
    """Applies rules one after the other, leaf by leaf: one call of one jitted function per leaf for all the rules.

    JAX traces that function once for each shape and dtype among the leaves and XLA inlines the calls, so tracing costs
    one equation a leaf and the step costs what the same arithmetic written out would. Only the first rule may have
    reductions: a later one would need the directions of all the leaves first.

    Args:
      rules: of type `gdjax.lift.leafwise.Leafwise`, with the states `states`.
      raw: for each rule of a wrapper the updates that came into that, for others None.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_skipped)
    gs = [_array(rules[0].label, path, g) for path, g in paths]
    trained = [not is_skipped(g) and not base.is_float0(g) for g in gs]
    ps, misfits = _parameters(rules, structure, paths, updates, params)
    opened = [_opened(r, s, structure, updates) for r, s in zip(rules, states, strict=True)]
    counts, slots, shared = (list(x) for x in zip(*opened, strict=True))
    scalars = [r.scalars(c) for r, c in zip(rules, counts, strict=True)]
    # From here on the new counts: XLA writes them where the old ones are, and whatever reads those needs a copy.
    counts = [None if c is None else numerics.safe_increment(c) for c in counts]
    seen = [rule.sees(updates) for rule in rules]
    active = [
        [k for k, flags in enumerate(seen) if flags is None or flags[i]] if moves else []
        for i, moves in enumerate(trained)
    ]
    for i, ((path, _), g, p) in enumerate(zip(paths, gs, ps, strict=True)):
        if active[i]:
            _check(rules, path, g, p, [s[i] for s in slots])
    for rule, s, count, scalar in zip(rules, shared, counts, scalars, strict=True):
        if rule.numbers is not None:
            _keep(s, scalar, _numbers(rule, s, count, scalar, gs))
    raw = raw or [None] * len(rules)
    wraps = [x is not None for x in raw]
    raws: list[Any] = [
        None if x is None or x is updates else checks.flatten_like(r.label, RAW, structure, updates, x)
        for r, x in zip(rules, raw, strict=True)
    ]
    if rules[0].reduce is not None:
        each = (gs, *([raws[0] or gs] if wraps[0] else []), slots[0], ps)
        leaves = [list(itertools.compress(xs, trained)) for xs in each]
        try:
            reduced = _reduced(rules[0], leaves, counts[0], shared[0], scalars[0], extra_args)
        except rule_checks.NoParameter as e:
            i = next(i for i, p in enumerate(ps) if p is None and trained[i])
            raise _no_parameter(rules[0].label, paths[i][0], gs[i], i, params, misfits) from e
        _keep(shared[0], scalars[0], reduced)
    to = destination()
    directions, closing, before = [], [], None
    for i, ((path, _), g, p) in enumerate(zip(paths, gs, ps, strict=True)):
        mine = [s[i] for s in slots]  # per rule, the slots of this leaf
        if active[i]:
            apply = kernel_of(tuple(rules[k].kernel._replace(wraps=wraps[k]) for k in active[i]), to)
            given = [None if raws[k] is None else raws[k][i] for k in active[i]]
            of_active = lambda *lists, mine=active[i]: [[xs[k] for k in mine] for xs in lists]  # noqa: E731
            try:
                # In turn: a large array that a leaf keeps on the way then lies where that of the leaf before was.
                large = to is not None and g.size > LARGE
                large = large and apply.keeps_a_value(g, p, *of_active(mine, counts, shared, scalars), given)
                now = counts
                if large and before is not None:
                    g, now = (
                        (g, after(before, counts)) if any(c is not None for c in counts) else (after(before, g), now)
                    )
                g, new = apply(g, p, *of_active(mine, now, shared, scalars), given)
            except rule_checks.NoParameter as e:
                raise _no_parameter(rules[active[i][e.index]].label, path, g, i, params, misfits) from e
            except (ValueError, TypeError) as e:
                _blame([rules[k].label for k in active[i]], path, e)
                raise
            for k, leaf in zip(active[i], new, strict=True):
                mine[k] = leaf
            if large:
                before = written(to, p, g)
        directions.append(g)
        closing.append(mine)
    new_states = []
    for k, (rule, count) in enumerate(zip(rules, counts, strict=True)):
        trees = [structure.unflatten([mine[k][j] for mine in closing]) for j in range(len(rule.slots))]
        new_states.append(states[k] if rule.stateless else rule.join(count, trees, shared[k]))
    return structure.unflatten(directions), new_states


def _parameters(rules: Sequence[Any], structure: Any, paths: Any, updates: Any, params: Any) -> tuple[list[Any], Any]:
    """For each leaf its parameter, None where there is none or it does not fit where it need not.

    Beside them what is wrong with them: an error, or for each leaf what it had.
    """
    nothing = [None] * structure.num_leaves
    if params is None:
        return nothing, None
    heeded = any(rule.heeds_params for rule in rules)
    try:
        ps = checks.flatten_like(rules[0].label, ("updates", "params"), structure, updates, params)
    except ValueError as e:
        if heeded:
            raise
        return nothing, e
    fits = lambda g, p: not is_skipped(g) and (heeded or getattr(p, "shape", None) == jnp.shape(g))  # noqa: E731
    kept = [p if p is not None and fits(g, p) else None for (_, g), p in zip(paths, ps, strict=True)]
    return [p if p is None or hasattr(p, "dtype") else jnp.asarray(p) for p in kept], ps


def _no_parameter(label: str, path: Any, g: Array, i: int, params: Any, misfits: Any) -> Exception:
    """The error for a rule that reads the parameter of a leaf and got none."""
    if isinstance(misfits, Exception):
        return misfits
    try:
        checks.params(label, params)
        if misfits[i] is not None:
            checks.gradient(label, lambda: _where(path), g, misfits[i])
    except (ValueError, TypeError) as e:
        return e
    return ValueError(f"{label}: {_where(path)} is None, and has a gradient of shape {jnp.shape(g)}")


def _keep(shared: dict[str, Any], scalars: dict[str, Any], found: dict[str, Any]) -> None:
    """New values of shared fields, in their dtypes, and numbers for the rule."""
    shared.update({f: jnp.asarray(found.pop(f)).astype(x.dtype) for f, x in shared.items() if f in found})
    scalars.update(found)


def _numbers(
    rule: Any, shared: dict[str, Any], count: Any, scalars: dict[str, Any], gs: Sequence[Any]
) -> dict[str, Any]:
    """What the rule's `numbers` returns."""
    real = numerics.widest_real(gs)
    known = {**rule.hyper, **{k: x.astype(real) for k, x in scalars.items()}}
    arguments = list(inspect.signature(rule.numbers).parameters)[2:]
    s = rule.State(**{**dict.fromkeys(rule.State._fields), **shared})
    with jax.named_scope(rule.label.removeprefix("gdjax.")), promotion():
        t = None if count is None else count.astype(real)
        return dict(rule.numbers(s, t, **{name: known[name] for name in arguments if name in known}))


def _reduced(
    rule: Any, leaves: Sequence[Any], count: Any, shared: Any, scalars: Any, extra_args: Any
) -> dict[str, Any]:
    """What the rule's `reduce` returns, numbers of the whole tree; `leaves` are the gradients, slots and parameters."""
    *gs, slots, ps = leaves
    arguments = list(inspect.signature(rule.reduce).parameters.values())[len(gs) + 3 :]
    if any(p is None for p in ps) and rule_checks.names(rule.reduce, len(gs) + 1):
        raise rule_checks.NoParameter(0)
    real = numerics.widest_real(gs)
    known = {**extra_args, **rule.hyper, **{k: x.astype(real) for k, x in scalars.items()}}
    missing = [a.name for a in arguments if a.default is a.empty and a.name not in known]
    if missing:
        named = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(f"{rule.label}: this transform needs {named}: call update(updates, state, params, {named})")
    trees = {f: [mine[j] for mine in slots] for j, f in enumerate(rule.slots)}
    trees |= {f: list(map(codec.decode, trees[f])) for f, codec in rule.codecs.items()}
    s = rule.State(**({"count": count} if "count" in rule.State._fields else {}), **trees, **shared)
    t = None if count is None else count.astype(real)
    given = {a.name: known[a.name] for a in arguments if a.name in known}
    with jax.named_scope(rule.label.removeprefix("gdjax.")), promotion(*gs[0]):
        return dict(rule.reduce(*gs, s, ps, t, **given))


def _opened(rule: Any, state: Any, structure: Any, updates: Any) -> tuple[Any, list[Any], dict[str, Any]]:
    """The count, for each leaf the tuple of its slots, and the shared numbers."""
    count, trees, shared = rule.split(state)
    flat = [
        checks.flatten_like(rule.label, ("updates", f"state.{field}"), structure, updates, tree)
        for field, tree in zip(rule.slots, trees, strict=True)
    ]
    return count, list(zip(*flat, strict=True)) if flat else [()] * structure.num_leaves, shared


def _check(rules: Sequence[Any], path: Any, g: Any, p: Any, slots: Sequence[Any]) -> None:
    checks.gradient(rules[0].label, lambda: _where(path), g, p)
    for rule, leaves in zip(rules, slots, strict=True):
        for field, x in zip(rule.slots, leaves, strict=True):
            if field in rule.moments:
                checks.slot(rule.label, _where(path), field, x, g.shape)


def _blame(labels: Sequence[str], path: Any, e: Exception) -> None:
    """Says in the message of an error that a rule raised, where it does not, which rule it was, for which leaf."""
    if (index := rule_checks.culprit(e)) is not None:
        labels = labels[index : index + 1]
    if type(e) in (ValueError, TypeError) and not str(e).startswith(tuple(f"{label}: " for label in labels)):
        e.args = (f"{', '.join(dict.fromkeys(labels))}: {_where(path)}: {e}",)
    else:
        e.add_note(f"{', '.join(dict.fromkeys(labels))}: in the rule for {_where(path)}")


def _where(path: Any) -> str:
    return f"params{jax.tree_util.keystr(path)}"


def _array(label: str, path: Any, g: Any) -> Array:
    """`g`, a Python number as an array of a definite dtype."""
    if hasattr(g, "dtype") or is_skipped(g):
        return g
    checks.leaf(label, f"updates{jax.tree_util.keystr(path)}", g)
    x = jnp.asarray(g)
    return jax.lax.convert_element_type(x, x.dtype)
