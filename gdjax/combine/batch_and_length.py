"""An optimizer tuned at one batch size or on short runs, for another batch size and longer runs."""

import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal

from gdjax.combine.edits import At, Edit, Edited, Use, changed, edited, sites, uses
from gdjax.core import argument_kinds as kinds
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import FINITE, POSITIVE
from gdjax.core.types import Scalar, Transform

__all__ = ["for_batch", "for_length"]


def everywhere(label: str, tx: Transform) -> list[Use]:
    """The numbers of a transform that change with the batch or the length, whatever leaves there are."""
    base.check_transform(label, 0, tx)
    seen = list(sites(tx))
    choices: dict[At, set[int]] = {}
    for at, i in frozenset().union(*(site.groups for site in seen)):
        choices.setdefault(at, set()).add(i)
    found: dict[tuple[At, str], Use] = {}
    for chosen in itertools.product(*choices.values()):
        group = set(zip(choices, chosen, strict=True))
        for role in ("matrix", "norm"):
            for use in uses(label, [site for site in seen if site.groups <= group], role, "a leaf")[0]:
                if found.setdefault((use.at, use.name), use).law.gradient != use.law.gradient:
                    raise ValueError(f"{label}: one {use.name} is that of the gradient itself and of another method")
    return list(found.values())


Rule = Literal["sde", "linear", "decay"]


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
    root = beta**0.5

    def edit(use: Use) -> Edit | None:
        if rule == "linear":
            return changed(lambda x: x * beta) if use.kind == "rate" else None
        if rule == "decay":
            less = {"decay": lambda x: x * root, "slow": lambda x: _at_least_0(label, 1 - root * (1 - x), use.name)}
            return changed(less[use.kind]) if use.kind in less else None
        rate = beta if use.law.gradient else root
        f = {"rate": lambda x: x * rate, "slow": lambda x: x**beta, "eps": lambda x: x / root**use.power}
        return changed(f[use.kind]) if use.kind in f else None

    return _edited_everywhere(label, tx, edit if beta != 1 else lambda use: None)


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
    return _edited_everywhere(label, tx, lambda use: longer if use.kind == "rate" and factor != 1 else None)


def _quotient(label: str, name: str, now: Any, before: Any) -> float:
    for which, x in ((name, now), (f"base_{name}", before)):
        if not isinstance(x, checks.NUMBER):
            raise TypeError(f"{label}: {which} must be a number above 0, got {x!r}")
    return float(now) / float(before)


def _at_least_0(label: str, x: Any, name: str) -> Any:
    if isinstance(x, float) and x < 0:
        raise ValueError(f"{label}: rule='decay' makes {name} {x:.3g}: the batch grows too much for it; use 'sde'")
    return x


def _edited_everywhere(label: str, tx: Transform, edit: Callable[[Use], Edit | None]) -> Any:
    edits: dict[At, dict[str, Edit]] = {}
    for use in everywhere(label, tx):
        if (found := edit(use)) is not None:
            edits.setdefault(use.at, {})[use.name] = found
    return Edited(label, edited(tx, edits))
