"""How an update grows with the sizes of a matrix: the laws that rules name.

A layer of any width is to change what it computes by as much, at one learning rate. For a matrix of n inputs and m
outputs that is so where the largest singular value of its change goes as sqrt(m / n) (Yang, Simon & Bernstein 2023, A
spectral condition for feature learning, https://arxiv.org/abs/2310.17813). Each rule of a method says by its `growth`
how large that of its updates is; the factor of its rate is the quotient of the two, over that of the base.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

RATES = "learning_rate", "step_size", "step_size_fn"  # what an update is multiplied by


class Law(NamedTuple):
    """The largest singular value of an update: inputs^a outputs^b start^c scale(rows, columns), times a constant.

    An embedding, whose inputs select one row, a bias and the gains of a norm count as matrices of one input.
    """

    inputs: float = 0.0  # a
    outputs: float = 0.0  # b
    start: float = 0.0  # c, the exponent of the root mean square of the weights
    full: bool = False  # whether all singular values are alike, as those of a polar factor; else a few are large
    scale: Callable[[int, int], float] | None = None  # a factor by the shape of each matrix
    gradient: bool = False  # whether it grows and shrinks with the gradient
    eps: bool = False  # whether its eps is compared with numbers of the gradient
    fits: bool = False  # whether it has the right size for each leaf: sqrt(outputs / inputs), or the like


LAWS = {
    "gradient": Law(0.5, -0.5, gradient=True),  # numbers of 1 / outputs
    "elementwise": Law(0.5, 0.5, eps=True),  # numbers of about 1, as Adam's
    "normalized": Law(),  # a gradient over its norm
    "orthonormal": Law(full=True),
    "by_shape": Law(full=True, scale=lambda rows, columns: max(1, columns / rows) ** 0.5),  # that, as of Muon
    "by_rms": Law(full=True, scale=lambda rows, columns: max(rows, columns) ** 0.5),  # of one root mean square
    # Of about 1 in other coordinates, as of SOAP and PSGD. Measured at sizes of 64 to 512: the sum is near 1 while
    # gradients have few directions, and near 0.5 with as many as the matrix has.
    "eigenbasis": Law(0.44, 0.44),
    "fits": Law(fits=True),
}
SAME, PARAMETER = "same", "parameter"  # as what comes in; that, times the root mean square of the parameter
UNCHANGED, DECAY = "unchanged", "decay"  # what comes in; that, and the parameter times a number
DIRECTION = "direction"  # as what comes in for a tree of one size, at a norm that does not depend on the norm of that


def relative(arguments: Any, before: Law, role: str) -> Law:
    """The growth of an update that is divided by its own norm and multiplied by that of the weights."""
    return Law(0.5, 0.5, start=1.0, full=before.full, scale=_of_norm if before.full else None)


def of_roles(roles: tuple[str, ...], growth: Any) -> Callable[[Any, Law, str], Law | str | None]:
    """The growth behind a wrapper that changes leaves of some roles alone; what `ascends` has its rate there, too."""
    return functools.partial(_of_role, roles, growth)


def _of_role(roles: tuple[str, ...], growth: Any, arguments: Any, before: Law, role: str) -> Law | str | None:
    if role in roles:
        return law_of(growth, arguments, before, role)
    return before if arguments["ascends"] else SAME


def divides_by_norm(growth: Any) -> bool:
    """Whether an update is divided by its own norm, however small that is."""
    return isinstance(growth, functools.partial) or growth in (relative, DIRECTION)


def elementwise_from_0(arguments: Any, before: Law, role: str) -> str | None:
    """The growth of numbers over roots of sums that start at 0; from another start they are the gradient's at first."""
    start = arguments["initial_accumulator_value"]
    return "elementwise" if isinstance(start, int | float) and start == 0 else None


def _of_norm(rows: int, columns: int) -> float:
    """The largest singular value over the norm, where all are alike."""
    return min(rows, columns) ** -0.5


def check_growth(maker: str, growth: Any) -> None:
    """Raises for a word that is no law."""
    if isinstance(growth, str) and growth not in (known := [*LAWS, SAME, UNCHANGED, DECAY, PARAMETER, DIRECTION]):
        raise ValueError(f"gdjax.{maker}: growth is {growth!r}; there are {', '.join(known)}")


def law_of(growth: Any, arguments: Any, before: Law, role: str) -> Law | str | None:
    """What a rule says: a law, "parameter", "same" for all other words, or None where that is unknown.

    Args:
      growth: that, the name of a law, or a function `(arguments of the rule, law of what comes in, role) -> that`.
    """
    law: Any = growth(arguments, before, role) if callable(growth) else growth
    return LAWS[law] if law in LAWS else SAME if law in (UNCHANGED, DECAY, DIRECTION) else law
