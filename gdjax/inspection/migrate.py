"""The state of a new optimizer from that of another."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.codes import formats
from gdjax.combine.hyperparams import get_hyperparams
from gdjax.core import base, meshes
from gdjax.core.field_docs import with_field_docs
from gdjax.core.types import OptState, Params, Transform
from gdjax.inspection.walk import Entry, entries, pairs

__all__ = ["MigrationReport", "migrate"]

LABEL = "gdjax.migrate"
# What the fields are: averages of the gradients, m = b m + (1 - b) g, or of their squares; sums, m = b m + g.
MEANS = "scale_by_adam scale_by_amsgrad scale_by_belief scale_by_lion muon".split()
SQUARES = "scale_by_adam scale_by_amsgrad scale_by_rms scale_by_rms_with_count".split()
ROLES = {f"{name}/mu": "mean" for name in MEANS} | {f"{name}/nu": "square" for name in SQUARES}
ROLES |= {"trace/trace": "sum"}
FIRST = "mean", "sum"
DECAYS = {"mean": ("b1", "beta"), "square": ("b2", "decay"), "sum": ("decay",)}  # what hyperparameter is their b


@with_field_docs
class MigrationReport(NamedTuple):
    """What `migrate` did, by the names of `state_to_dict`.

    Attributes:
      carried: from field of the new state to that of the old one.
      anew: fields of the new state, or arrays of one that is carried in part, that start anew.
      dropped: fields of the old state that have no use.
    """

    carried: dict[str, str]
    anew: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        rows = [f"carried  {new}" + (f" from {old}" if old != new else "") for new, old in self.carried.items()]
        return "\n".join([*rows, *(f"anew     {x}" for x in self.anew), *(f"dropped  {x}" for x in self.dropped)])


def migrate(state: OptState, old_tx: Transform, new_tx: Transform, params: Params) -> tuple[OptState, MigrationReport]:
    """The state of `new_tx` that keeps what the optimizer before it, `old_tx`, knew; the rest is `new_tx.init(params)`.

        state, report = migrate(state, adamw, muon, params)
        print(report)

    Each array comes from the one with the same transform, field and parameter, whatever is around the transform:
    chains, groups, accumulation and guards may come or go. Where there is none, a moment becomes another optimizer's:

    - an average m = b m + (1 - b) g and a sum m = b m + g are converted by the factor 1 - b;
    - averages of squares, `nu`, are carried to `nu`;
    - what `quantize_state` keeps as codes is decoded and, where it keeps the new one, encoded;
    - the count is carried where all moments are. Where one of two moments starts anew, so does the count, and the
      other, which is corrected for its start too, gets the weight of one gradient: (1 - b) m.

    A parameter that the old optimizer did not have starts from moments of 0, at the count of the others; see `reset`.

    Args:
      state: of `old_tx`, or the state that Optax made for the same chain.
      old_tx: tells the decay of a momentum; an Optax transform does not, and then a sum goes only to a sum.
      new_tx: the optimizer to go on with.
      params: the parameters, which keep their paths.

    Returns:
      The state, and a `MigrationReport`: what was carried, what starts anew, what was dropped.

    Raises:
      TypeError: `old_tx` or `new_tx` is no transform.
      ValueError: the state is not one of `old_tx`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2)}
      >>> old, new = gdjax.adam(1e-3), gdjax.chain(gdjax.clip(1.0), gdjax.adamw(1e-3))
      >>> _, state = old.update({"w": jnp.array([1.0, 2.0])}, old.init(params))
      >>> state, report = gdjax.migrate(state, old, new, params)
      >>> len(report.carried), report.anew, report.dropped
      (3, (), ())
    """
    for name, tx in (("old_tx", old_tx), ("new_tx", new_tx)):
        base.check_transform(LABEL, name, tx)
    theirs, fresh = entries(LABEL, formats.decoded(state)), new_tx.init(params)
    start = jax.eval_shape(lambda params: formats.decoded(old_tx.init(params)), params)
    expected = {x.path for x in entries(LABEL, start)}
    if wrong := sorted({x.path for x in theirs} ^ expected):
        raise ValueError(f"{LABEL}: the state is not one of {old_tx!r}: only one of the two has {', '.join(wrong)}")
    plain = formats.decoded(fresh)
    mine, known = entries(LABEL, plain), {x.path: x for x in theirs}
    fits = lambda x, y: x.value.shape == y.value.shape and x.value.dtype.kind == y.value.dtype.kind
    same = pairs([x.path for x in mine], [x.end for x in mine], list(known))
    sources = {x.path: known[same[x.path]] for x in mine if x.path in same and fits(x, known[same[x.path]])}
    factors = _alike(mine, theirs, sources, _decay(old_tx, state, "sum"), _decay(new_tx, fresh, "sum"))
    _weigh(mine, theirs, sources, factors, {role: _decay(new_tx, fresh, role) for role in ("mean", "square")})
    values = [_carried(x, sources.get(x.path), factors.get(x.path)) for x in mine]
    return formats.encoded(jax.tree.structure(plain).unflatten(values), fresh), _report(mine, theirs, sources)


def _role(x: Entry) -> str | None:
    return ROLES.get(f"{_kind(x)}/{x.field}")


def _kind(x: Entry) -> str:
    """The name of the state without its number."""
    name = x.names[-1] if x.names else ""
    start, _, number = name.rpartition("_")
    return start if number.isdigit() and start in {*MEANS, *SQUARES, "trace"} else name


def _alike(
    mine: Sequence[Entry], theirs: Sequence[Entry], sources: dict[str, Entry], old: Any, new: Any
) -> dict[str, Any]:
    """Adds the moments that mean the same to the sources; gives the factors that make one of the other."""
    factors: dict[str, Any] = {}
    for x in mine:
        role = _role(x)
        if role is None or x.path in sources:
            continue
        roles = FIRST if role in FIRST else (role,)
        alike = [y for y in theirs if _role(y) in roles and y.leaf == x.leaf and y.value.shape == x.value.shape]
        of = _role(alike[0]) if alike else None
        if of is None or of != role and (new if role == "sum" else old) is None:
            continue
        sources[x.path] = alike[0]
        if of != role:
            factors[x.path] = 1 / (1 - new) if role == "sum" else 1 - old
    return factors


def _weigh(
    mine: Sequence[Entry], theirs: Sequence[Entry], sources: dict[str, Entry], factors: dict[str, Any],
    decays: dict[str, Any],
) -> None:  # fmt: skip
    """Adds the counts of states whose moments are all known; the moments of others weigh as much as one gradient."""
    counts = {y.names: y for y in theirs if y.field == "count"}
    for count in [x for x in mine if x.field == "count" and x.path not in sources]:
        moments = [x for x in mine if x.names == count.names and _role(x)]
        owners = {sources[x.path].names: None for x in moments if x.path in sources}
        if moments and all(x.path in sources for x in moments) and all(owner in counts for owner in owners):
            # Of groups that become one; a lower count than the true one corrects too much, and makes steps smaller.
            each = [counts[owner] for owner in owners]
            sources[count.path] = each[0]._replace(value=functools.reduce(jnp.minimum, [y.value for y in each]))
            continue
        for x in moments:
            b = decays.get(_role(x) or "")
            if x.path in sources and b is not None and _kind(x) != "scale_by_lion":  # which does not correct
                factors[x.path] = factors.get(x.path, 1) * (1 - b)


def _decay(tx: Transform, state: OptState, role: str) -> Any:
    """The decay b of the moments that have this role; None where it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            hyperparams = get_hyperparams(tx, state)
    except ValueError:  # an Optax transform
        return None
    return next((x for name in DECAYS[role] for k, x in hyperparams.items() if k.rpartition("/")[2] == name), None)


def _carried(x: Entry, source: Entry | None, factor: Any) -> Any:
    if source is None:
        return x.value
    new = source.value if factor is None else source.value * factor
    return meshes.placed(new.astype(x.value.dtype), x.value)


def _report(mine: Sequence[Entry], theirs: Sequence[Entry], sources: dict[str, Entry]) -> MigrationReport:
    carried = {x.of: sources[x.path].of for x in mine if x.path in sources}
    anew = dict.fromkeys(x.path if x.of in carried else x.of for x in mine if x.path not in sources)
    used = {y.of for y in sources.values()}
    dropped = dict.fromkeys(y.of for y in theirs if y.of not in used)
    return MigrationReport(carried, tuple(anew), tuple(dropped))
