"""The numbers of an optimizer that change with a model, a batch or a run, and the same with others in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from gdjax.combine.sites import FROZEN, WRAPPER, Place, Site
from gdjax.core import base
from gdjax.core.growth import LAWS, PARAMETER, RATES, Law, law_of
from gdjax.core.part import Inside, Part, Step
from gdjax.core.parts import known
from gdjax.core.types import OptState, Params, Transform, Updates
from gdjax.lift.rule import Leafwise, state_of, steps_of

Kind = Literal["rate", "decay", "eps", "start", "slow"]
POWERS: dict[Kind, dict[str, float]] = {  # by kind and name the power of the gradient that a number is compared with
    "eps": {"eps": 1, "eps_root": 2},
    "start": {"precond_init_scale": -0.5},  # of a state
    "slow": {"b2": 1, "b3": 1, "shampoo_beta": 1, "decay": 1},  # decays of averages over many steps
}


class TunedNumber(NamedTuple):
    """A number of a part that changes with the model."""

    place: Place
    name: str
    kind: Kind
    law: Law
    power: float = 1


def tuned_numbers(label: str, path: Sequence[Site], role: str, leaf: str) -> tuple[list[TunedNumber], Law | None]:
    """The numbers that change for a leaf, and how its update grows; None for one that is frozen.

    Args:
      path: the parts that its gradient goes through.
      role: that of the leaf.
      leaf: what errors call it.

    Raises:
      ValueError: a part does not say how its updates grow; no part has a learning rate.
    """
    if any(site.growth == FROZEN for site in path):
        return [], None
    law, unknown = LAWS["gradient"], ""
    numbers: list[TunedNumber] = []
    steps: list[tuple[Any, Place, str]] = []  # the rate, and the decays before it, behind the last law
    for site in path:
        hyper, settings = ({}, {}) if site.rule is None else (site.rule.hyper, site.rule.settings)
        given = {**hyper, **settings}
        growth = law_of(site.growth, given, law, role)
        if growth is None:
            unknown = site.name
        elif growth == PARAMETER and not law.fits:
            law = law._replace(start=law.start + 1)
        elif isinstance(growth, Law):
            unknown = "" if growth.fits else unknown  # whatever came in
            compared = {"eps": law.gradient and growth.eps, "start": law.gradient, "slow": True}
            numbers += [
                TunedNumber(site.place, name, kind, growth, power)
                for kind, powers in POWERS.items()
                for name, power in powers.items()
                if compared[kind] and (given if kind == "start" else hyper).get(name) is not None
            ]
            law, steps = growth, []
        if any(kind == "rate" for kind, *_ in steps) or site.wraps and not isinstance(growth, Law):
            continue
        steps += [("decay", site.place, "weight_decay")] if "weight_decay" in hyper else []
        steps += [("rate", site.place, name) for name in RATES if hyper.get(name) is not None][:1]
    if unknown:
        raise ValueError(_unknown(label, unknown, leaf, role))
    if not any(kind == "rate" for kind, *_ in steps):
        names = ", ".join(site.name for site in path)
        raise ValueError(f"{label}: {leaf} goes through {names}, where no learning rate is: add scale_by_learning_rate")
    return numbers + [TunedNumber(place, name, kind, law) for kind, place, name in steps], law


def _unknown(label: str, name: str, leaf: str, role: str) -> str:
    if name.startswith("optax."):
        return f"{label}: {leaf} goes through {name}, which hides its numbers: write it with gdjax in place of optax"
    around = "; or tune and train with gdjax.spectral(...) around it, which measures" if role == "matrix" else ""
    return (
        f"{label}: {name} does not say how its updates of {leaf} grow with the model; one that finds a rate for the "
        f'whole tree cannot. If it is a rule of yours, say so: leafwise(..., growth="elementwise"), see there{around}'
    )


Edit = Callable[[Leafwise, str], Leafwise]  # from a rule and the name of a number to the rule with another number
Edits = Mapping[tuple[Place, str], Edit]  # by the place of a part, and the name of a number in it


def edited(tx: Transform, edits: Edits, place: Place = ()) -> Any:
    """The transform with other numbers in its parts."""
    if not any(edit_at[: len(place)] == place for edit_at, _ in edits):
        return tx
    part = known(tx)
    if isinstance(part, Leafwise):
        return _with(part, edits, place)
    new = part.around(lambda i, x: edited(x, edits, (*place, i)))
    of_rule = (*place, WRAPPER)
    return (
        replace(new, rule=_with(new.rule, edits, of_rule)) if any(edit_at == of_rule for edit_at, _ in edits) else new
    )


def _with(rule: Leafwise, edits: Edits, place: Place) -> Leafwise:
    for (edit_at, name), edit in edits.items():
        rule = edit(rule, name) if edit_at == place else rule
    return rule


def changed(f: Callable[[Any], Any]) -> Edit:
    """Puts f of a number, or of what a schedule gives, in its place; its factors for leaves stay."""

    def edit(rule: Leafwise, name: str) -> Leafwise:
        x = rule.hyper[name]
        new = (lambda count: f(x(count))) if callable(x) else f(x)
        factors = {name: rule.per_leaf[name].with_base(new)} if name in rule.per_leaf else {}
        return replace(rule, hyper={**rule.hyper, name: new}, per_leaf={**rule.per_leaf, **factors})

    return edit


@dataclass(frozen=True, eq=False)
class Edited(Part):
    """A transform with other numbers in its parts, which keep their names in errors."""

    label: str
    tx: Any
    is_transferred = False  # whether its numbers are those of one model, and not to be scaled again

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
