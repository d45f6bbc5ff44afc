"""One pass over the leaves: the rules of a chain applied to each leaf in turn."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, checks
from gdjax.core.skipped import is_skipped
from gdjax.lift import rule_checks, staging
from gdjax.lift.one_leaf import kernel_of
from gdjax.lift.stages import Tree
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

    JAX traces that function once for each shape and dtype among the leaves: tracing costs one equation a leaf, and the
    step what the same arithmetic written out would. Only the first rule may have stages that read the updates: a later
    one would need those of all the leaves first. A wrapper's may read the gradients.

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
    # From here on the new counts: they are written where the old ones are, of which a later reader would need a copy.
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
        staging.add_numbers(rule, s, count, scalar, gs)
    raw = raw or [None] * len(rules)
    wraps = [x is not None for x in raw]
    raws: list[Any] = [
        None if x is None or x is updates else checks.flatten_like(r.label, RAW, structure, updates, x)
        for r, x in zip(rules, raw, strict=True)
    ]
    given = [[{}] * len(gs) for _ in rules]  # to each rule by its stages, for each leaf
    whole = [Tree(r.label, structure, [path for path, _ in paths], gs, trained, params, extra_args) for r in rules]
    gradients = [[gs, raws[k] or gs] if wraps[k] else [gs] for k in range(len(rules))]
    staged = [k for k, rule in enumerate(rules) if rule.stages]  # the first, and wrappers whose stages read no updates
    for k in staged:
        try:
            lists = gradients[k], slots[k], ps
            slots[k], shared[k], given[k] = staging.run(
                rules[k], whole[k], lists, counts[k], shared[k], scalars[k], late=False
            )
        except rule_checks.NoParameter as e:
            i = next(i for i, p in enumerate(ps) if p is None and trained[i])
            raise _no_parameter(rules[k].label, paths[i][0], gs[i], i, params, misfits) from e
    seen_fields = [rule.seen(fields) for rule, fields in zip(rules, shared, strict=True)]
    to = destination()
    directions, closing, before = [], [], None
    for i, ((path, _), g, p) in enumerate(zip(paths, gs, ps, strict=True)):
        mine = [s[i] for s in slots]  # per rule, the slots of this leaf
        if active[i]:
            apply = kernel_of(tuple(rules[k].kernel._replace(wraps=wraps[k]) for k in active[i]), to)
            came = [None if raws[k] is None else raws[k][i] for k in active[i]]
            numbers = [scalar | mine[i] for scalar, mine in zip(scalars, given, strict=True)]
            of_active = lambda *lists, mine=active[i]: [[xs[k] for k in mine] for xs in lists]  # noqa: E731
            try:
                # In turn: a large array that a leaf keeps on the way then lies where that of the leaf before was.
                large = to is not None and g.size > LARGE
                large = large and apply.keeps_a_value(g, p, *of_active(mine, counts, seen_fields, numbers), came)
                g = after(before, g) if large and before is not None else g
                g, new = apply(g, p, *of_active(mine, counts, seen_fields, numbers), came)
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
    for k in staged:
        lists = gradients[k], [mine[k] for mine in closing], ps
        news, shared[k], _ = staging.run(rules[k], whole[k], lists, counts[k], shared[k], scalars[k], late=True)
        closing = [[*mine[:k], new, *mine[k + 1 :]] for new, mine in zip(news, closing, strict=True)]
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
