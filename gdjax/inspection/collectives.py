"""The exchanges between devices in a compiled program: each once, with its bytes."""

from typing import Any

from gdjax.inspection.table import Table
from gdjax.xla import exchanges
from gdjax.xla.exchanges import Collective

LABEL = "gdjax.collectives"


def collectives(compiled: Any) -> Table:
    """A table of the collective operations of a compiled program, one row for each operation.

        print(gdjax.collectives(jax.jit(step).lower(params, state, batch).compile()))

    An operation that starts in one line and is done in another counts once, and so does one that runs beside other work
    and stands in each fusion of that. A TPU's reduce-scatter, an all-reduce in the body of a fusion, is one here too.
    Operations in the body of a loop are marked. A branch that is not taken counts as well.

    With n devices and b bytes of the whole array each device sends 2 b (n - 1) / n in an all-reduce, b (n - 1) / n in
    an all-gather, a reduce-scatter or an all-to-all, and b in a permutation.

    Args:
      compiled: of `jax.jit(f).lower(...).compile()`, or its text.

    Raises:
      TypeError: it has no text, as what is lowered only.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> compiled = jax.jit(jnp.sum).lower(jnp.ones(8)).compile()
      >>> len(gdjax.collectives(compiled))  # of one device
      0
    """
    text = compiled if isinstance(compiled, str) else getattr(compiled, "as_text", lambda: None)()
    if text is None or not (isinstance(compiled, str) or hasattr(compiled, "memory_analysis")):
        raise TypeError(f"{LABEL}: takes jax.jit(f).lower(...).compile(), or its text, got {type(compiled).__name__}")
    return Table(exchanges.of_text(text), Collective._fields)
