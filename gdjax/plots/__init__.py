"""Pictures of schedules, runs, norms, sweeps, states, plans, paths, with matplotlib: `pip install gdjax[plot]`."""

from gdjax.plots.bars import plot_plan, plot_state_bytes, plot_sweep
from gdjax.plots.curves import plot_losses, plot_schedule
from gdjax.plots.landscape import plot_trajectory
from gdjax.plots.norms import plot_metrics
from gdjax.plots.transfer import plot_factors, plot_movements, plot_transfer

__all__ = [
    "plot_factors", "plot_losses", "plot_metrics", "plot_movements", "plot_plan", "plot_schedule", "plot_state_bytes",
    "plot_sweep", "plot_trajectory", "plot_transfer",
]  # fmt: skip
