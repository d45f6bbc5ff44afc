"""The course of a run as one picture: loss above, learning rate below."""

from pathlib import Path

import numpy as np

BATCH, TRAINING, HELD_OUT, BIGRAM, RATE = "#a6c8e4", "#08519c", "#d94801", "#525252", "#238b45"


def draw(path: Path, history: dict[str, np.ndarray], rates: np.ndarray, bigram: float, title: str) -> None:
    """Writes a PNG.

    Args:
      path: the file to write.
      history: `loss` and `held_out`, (steps,) nats per byte, NaN where a step has none.
      rates: (steps,) learning rates.
      bigram: held-out loss of the bigram table, nats per byte.
      title: the headline.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    step = np.arange(1, len(rates) + 1)
    trained, tested = np.isfinite(history["loss"]), np.isfinite(history["held_out"])
    loss, held_out = history["loss"][trained], history["held_out"][tested]
    window = min(max(1, len(rates) // 40), len(loss))
    smooth = np.convolve(loss, np.full(window, 1 / window), "valid")
    centre = step[trained][(window - 1) // 2 :][: len(smooth)]

    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1), constrained_layout=True
    )
    top.plot(step[trained], loss, color=BATCH, linewidth=0.6, label="training, each batch")
    top.plot(centre, smooth, color=TRAINING, label=f"training, mean over {window} steps")
    top.plot(step[tested], held_out, "o-", color=HELD_OUT, markersize=4, label=f"held out: {_last(held_out)}")
    top.axhline(bigram, color=BIGRAM, linestyle="--", label=f"bigram table, held out: {bigram:.3f}")
    top.set(ylabel="loss, nats per byte", title=title, xlim=(0, len(rates) * 1.01))
    top.legend(frameon=False)
    bottom.plot(step, rates, color=RATE)
    bottom.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _last(values: np.ndarray) -> str:
    return f"{values[-1]:.3f} at the end" if len(values) else "not yet"
