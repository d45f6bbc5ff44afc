"""The loss of a run in several processes, beside that of one process that nothing interrupted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from processes.losses import Row


def draw(path: Path, whole: Sequence[Row], lives: Sequence[Sequence[Row]]) -> None:
    """Writes a PNG: the losses above, below how far they are from those of one process.

    Args:
      path: the file to write.
      whole: the losses of one process that nothing interrupted.
      lives: those of the other runs, in their order; all but the last were killed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from _style import COLOURS, plain, save

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 2))
    wanted = {row.step: row.loss for row in whole}
    top.plot(list(wanted), list(wanted.values()), color="0.8", linewidth=5, label="one process, not interrupted")
    for i, life in enumerate(lives):
        steps, values = [row.step for row in life], [row.loss for row in life]
        count, colour = life[0].processes, COLOURS[i % len(COLOURS)]
        top.plot(steps, values, color=colour, linewidth=1.2, label=f"{count} process{'es' if count > 1 else ''}")
        off = np.array([abs(row.loss - wanted[row.step]) for row in life])
        bottom.plot(steps, np.where(off > 0, off, np.nan), ".", color=colour, markersize=4)
        if i + 1 < len(lives):
            top.plot(steps[-1], values[-1], "x", color=colour, markersize=11, markeredgewidth=2.5)
            for axes in (top, bottom):
                axes.axvline(steps[-1], color=colour, linestyle=":", linewidth=1)
    plain(top, "A run whose processes are killed (x), and change their number")
    plain(bottom)
    top.set(ylabel="loss, nats per byte")
    bottom.set(xlabel="step", ylabel="distance from one process", yscale="log", xlim=(0, len(wanted) * 1.01))
    top.legend(frameon=False)
    figure.tight_layout()
    save(figure, path)
    plt.close(figure)
