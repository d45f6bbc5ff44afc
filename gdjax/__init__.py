"""Gradient descent for JAX: optimizers as pure `(init, update)` pairs over pytrees, composed with `chain`."""

from gdjax.base import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    MaskedNode,
    OptState,
    Params,
    ScalarOrSchedule,
    Schedule,
    TransformUpdateFn,
    Updates,
    identity,
    set_to_zero,
    stateless,
    stateless_with_tree_map,
    transform,
)
from gdjax.combine import chain, named_chain
from gdjax.descent import MinimizeResult, NonFiniteError, minimize
from gdjax.gradients import check_gradients, numerical_gradient
from gdjax.inject import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    WrappedSchedule,
    WrappedScheduleState,
    get_hyperparams,
    inject_hyperparams,
)
from gdjax.leafwise import (
    Hyper,
    Moment,
    ScaleByScheduleState,
    ScheduledState,
    first_moment,
    leafwise,
    second_moment,
)
from gdjax.masking import (
    MaskedState,
    PartitionState,
    freeze,
    masked,
    multi_transform,
    partition,
    selective_transform,
)
from gdjax.optimizers.adagrad import ScaleByRssState, adagrad, scale_by_rss
from gdjax.optimizers.adam import ScaleByAdamState, adam, adamw, scale_by_adam
from gdjax.optimizers.lion import ScaleByLionState, lion, scale_by_lion
from gdjax.optimizers.rmsprop import (
    ScaleByRmsState,
    ScaleByRmsWithCountState,
    ScaleByRStdDevState,
    ScaleByRStdDevWithCountState,
    rmsprop,
    scale_by_rms,
    scale_by_stddev,
)
from gdjax.optimizers.sgd import nesterov_point, noisy_sgd, perturbed_gradient_descent, sgd
from gdjax.paths import label_by_path, mask_by_path
from gdjax.piecewise import join_schedules, piecewise_constant_schedule, piecewise_interpolate_schedule
from gdjax.progress import Progress
from gdjax.schedules import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    linear_schedule,
    polynomial_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
)
from gdjax.transforms.clipping import clip, clip_by_global_norm
from gdjax.transforms.decay import WeightDecaySchedule, add_decayed_weights
from gdjax.transforms.momentum import TraceState, trace
from gdjax.transforms.noise import AddNoiseState, EscapeSaddlesState, add_noise, escape_saddles
from gdjax.transforms.scaling import scale, scale_by_learning_rate, scale_by_schedule
from gdjax.tree import global_norm
from gdjax.updates import apply_updates, incremental_update

__version__ = "0.1.0"

__all__ = [
    "AddNoiseState",
    "EmptyState",
    "EscapeSaddlesState",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "Hyper",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "MaskedNode",
    "MaskedState",
    "MinimizeResult",
    "Moment",
    "NonFiniteError",
    "OptState",
    "Params",
    "PartitionState",
    "Progress",
    "ScalarOrSchedule",
    "ScaleByAdamState",
    "ScaleByLionState",
    "ScaleByRStdDevState",
    "ScaleByRStdDevWithCountState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByRssState",
    "ScaleByScheduleState",
    "Schedule",
    "ScheduledState",
    "TraceState",
    "TransformUpdateFn",
    "Updates",
    "WeightDecaySchedule",
    "WrappedSchedule",
    "WrappedScheduleState",
    "adagrad",
    "adam",
    "adamw",
    "add_decayed_weights",
    "add_noise",
    "apply_updates",
    "chain",
    "check_gradients",
    "clip",
    "clip_by_global_norm",
    "constant_schedule",
    "cosine_decay_schedule",
    "escape_saddles",
    "exponential_decay",
    "first_moment",
    "freeze",
    "get_hyperparams",
    "global_norm",
    "identity",
    "incremental_update",
    "inject_hyperparams",
    "join_schedules",
    "label_by_path",
    "leafwise",
    "linear_schedule",
    "lion",
    "mask_by_path",
    "masked",
    "minimize",
    "multi_transform",
    "named_chain",
    "nesterov_point",
    "noisy_sgd",
    "numerical_gradient",
    "partition",
    "perturbed_gradient_descent",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "rmsprop",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_stddev",
    "second_moment",
    "selective_transform",
    "set_to_zero",
    "sgd",
    "stateless",
    "stateless_with_tree_map",
    "trace",
    "transform",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]
