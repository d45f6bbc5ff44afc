"""What the optimizers with Kronecker factors share."""

from collections.abc import Sequence
from typing import Any

from gdjax.core import base
from gdjax.lift.leafwise import Hyper
from gdjax.matrices.factored import Layout
from gdjax.matrices.kronecker import REFRESHES, adjoint, averaged, gram
from gdjax.numerics import Array


def with_factors(G: Array, s: Any, beta: Hyper) -> Any:  # noqa: N803
    """The state with new averages of G G^T and G^T G."""
    left, right = averaged(s.L, lambda: gram(G), beta), averaged(s.R, lambda: gram(adjoint(G)), beta)
    return s._replace(L=left, R=right)


def labelled(
    rule: Any, label: str, *arguments: Any,
    block_size: int | None, sides: str, max_precond_dim: int | None, refresh: str, methods: Sequence[str] = REFRESHES,
    **others: Any,
) -> Any:  # fmt: skip
    """The rule with these arguments, under the name `label`.

    Raises:
      ValueError: an unknown `sides` or `refresh`; a size below 1.
      TypeError: a size that is no int.
    """
    if refresh not in methods:
        raise ValueError(f"{label}: refresh must be one of {', '.join(methods)}, got {refresh!r}")
    layout = Layout(block_size, sides, max_precond_dim).checked(label)
    return base.part_of(rule(*arguments, refresh=refresh, **layout._asdict(), **others)).labelled(label)
