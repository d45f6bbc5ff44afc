"""The parts that are not optimizers: a list of Optax's `optax.transforms`, by those names."""

from gdjax.combine.chain import *
from gdjax.combine.groups import PartitionState, partition, selective_transform
from gdjax.combine.masking import MaskedState, freeze, masked
from gdjax.core.base import MaskedNode, NonNegativeParamsState
from gdjax.transforms.accumulation import MultiSteps, MultiStepsState
from gdjax.transforms.averaging import EmaState, ema
from gdjax.transforms.clipping import (
    adaptive_grad_clip,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    unitwise_clip,
    unitwise_norm,
)
from gdjax.transforms.constraints import *
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.guards import *
from gdjax.transforms.layouts import flatten
from gdjax.transforms.momentum import TraceState, trace
from gdjax.transforms.monitoring import *
from gdjax.transforms.noise import AddNoiseState, add_noise, per_example_global_norm_clip, per_example_layer_norm_clip

__all__ = [
    "AddNoiseState", "ApplyIfFiniteState", "ConditionFn", "ConditionallyMaskState", "ConditionallyTransformState",
    "EmaState", "MaskedNode", "MaskedState", "MonitorState", "MultiSteps", "MultiStepsState", "NonNegativeParamsState",
    "PartitionState", "ShouldSkipUpdateFunction", "SnapshotState", "TraceState", "ZeroNansState", "adaptive_grad_clip",
    "add_decayed_weights", "add_noise", "apply_if_finite", "chain", "clip", "clip_by_block_rms", "clip_by_global_norm",
    "conditionally_mask", "conditionally_transform", "ema", "flatten", "freeze", "keep_params_nonnegative", "masked",
    "measure_with_ema", "monitor", "named_chain", "partition", "per_example_global_norm_clip",
    "per_example_layer_norm_clip", "selective_transform", "skip_large_updates", "skip_not_finite", "snapshot", "trace",
    "unitwise_clip", "unitwise_norm", "zero_nans",
]  # fmt: skip
