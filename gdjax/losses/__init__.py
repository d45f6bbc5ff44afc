"""Losses, the names of `optax.losses`: functions of predictions and targets that are differentiated by `jax.grad`.

Unless one says otherwise, a loss returns a number for each prediction or example, not their mean; computes in float32
or wider and returns the common dtype of its inputs; and refuses two shapes that broadcast to one larger than both.
"""

from gdjax.losses import classification, ctc, divergences, ranking, regression, segmentation
from gdjax.losses.classification import *
from gdjax.losses.ctc import *
from gdjax.losses.divergences import *
from gdjax.losses.ranking import *
from gdjax.losses.regression import *
from gdjax.losses.segmentation import *

__all__ = sorted(
    classification.__all__ + ctc.__all__ + divergences.__all__ + ranking.__all__ + regression.__all__
    + segmentation.__all__
)  # fmt: skip
