"""Pictures of schedules, runs, sweeps, states and trajectories, with matplotlib: `pip install gdjax[plot]`."""

from gdjax.plots.grid import plot_sweep

__all__ = ["plot_sweep"]
