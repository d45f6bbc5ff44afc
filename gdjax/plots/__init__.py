"""Pictures of schedules, runs, norms, sweeps, states, plans, paths, with matplotlib: `pip install gdjax[plot]`."""

from gdjax.plots import bars, curves, landscape, norms, transfer
from gdjax.plots.bars import *
from gdjax.plots.curves import *
from gdjax.plots.landscape import *
from gdjax.plots.norms import *
from gdjax.plots.transfer import *

__all__ = sorted(bars.__all__ + curves.__all__ + landscape.__all__ + norms.__all__ + transfer.__all__)
