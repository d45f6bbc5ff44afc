"""Every schedule of gdjax in one figure, a panel each.

python examples/plot_schedules.py --steps 1000
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import gdjax as gd
from gdjax.schedules import Schedule

PEAK, END = 1.0, 0.1
COLUMNS = 4
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
    cycles = [
        {"init_value": 0.0, "peak_value": PEAK, "warmup_steps": tenth // 2, "decay_steps": 2 * tenth, "end_value": END},
        {"init_value": END, "peak_value": PEAK, "warmup_steps": tenth // 2, "decay_steps": 3 * tenth, "end_value": END},
        {"init_value": END, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 4 * tenth},
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
        "warmup_linear_decay_schedule": {
            f"warmup_steps={tenth}, to 0": gd.warmup_linear_decay_schedule(0.0, PEAK, tenth, steps),
            f"warmup_steps={4 * tenth}, end_value=0.1": gd.warmup_linear_decay_schedule(
                0.0, PEAK, 4 * tenth, long, END
            ),
        },
        "warmup_stable_decay_schedule": {
            "decay_shape='1-sqrt'": gd.warmup_stable_decay_schedule(0.0, PEAK, tenth, 4 * tenth, 3 * tenth),
            "'linear', longer stable phase": gd.warmup_stable_decay_schedule(
                0.0, PEAK, tenth, 6 * tenth, 3 * tenth, decay_shape="linear"
            ),
        },
        "inverse_sqrt_schedule": {
            f"warmup_steps={tenth}": gd.inverse_sqrt_schedule(0.0, PEAK, tenth),
            "the same, timescale 5 times": gd.inverse_sqrt_schedule(0.0, PEAK, tenth, 5 * tenth),
        },
        "power_schedule": {
            f"exponent=-0.5, warmup_steps={tenth}": gd.power_schedule(PEAK, (3 * tenth) ** 0.5, -0.5, tenth),
            "exponent=-1, no warm-up": gd.power_schedule(PEAK, tenth, -1.0),
        },
        "powercool_schedule": {
            f"stable_steps={2 * tenth}": gd.powercool_schedule(PEAK, 2 * tenth, steps - 2 * tenth),
            "power=2, end_value=0.1": gd.powercool_schedule(PEAK, 2 * tenth, 6 * tenth, END, 2.0),
        },
        "half_life_schedule": {
            "half-life from 0 to 5 steps": gd.half_life_schedule(gd.linear_schedule(0.0, 5.0, short)),
            "5 steps, a batch that doubles": gd.half_life_schedule(
                5.0, gd.piecewise_constant_schedule(1.0, {3 * tenth: 2.0, 6 * tenth: 2.0})
            ),
        },
        "rex_schedule": {
            f"transition_steps={long}": gd.rex_schedule(PEAK, 0.0, long),
            f"transition_begin={3 * tenth}": gd.rex_schedule(PEAK, END, short, 3 * tenth),
        },
        "cyclic_schedule": {
            "mode='triangular2'": gd.cyclic_schedule(END, PEAK, tenth, mode="triangular2"),
            "'exp_range', slower down": gd.cyclic_schedule(
                END, PEAK, tenth, 2 * tenth, "exp_range", gamma=0.5 ** (1 / (3 * tenth))
            ),
        },
        "sgdr_schedule": {"three cycles, two warm-ups": gd.sgdr_schedule(cycles)},
        "linear_onecycle_schedule": {
            "pct_start=0.3, pct_final=0.85": gd.linear_onecycle_schedule(steps, PEAK),
            "0.5, 0.9, div_factor=4": gd.linear_onecycle_schedule(steps, PEAK, 0.5, 0.9, 4.0),
        },
        "cosine_onecycle_schedule": {
            "pct_start=0.3": gd.cosine_onecycle_schedule(steps, PEAK),
            "pct_start=0.5, div_factor=4": gd.cosine_onecycle_schedule(steps, PEAK, 0.5, 4.0),
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
    figure, shown = Figure(figsize=(16, 14), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08)), panels(steps)
    axes = figure.subplots(-(-len(shown) // COLUMNS), COLUMNS, sharex=True, sharey=True)
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
    for ax in axes.flat[len(shown) - COLUMNS : len(shown)]:  # the lowest panel of each column
        ax.tick_params(labelbottom=True)
    figure.supxlabel("step (updates made so far)")
    figure.supylabel("value (of a learning rate whose peak is 1)")
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
    draw(100 if args.tiny else args.steps).savefig(args.out / "schedules.png", dpi=90)
    print(f"wrote {args.out / 'schedules.png'}")


if __name__ == "__main__":
    main()
