"""Every schedule of gdjax in one figure, a panel each.

python examples/plot_schedules.py --steps 1000
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import gdjax as gd
from gdjax import Schedule

PEAK, END = 1.0, 0.1
STYLES = ({"color": "#1b6ca8", "ls": "-"}, {"color": "#d95f02", "ls": "--"})


def panels(steps: int) -> dict[str, dict[str, Schedule]]:
    """The panels of a run of `steps` steps: {factory: {what is particular about the curve: schedule}}."""
    tenth = steps // 10
    long, short = 8 * tenth, 5 * tenth
    scales = {2 * tenth: 0.3, 5 * tenth: 2.0, 8 * tenth: 0.2}
    stages = [
        gd.linear_schedule(0.0, PEAK, tenth),
        gd.constant_schedule(PEAK),
        gd.linear_schedule(PEAK, 0.0, 3 * tenth),
    ]
    return {
        "constant_schedule": {"value=1": gd.constant_schedule(PEAK)},
        "linear_schedule": {
            f"transition_steps={long}": gd.linear_schedule(PEAK, END, long),
            f"transition_begin={3 * tenth}": gd.linear_schedule(PEAK, END, short, 3 * tenth),
        },
        "polynomial_schedule": {
            "power=2": gd.polynomial_schedule(PEAK, END, 2, long),
            "power=0.5": gd.polynomial_schedule(PEAK, END, 0.5, long),
        },
        "exponential_decay": {
            "decay_rate=0.6, end_value=0.1": gd.exponential_decay(PEAK, tenth, 0.6, end_value=END),
            "staircase=True": gd.exponential_decay(PEAK, tenth, 0.6, staircase=True),
        },
        "cosine_decay_schedule": {
            "alpha=0.1": gd.cosine_decay_schedule(PEAK, long, alpha=END),
            "exponent=2": gd.cosine_decay_schedule(PEAK, long, exponent=2.0),
        },
        "warmup_constant_schedule": {f"warmup_steps={2 * tenth}": gd.warmup_constant_schedule(0.0, PEAK, 2 * tenth)},
        "warmup_cosine_decay_schedule": {
            f"warmup_steps={tenth}, end_value=0.1": gd.warmup_cosine_decay_schedule(0.0, PEAK, tenth, long, END),
            f"warmup_steps={4 * tenth}": gd.warmup_cosine_decay_schedule(0.0, PEAK, 4 * tenth, long),
        },
        "warmup_exponential_decay_schedule": {
            "decay_rate=0.6": gd.warmup_exponential_decay_schedule(0.0, PEAK, 2 * tenth, tenth, 0.6),
            "staircase=True": gd.warmup_exponential_decay_schedule(0.0, PEAK, 2 * tenth, tenth, 0.6, staircase=True),
        },
        "piecewise_constant_schedule": {"scales 0.3, 2, 0.2": gd.piecewise_constant_schedule(PEAK, scales)},
        "piecewise_interpolate_schedule": {
            "'linear', the same scales": gd.piecewise_interpolate_schedule("linear", PEAK, scales),
            "'cosine'": gd.piecewise_interpolate_schedule("cosine", PEAK, scales),
        },
        "join_schedules": {"linear, constant, linear": gd.join_schedules(stages, [tenth, 7 * tenth])},
    }


def draw(steps: int) -> Figure:
    t = np.unique(np.linspace(0, steps, 2001, dtype=np.int32))
    figure, shown = Figure(figsize=(15, 9), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08)), panels(steps)
    axes = figure.subplots(3, 4, sharex=True, sharey=True)
    for ax, (factory, curves) in zip(axes.flat, shown.items(), strict=False):
        for (label, schedule), style in zip(curves.items(), STYLES, strict=False):
            ax.plot(t, schedule(t), label=label, lw=1.8, **style)
        ax.set_title(factory, fontsize=11, family="monospace", loc="left")
        ax.legend(fontsize=9, frameon=False, loc="upper right", handlelength=2.2)
        ax.grid(color="0.9", lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlim=(0, steps), ylim=(-0.03, 1.4), xticks=np.linspace(0, steps, 5), yticks=np.linspace(0, 1, 5))
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax in axes.flat[len(shown) - 4 : len(shown)]:  # the lowest panel of each column
        ax.tick_params(labelbottom=True)
    figure.supxlabel("step")
    figure.supylabel("value")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Plot every schedule of gdjax.")
    parser.add_argument("--out", type=Path, default=Path("out/schedules"), help="folder for the figure")
    parser.add_argument("--tiny", action="store_true", help="a run of 100 steps")
    parser.add_argument("--steps", type=int, default=1000, help="length of the run, at least 10")
    args = parser.parse_args()
    if args.steps < 10:
        parser.error(f"--steps must be at least 10, got {args.steps}")
    args.out.mkdir(parents=True, exist_ok=True)
    draw(100 if args.tiny else args.steps).savefig(args.out / "schedules.png", dpi=110)
    print(f"wrote {args.out / 'schedules.png'}")


if __name__ == "__main__":
    main()
