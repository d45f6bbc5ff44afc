"""Schedules: functions from the step, the number of updates made before this one, to the value of a hyperparameter.

A step is a Python or NumPy integer, an array of integers, traced or not, taken element by element, or a float. A
negative step counts as 0, an integer above 2^31 - 1 as 2^31 - 1. The result has the step's shape and is weakly typed:
it takes the dtype of what it meets, as a Python float does, and has 64 bits if x64 is on. An array of floats among the
hyperparameters, or for a step, makes it strongly typed: float32, or float64 if x64 is on and an array has that. However
long the run, it is as accurate as its dtype can be; only a float step may be too coarse.

Hyperparameters may be Python numbers or scalar arrays, traced ones too. Numbers of steps shape the program and are not
traced. They are ints or floats: 1e3 is 1000, 0.1 * 100 is 10, and a boundary of 10.5 lies between two steps, which are
then counted in floats. Factories check what they can see: a wrong kind is a TypeError, a wrong value a ValueError.
"""

from gdjax.combine.hyperparams import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    StatefulSchedule,
    WrappedSchedule,
    inject_hyperparams,
    inject_stateful_hyperparams,
)
from gdjax.core.types import Schedule
from gdjax.schedules import cycles, decay, piecewise, powers, ramp, warmup
from gdjax.schedules.cycles import *
from gdjax.schedules.decay import *
from gdjax.schedules.piecewise import *
from gdjax.schedules.powers import *
from gdjax.schedules.ramp import *
from gdjax.schedules.warmup import *

__all__ = [
    "InjectHyperparamsState", "InjectStatefulHyperparamsState", "Schedule", "StatefulSchedule", "WrappedSchedule",
    "inject_hyperparams", "inject_stateful_hyperparams",
]  # fmt: skip
__all__ += sorted(cycles.__all__ + decay.__all__ + piecewise.__all__ + powers.__all__ + ramp.__all__ + warmup.__all__)
