"""Bars: the memory of optimizer states."""

from collections.abc import Mapping
from typing import Any

import jax

from gdjax.core.types import ArrayTree, Params
from gdjax.plots import look

UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "bytes": 1}


def plot_state_bytes(txs: Mapping[str, Any], params: Params, *, ax: Any = None) -> Any:
    """The memory of the state of each optimizer for these parameters, as bars. Nothing is allocated.

    Args:
      txs: optimizers by name.
      params: a pytree of arrays, or of `jax.ShapeDtypeStruct`.
      ax: matplotlib axes to draw on; None makes a figure.

    Returns:
      The axes.

    Raises:
      ImportError: there is no matplotlib.
    """
    ax = look.panels("plot_state_bytes", ax, size=(7.0, 1.4 + 0.42 * len(txs)))
    sizes = {name: _bytes(jax.eval_shape(tx.init, params)) for name, tx in txs.items()}
    of_params = _bytes(params)
    most = max(of_params, *sizes.values())
    unit = next(unit for unit, n in UNITS.items() if most >= n or n == 1)
    bars = ax.barh(list(sizes), [n / UNITS[unit] for n in sizes.values()], color=look.COLOURS[0], height=0.65)
    ax.bar_label(bars, [f"{n / max(of_params, 1):.2g} x" for n in sizes.values()], padding=4, fontsize=10)
    ax.axvline(of_params / UNITS[unit], color="#222222", linestyle="--", linewidth=1.2, label="the parameters")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    what = f"state, {unit}; beside the bars as a multiple of the parameters"
    ax.set(xlabel=what, xlim=(0, 1.12 * most / UNITS[unit]))
    ax.legend(frameon=False, fontsize=10, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    return ax


def _bytes(tree: ArrayTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
