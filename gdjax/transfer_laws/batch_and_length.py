"""An optimizer tuned at one batch size or on short runs, for another batch size and longer runs."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal

from gdjax.combine.sites import Place, sites
from gdjax.core import argument_kinds as kinds
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import FINITE, POSITIVE
from gdjax.core.types import Scalar, Transform
from gdjax.transfer_laws.edits import Edit, Edited, TunedNumber, changed, edited, tuned_numbers

__all__ = ["for_batch", "for_length"]

Rule = Literal["sde", "linear", "decay"]
# By rule and kind of number the power of beta = batch / base_batch that multiplies it; `slow` numbers are no factors.
POWERS: dict[Rule, dict[str, float]] = {
    "sde": {"rate": 0.5, "eps": -0.5},
    "linear": {"rate": 1.0},
    "decay": {"decay": 0.5},
}


def everywhere(label: str, tx: Transform) -> list[TunedNumber]:
    """The numbers of a transform that change with the batch or the length, whatever leaves there are."""
    base.check_transform(label, 0, tx)
    parts = list(sites(tx))
    choices: dict[Place, set[int]] = {}
    for place, i in frozenset().union(*(part.groups for part in parts)):
        choices.setdefault(place, set()).add(i)
    numbers: dict[tuple[Place, str], TunedNumber] = {}
    for chosen in itertools.product(*choices.values()):
        groups = set(zip(choices, chosen, strict=True))
        way = [part for part in parts if part.groups <= groups]
        for number in [x for role in ("matrix", "norm") for x in tuned_numbers(label, way, role, "a leaf")[0]]:
            first = numbers.setdefault((number.place, number.name), number)
            if first.law.gradient != number.law.gradient:
                raise ValueError(f"{label}: one {number.name} is that of the gradient itself and of another method")
    return list(numbers.values())


@transform
def for_batch(
    tx: Transform, batch: Annotated[Scalar, POSITIVE], base_batch: Annotated[Scalar, POSITIVE], rule: Rule = "sde"
) -> GradientTransformation:
    """An optimizer tuned at one batch size, for another. With beta = batch / base_batch:

        rule        rate          b2 and the like        eps            decay
        "sde"       sqrt(beta)    b2^beta                1/sqrt(beta)   1
        "linear"    beta          1                      1              1
        "decay"     1             1 - sqrt(beta)(1-b2)   1              sqrt(beta)

    By "sde" a method that divides by the size of the gradient, or orthonormalizes it, takes a step as noisy as before,
    and its average of squares has the same half-life in examples. SGD, whose update is the gradient times a number,
    takes beta in place of sqrt(beta) there. b1 stays. It holds up to the critical batch size, which the gradient noise
    scale tells (`accumulate(noise_scale=True)`).

    A schedule counts steps, of which a run of a larger batch has fewer: make it for their number.

    Args:
      tx: the optimizer as it was tuned.
      batch, base_batch: examples or tokens to a step, now and when it was tuned; above 0.
      rule: see above.

    Raises:
      ValueError: an unknown rule; a batch is not above 0; "decay" gives a b2 below 0; as `transfer` for rules that do
        not say how their updates grow.

    Example:
      >>> import gdjax
      >>> tx = gdjax.for_batch(gdjax.adam(1e-3, b2=0.99), batch=1024, base_batch=256)
      >>> found = gdjax.get_hyperparams(tx, tx.init(0.0))
      >>> [round(found[name], 4) for name in ("b1", "b2", "learning_rate")]
      [0.9, 0.9606, 0.002]

    Reference:
      Malladi et al. 2022, On the SDEs and scaling rules for adaptive gradient algorithms, Definition 5.2,
      https://arxiv.org/abs/2205.10287 ("sde", with b2^beta for 1 - beta (1 - b2), and b1 as it is);
      Goyal et al. 2017, https://arxiv.org/abs/1706.02677 ("linear")
    """
    label = "gdjax.for_batch"
    kinds.choice(("sde", "linear", "decay"), label, "rule", rule)
    beta = _quotient(label, "batch", batch, base_batch)

    def edit(number: TunedNumber) -> Edit | None:
        if number.kind == "slow" and rule == "sde":
            return changed(lambda x: x**beta)
        if number.kind == "slow" and rule == "decay":
            return changed(lambda x: _at_least_0(label, 1 - beta**0.5 * (1 - x), number.name))
        power = 1.0 if (number.kind, rule) == ("rate", "sde") and number.law.gradient else POWERS[rule].get(number.kind)
        if power is None:
            return None
        factor = beta ** abs(power)
        return changed(lambda x: x * factor if power > 0 else x / factor**number.power)

    return _edited_everywhere(label, tx, edit if beta != 1 else lambda number: None)


@transform
def for_length(
    tx: Transform,
    tokens: Annotated[Scalar, POSITIVE],
    base_tokens: Annotated[Scalar, POSITIVE],
    exponent: Annotated[float, FINITE] = 0.32,
) -> GradientTransformation:
    """An optimizer tuned on runs of one length, for longer runs: rates times (tokens / base_tokens)^-exponent.

    The exponent is a fit: 0.28 to 0.40 for language models at a fixed batch. `docs/transfer.md` fits it from sweeps of
    two or three lengths.

    Args:
      tx: the optimizer as it was tuned.
      tokens, base_tokens: examples or tokens of the whole run, now and when it was tuned; above 0.
      exponent: 0 changes nothing.

    Raises:
      ValueError: a number is not above 0; as `transfer` for rules that do not say how their updates grow.

    Example:
      >>> import gdjax
      >>> tx = gdjax.for_length(gdjax.lion(1e-3), tokens=4e9, base_tokens=1e9)
      >>> round(float(gdjax.get_hyperparams(tx, tx.init(0.0))["learning_rate"]), 6)
      0.000642

    Reference:
      Ren et al. 2026, https://arxiv.org/abs/2603.28743
    """
    label = "gdjax.for_length"
    factor = _quotient(label, "tokens", tokens, base_tokens) ** -exponent
    longer = changed(lambda x: x * factor)
    return _edited_everywhere(label, tx, lambda number: longer if number.kind == "rate" and factor != 1 else None)


def _quotient(label: str, name: str, now: Any, before: Any) -> float:
    for which, x in ((name, now), (f"base_{name}", before)):
        if not isinstance(x, checks.NUMBER):
            raise TypeError(f"{label}: {which} must be a number above 0, got {x!r}")
    return float(now) / float(before)


def _at_least_0(label: str, x: Any, name: str) -> Any:
    if isinstance(x, float) and x < 0:
        raise ValueError(f"{label}: rule='decay' makes {name} {x:.3g}: the batch grows too much for it; use 'sde'")
    return x


def _edited_everywhere(label: str, tx: Transform, edit: Callable[[TunedNumber], Edit | None]) -> Any:
    edits = {(number.place, number.name): edit(number) for number in everywhere(label, tx)}
    return Edited(label, edited(tx, {at: new for at, new in edits.items() if new is not None}))
