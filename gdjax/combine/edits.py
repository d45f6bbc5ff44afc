"""The numbers of an optimizer that change with a model, a batch or a run, and the same with others in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from gdjax.combine.chain import Chain
from gdjax.combine.groups import grouped
from gdjax.combine.masking import MaskedLeafwise
from gdjax.core import base
from gdjax.core.base import identity, set_to_zero
from gdjax.core.growth import LAWS, PARAMETER, SAME, Law, law_of
from gdjax.core.part import Inside, Part, Step
from gdjax.core.parts import Guess, calls_of, described, known
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates, is_skipped
from gdjax.lift.rule import Leafwise, state_of, steps_of
from gdjax.lift.wrapper import Wrapped

RATES = "learning_rate", "step_size", "step_size_fn"
EPS = {"eps": 1, "eps_root": 2}  # by name the power of the gradient that it is compared with
STARTS = {"precond_init_scale": -0.5}  # what is compared with the gradient in the start of a state, by its power
SLOW = "b2", "b3", "shampoo_beta", "decay"  # the decays of averages over many steps

At = tuple[int, ...]  # the places of a part among the inner transforms of those around it
FROZEN = "frozen"  # the growth of what makes an update 0
OWN = -1  # the place of the rule of a wrapper


class Site(NamedTuple):
    """A part that is not taken apart further, in the order in which an update goes through them."""

    at: At
    name: str
    rule: Leafwise | None
    growth: Any
    wraps: bool
    paths: frozenset[str] | None  # the leaves that it sees; None where no tree is given
    groups: frozenset[tuple[At, int]]  # the groups around it: of which part, and which one


class Use(NamedTuple):
    """A number of a part that changes with the model: a rate, a decay beside it, or an eps."""

    at: At
    name: str
    kind: Literal["rate", "decay", "eps", "state", "slow"]
    law: Law
    power: float = 1


def sites(tx: Transform, tree: ArrayTree = None, at: At = (), groups: Any = frozenset()) -> Iterator[Site]:
    """The parts of a transform, and which leaves of a tree reach each."""
    part, calls = known(tx), calls_of(tx)
    if isinstance(part, Edited) and part.final and tree is not None:
        raise ValueError(f"{part.label}: the optimizer is transferred already: pass it as it was tuned")
    name = part.label.removeprefix("gdjax.") if hasattr(part, "label") else calls[-1].name if calls else described(tx)
    paths = None if tree is None else frozenset(path for path, _ in paths_of(tree))
    if isinstance(part, Leafwise):
        if isinstance(part, MaskedLeafwise) and tree is not None:
            every = paths_of(tree, is_skipped)
            paths = frozenset(
                p for (p, x), own in zip(every, part.sees(tree), strict=True) if own and not is_skipped(x)
            )
        yield Site(at, name, part, part.growth, False, paths, groups)
        return
    inside = [] if isinstance(part, Guess) else list(part.inside())  # one written by hand may do anything
    fits = all(x.sees is not None and x.alike for x in inside)
    chained = isinstance(part, Chain) or len(inside) < 2
    if not inside or not fits or not (chained or calls and calls[-1].factory is grouped):
        factory: Any = calls[-1].factory if calls else None
        special = {identity: SAME, set_to_zero: FROZEN}.get(factory)
        yield Site(at, name, None, special or getattr(part, "growth", None), False, paths, groups)
        return
    for i, x in enumerate(inside):
        own = groups if chained else groups | {(at, i)}
        yield from sites(x.tx, tree if tree is None else x.sees(tree), (*at, i), own)  # type: ignore[misc]
    if isinstance(part, Wrapped):
        yield Site((*at, OWN), name, part.own, part.own.growth, True, paths, groups)


def uses(label: str, seen: Sequence[Site], role: str, where: str) -> tuple[list[Use], Law | None]:
    """The numbers that change for a leaf, and how its update grows; None for one that is frozen.

    Args:
      seen: the parts that its gradient goes through.
      role: that of the leaf.
      where: what errors call it.

    Raises:
      ValueError: a part does not say how its updates grow; no part has a learning rate.
    """
    law, found, rate, decays = LAWS["gradient"], list[Use](), None, list[tuple[At, str]]()
    unknown: str | None = None
    if any(site.growth == FROZEN for site in seen):
        return [], None
    for site in seen:
        hyper = {} if site.rule is None else site.rule.hyper
        given = {} if site.rule is None else {**hyper, **site.rule.settings}
        said = law_of(site.growth, given, law, role)
        if said is None:
            unknown = site.name
        elif isinstance(said, Law) and said.fits:
            unknown = None  # whatever came in
        if isinstance(said, Law):
            if law.gradient and said.eps:
                found += [Use(site.at, k, "eps", said, power) for k, power in EPS.items() if hyper.get(k) is not None]
            if law.gradient:
                found += [Use(site.at, k, "state", said, power) for k, power in STARTS.items() if k in given]
            found += [Use(site.at, k, "slow", said) for k in SLOW if hyper.get(k) is not None]
            law, rate, decays = said, None, []
        elif said == PARAMETER and not law.fits:
            law = law._replace(start=law.start + 1)
        if rate is not None or site.wraps and not isinstance(said, Law):
            continue
        if "weight_decay" in hyper:
            decays.append((site.at, "weight_decay"))
        rate = next(((site.at, k) for k in RATES if hyper.get(k) is not None), None)
    if unknown:
        raise ValueError(_unknown(label, unknown, where, role))
    if rate is None:
        names = ", ".join(site.name for site in seen)
        raise ValueError(
            f"{label}: {where} goes through {names}, where no learning rate is: add scale_by_learning_rate"
        )
    found += [Use(*rate, "rate", law), *(Use(*decay, "decay", law) for decay in decays)]
    return found, law


def _unknown(label: str, name: str, where: str, role: str) -> str:
    if name.startswith("optax."):
        return f"{label}: {where} goes through {name}, which hides its numbers: write it with gdjax in place of optax"
    around = "; or tune and train with gdjax.spectral(...) around it, which measures" if role == "matrix" else ""
    return (
        f"{label}: {name} does not say how its updates of {where} grow with the model; one that finds a rate for the "
        f'whole tree cannot. If it is a rule of yours, say so: leafwise(..., growth="elementwise"), see there{around}'
    )


Edit = Callable[[Leafwise, str], Leafwise]  # from a rule and the name of a number to the rule with another number


def edited(tx: Transform, edits: Mapping[At, Mapping[str, Edit]], at: At = ()) -> Any:
    """The transform with other numbers in its parts."""
    if not any(place[: len(at)] == at for place in edits):
        return tx
    part = known(tx)
    if isinstance(part, Leafwise):
        return _with(part, edits[at])
    new = part.around(lambda i, x: edited(x, edits, (*at, i)))
    own = (*at, OWN)
    return replace(new, own=_with(new.own, edits[own])) if own in edits else new


def _with(rule: Leafwise, edits: Mapping[str, Edit]) -> Leafwise:
    for name, edit in edits.items():
        rule = edit(rule, name)
    return rule


def changed(f: Callable[[Any], Any]) -> Edit:
    """Puts f of a number, or of what a schedule gives, in its place; its factors for leaves stay."""

    def edit(rule: Leafwise, name: str) -> Leafwise:
        x = rule.hyper[name]
        new = (lambda count: f(x(count))) if callable(x) else f(x)
        own = {name: rule.per_leaf[name].with_base(new)} if name in rule.per_leaf else {}
        return replace(rule, hyper={**rule.hyper, name: new}, per_leaf={**rule.per_leaf, **own})

    return edit


@dataclass(frozen=True, eq=False)
class Edited(Part):
    """A transform with other numbers in its parts, which keep their names in errors."""

    label: str
    tx: Any
    final = False  # whether its numbers are those of one model, and not to be scaled again

    def init(self, params: Params) -> OptState:
        return self.tx.init(params)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        return base.call_update(self.tx, updates, state, params, extra_args)

    def inside(self) -> Iterator[Inside]:
        yield Inside(self.tx, ())

    def steps(self, state: OptState) -> Iterator[Step]:
        return steps_of(self.tx, state)

    def joined(self, states: Iterator[Any]) -> Any:
        return state_of(self.tx, states)

    def around(self, new: Callable[[int, Any], Any]) -> "Edited":
        return replace(self, tx=new(0, self.tx))
