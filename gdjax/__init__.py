"""Gradient descent for JAX: optimizers as pure `(init, update)` pairs over pytrees, composed with `chain`."""

from gdjax import (
    assignment,
    contrib,
    experimental,
    losses,
    microbatching,
    perturbations,
    plots,
    projections,
    recipes,
    schedules,
    second_order,
    transforms,
    tree,
    tree_utils,
)
from gdjax.codes.rounding import bfloat16_with_error
from gdjax.combine.batch_and_length import for_batch, for_length
from gdjax.combine.chain import chain, named_chain
from gdjax.combine.conditional import eval_params
from gdjax.combine.groups import MultiTransformState, PartitionState, multi_transform, partition, selective_transform
from gdjax.combine.hyperparams import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    StatefulSchedule,
    WrappedSchedule,
    WrappedScheduleState,
    get_hyperparams,
    inject_hyperparams,
    inject_stateful_hyperparams,
)
from gdjax.combine.layers import layerwise_decay
from gdjax.combine.masking import MaskedState, MaskOrFn, freeze, masked
from gdjax.combine.quantized import QuantizedState, quantize_state
from gdjax.combine.sharding import state_sharding
from gdjax.combine.transfer import transfer, transfer_init
from gdjax.core.base import (
    AdaptiveGradClipState,
    AddDecayedWeightsState,
    ClipByGlobalNormState,
    ClipState,
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    MaskedNode,
    NonNegativeParamsState,
    ScaleByTrustRatioState,
    ScaleState,
    TransformUpdateExtraArgsFn,
    identity,
    init_empty_state,
    set_to_zero,
    transform,
)
from gdjax.core.parts import from_optax, state_from_optax, state_to_optax, to_optax
from gdjax.core.paths import label_by_path, mask_by_path
from gdjax.core.types import (
    ArrayTree,
    Codec,
    OptState,
    Params,
    PerLeaf,
    ScalarOrSchedule,
    Schedule,
    TransformInitFn,
    TransformUpdateFn,
    Updates,
    per_leaf,
)
from gdjax.inspection.exchanged import Collective, collectives
from gdjax.inspection.explain import explain
from gdjax.inspection.metrics import MetricsState, metrics, with_metrics
from gdjax.inspection.migrate import MigrationReport, migrate
from gdjax.inspection.numerics import check_numerics
from gdjax.inspection.restored import check_restored
from gdjax.inspection.roles import roles, transfer_table
from gdjax.inspection.states import reset, state_from_dict, state_to_dict
from gdjax.inspection.tabulate import Table, state_bytes, tabulate
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.lift.meetings import largest, total, total_norm
from gdjax.lift.slots import (
    Factor,
    Integer,
    Key,
    Moment,
    New,
    ScaleByScheduleState,
    ScheduledState,
    Shared,
    Stored,
    first_moment,
    initial_parameter,
    second_moment,
)
from gdjax.lift.wrapper import WrapperState, wrapper
from gdjax.linalg.bases import inverse_root, refreshed_basis, turned_basis
from gdjax.linalg.matrices import Matrix
from gdjax.linalg.polar import orthogonalize
from gdjax.linalg.roots import matrix_inverse_pth_root, nnls, power_iteration
from gdjax.linalg.stacks import in_stacks
from gdjax.linesearch.backtracking import (
    BacktrackingLinesearchInfo,
    ScaleByBacktrackingLinesearchState,
    scale_by_backtracking_linesearch,
)
from gdjax.linesearch.line import value_and_grad_from_state
from gdjax.linesearch.zoom import ScaleByZoomLinesearchState, ZoomLinesearchInfo, scale_by_zoom_linesearch
from gdjax.losses import (
    convex_kl_divergence,
    cosine_distance,
    cosine_similarity,
    ctc_loss,
    ctc_loss_with_forward_probs,
    generalized_kl_divergence,
    hinge_loss,
    huber_loss,
    kl_divergence,
    l2_loss,
    log_cosh,
    ntxent,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    squared_error,
)
from gdjax.matrices.in_turns import in_turns
from gdjax.matrices.matrixwise import matrixwise
from gdjax.matrices.plan import label_by_role, matrices_by_role
from gdjax.matrices.slots import Along, Basis, Block, Side
from gdjax.matrices.together import together
from gdjax.microbatching import microbatch
from gdjax.numerics import bounded, safe_increment, safe_int32_increment
from gdjax.numerics.norms import safe_norm, safe_root_mean_squares
from gdjax.optimizers.acprop import acprop, scale_by_acprop
from gdjax.optimizers.adabelief import ScaleByBeliefState, adabelief, scale_by_belief
from gdjax.optimizers.adadelta import ScaleByAdaDeltaState, adadelta, scale_by_adadelta
from gdjax.optimizers.adafactor import FactoredState, adafactor, scale_by_factored_rms
from gdjax.optimizers.adagrad import ScaleByRssState, adagrad, scale_by_rss
from gdjax.optimizers.adam import ScaleByAdamState, adam, adamw, scale_by_adam
from gdjax.optimizers.adam_atan2 import adam_atan2, scale_by_adam_atan2
from gdjax.optimizers.adam_mini import ScaleByAdamMiniState, adam_mini, scale_by_adam_mini
from gdjax.optimizers.adamax import adamax, adamaxw, scale_by_adamax
from gdjax.optimizers.adamc import adamc
from gdjax.optimizers.adan import ScaleByAdanState, adan, scale_by_adan
from gdjax.optimizers.adana import ScaleByAdanaState, adana, scale_by_adana
from gdjax.optimizers.ademamix import (
    ScaleByAdemamixState,
    ScaleBySimplifiedAdEMAMixState,
    ademamix,
    scale_by_ademamix,
    scale_by_simplified_ademamix,
    simplified_ademamix,
)
from gdjax.optimizers.adopt import adopt, scale_by_adopt
from gdjax.optimizers.amsgrad import ScaleByAmsgradState, amsgrad, scale_by_amsgrad
from gdjax.optimizers.apollo import ScaleByApolloState, apollo, scale_by_apollo
from gdjax.optimizers.bfgs import ScaleByBFGSState, bfgs, scale_by_bfgs, scale_by_ssbroyden, ssbroyden
from gdjax.optimizers.came import ScaleByCameState, came, scale_by_came
from gdjax.optimizers.cocob import COCOBState, cocob, scale_by_cocob
from gdjax.optimizers.dadaptation import DAdaptAdamWState, ProdigyState, dadapt_adamw, prodigy
from gdjax.optimizers.dion import ScaleByDionState, dion, scale_by_dion
from gdjax.optimizers.dion2 import ScaleByDion2State, dion2, scale_by_dion2
from gdjax.optimizers.dog import DoGState, DoWGState, dog, dowg, scale_by_dog, scale_by_dowg
from gdjax.optimizers.dpsgd import dpsgd
from gdjax.optimizers.fromage import fromage
from gdjax.optimizers.galore import GaLoreDimensionNumbers, GaLoreState, galore, scale_by_galore
from gdjax.optimizers.gauss_newton import GaussNewtonState, gauss_newton
from gdjax.optimizers.gpa import GPAState, gpa
from gdjax.optimizers.kl_shampoo import KLShampooState, kl_shampoo, scale_by_kl_shampoo
from gdjax.optimizers.kl_soap import KLSoapState, kl_soap, scale_by_kl_soap
from gdjax.optimizers.lamb import lamb
from gdjax.optimizers.langevin import PSGLDState, SGHMCState, SGLDState, psgld, sghmc, sgld
from gdjax.optimizers.laprop import ScaleByLapropState, laprop, scale_by_laprop
from gdjax.optimizers.lars import lars
from gdjax.optimizers.lbfgs import ScaleByLBFGSState, lbfgs, scale_by_lbfgs
from gdjax.optimizers.lion import ScaleByLionState, lion, scale_by_lion
from gdjax.optimizers.madgrad import MadgradState, madgrad, scale_by_madgrad
from gdjax.optimizers.mechanic import MechanicState, mechanize
from gdjax.optimizers.momo import MomoAdamState, MomoState, momo, momo_adam
from gdjax.optimizers.muon import MuonDimensionNumbers, MuonState, muon, scale_by_muon
from gdjax.optimizers.muown import MuownState, muown
from gdjax.optimizers.nadam import ScaleByNadamState, nadam, nadamw
from gdjax.optimizers.normuon import ScaleByNorMuonState, normuon, scale_by_normuon
from gdjax.optimizers.novograd import ScaleByNovogradState, novograd, scale_by_novograd
from gdjax.optimizers.optimistic import (
    ScaleByOptimisticGradientState,
    optimistic_adam,
    optimistic_adam_v2,
    optimistic_gradient_descent,
    scale_by_optimistic_gradient,
)
from gdjax.optimizers.polyak import polyak_sgd, scale_by_polyak
from gdjax.optimizers.psgd import PSGDKronState, psgd_kron, scale_by_psgd_kron
from gdjax.optimizers.radam import radam, scale_by_radam
from gdjax.optimizers.rmsprop import (
    ScaleByRmsState,
    ScaleByRmsWithCountState,
    ScaleByRStdDevState,
    ScaleByRStdDevWithCountState,
    rmsprop,
    scale_by_rms,
    scale_by_stddev,
)
from gdjax.optimizers.rprop import ScaleByRpropState, rprop, scale_by_rprop
from gdjax.optimizers.sam import SAMState, sam
from gdjax.optimizers.schedule_free import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)
from gdjax.optimizers.schedule_free_plus import ScheduleFreePlusState, schedule_free_plus
from gdjax.optimizers.scion import ScaleByScionState, scale_by_scion, scion
from gdjax.optimizers.sgd import nesterov_point, noisy_sgd, perturbed_gradient_descent, sgd
from gdjax.optimizers.shampoo import ShampooState, scale_by_shampoo, shampoo
from gdjax.optimizers.sign_sgd import scale_by_sign, sign_sgd, signum
from gdjax.optimizers.sm3 import ScaleBySM3State, scale_by_sm3, sm3
from gdjax.optimizers.soap import SoapState, scale_by_soap, soap
from gdjax.optimizers.soap_muon import SoapMuonState, scale_by_soap_muon, soap_muon
from gdjax.optimizers.sophia import SophiaState, scale_by_sophia, sophia
from gdjax.optimizers.stable_adamw import scale_by_stable_adamw, stable_adamw
from gdjax.optimizers.transformer import transformer_optimizer
from gdjax.optimizers.yogi import scale_by_yogi, yogi
from gdjax.perturbations import multi_normal
from gdjax.plots.curves import plot_schedule
from gdjax.schedules import (
    BatchRamp,
    batch_ramp,
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    cyclic_schedule,
    exponential_decay,
    half_life_schedule,
    inverse_sqrt_schedule,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    log_time_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    polynomial_schedule,
    power_schedule,
    powercool_schedule,
    rex_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_linear_decay_schedule,
    warmup_stable_decay_schedule,
)
from gdjax.schedules.decay import precond_update_prob_schedule
from gdjax.training.diloco import DilocoState, DilocoStep, diloco_step
from gdjax.training.gradients import check_gradients, numerical_gradient
from gdjax.training.loop import minimize
from gdjax.training.movement import TransferCheck, check_transfer
from gdjax.training.plan import Plan, plan
from gdjax.training.progress import Progress
from gdjax.training.release import gradient_release
from gdjax.training.results import MinimizeResult, NonFiniteError
from gdjax.training.sharded_step import ShardedStep, sharded_step
from gdjax.training.sizes import SweepBySize
from gdjax.training.sweep import SweepResult, sweep
from gdjax.transforms.accumulation import (
    AccumulateState,
    ApplyEvery,
    MultiSteps,
    MultiStepsState,
    accumulate,
    apply_every,
)
from gdjax.transforms.averaging import (
    EmaState,
    LookaheadParams,
    LookaheadState,
    ParamsEmaState,
    SnooState,
    SWAState,
    TailEmaState,
    ema,
    lookahead,
    params_ema,
    snoo,
    swa,
    tail_ema,
)
from gdjax.transforms.clipping import (
    NormalizeState,
    adaptive_grad_clip,
    centralize,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    normalize,
    unitwise_clip,
    unitwise_norm,
)
from gdjax.transforms.constraints import ZeroNansState, keep_params_nonnegative, zero_nans
from gdjax.transforms.curvature import HutchinsonState, hutchinson_estimator_diag_hessian
from gdjax.transforms.decay import WeightDecaySchedule, add_decayed_weights, with_weight_decay
from gdjax.transforms.guards import (
    ApplyIfFiniteState,
    ConditionallyMaskState,
    ConditionallyTransformState,
    ConditionFn,
    ShouldSkipUpdateFunction,
    apply_if_finite,
    conditionally_mask,
    conditionally_transform,
    skip_large_updates,
    skip_not_finite,
)
from gdjax.transforms.hyperball import HyperballState, hyperball
from gdjax.transforms.layouts import (
    SplitRealAndImaginaryState,
    flatten,
    offload_state,
    split_real_and_imaginary,
    with_extra_args_support,
)
from gdjax.transforms.loss_scale import DynamicLossScaleState, dynamic_loss_scale
from gdjax.transforms.master_weights import (
    KahanSummationState,
    MasterRemaindersState,
    MasterWeightsState,
    StochasticRoundingState,
    with_kahan_summation,
    with_master_weights,
    with_stochastic_rounding,
)
from gdjax.transforms.momentum import (
    CautiousState,
    EmaNesterovState,
    GrokfastState,
    MarsState,
    TraceState,
    cautious,
    ema_nesterov,
    grokfast,
    mars,
    trace,
)
from gdjax.transforms.monitoring import MonitorState, SnapshotState, measure_with_ema, monitor, snapshot
from gdjax.transforms.noise import (
    AddNoiseState,
    DifferentiallyPrivateAggregateState,
    EscapeSaddlesState,
    add_noise,
    differentially_private_aggregate,
    escape_saddles,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
)
from gdjax.transforms.noise_scale import NoiseScaleState
from gdjax.transforms.plateau import (
    ReduceLROnPlateauState,
    ScaleByDistanceOverGradientsState,
    reduce_on_plateau,
    scale_by_distance_over_gradients,
)
from gdjax.transforms.qk_clip import qk_clip
from gdjax.transforms.scaling import (
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
    stateless,
    stateless_with_tree_map,
)
from gdjax.transforms.spectral import SpectralState, spectral
from gdjax.transforms.spikes import SkipSpikesState, ZClipState, skip_spikes, zclip
from gdjax.transforms.trust_ratio import (
    RadialBrakeState,
    UpdateFloorState,
    normalize_by_update_norm,
    radial_brake,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
    update_floor,
)
from gdjax.tree import bias_correction, global_norm, update_infinity_moment, update_moment, update_moment_per_elem_norm
from gdjax.tree import map_params as tree_map_params
from gdjax.tree.arithmetic import scale_gradient
from gdjax.tree.updates import apply_updates, incremental_update, periodic_update

__version__ = "0.3.0"
from gdjax.xla.loops import fuse_cpu_outputs

__all__ = [
    "AccumulateState", "AdaptiveGradClipState", "AddDecayedWeightsState", "AddNoiseState", "Along", "ApplyEvery",
    "ApplyIfFiniteState", "ArrayTree", "BacktrackingLinesearchInfo", "Basis", "BatchRamp", "Block", "COCOBState",
    "CautiousState", "ClipByGlobalNormState", "ClipState", "Codec", "Collective", "ConditionFn",
    "ConditionallyMaskState", "ConditionallyTransformState", "DAdaptAdamWState", "DifferentiallyPrivateAggregateState",
    "DilocoState", "DilocoStep", "DoGState", "DoWGState", "DynamicLossScaleState", "EmaNesterovState", "EmaState",
    "EmptyState", "EscapeSaddlesState", "Factor", "FactoredState", "GPAState", "GaLoreDimensionNumbers", "GaLoreState",
    "GaussNewtonState", "GradientTransformation", "GradientTransformationExtraArgs", "GrokfastState", "HutchinsonState",
    "Hyper", "HyperballState", "InjectHyperparamsState", "InjectStatefulHyperparamsState", "Integer", "KLShampooState",
    "KLSoapState", "KahanSummationState", "Key", "LookaheadParams", "LookaheadState", "MadgradState", "MarsState",
    "MaskOrFn", "MaskedNode", "MaskedState", "MasterRemaindersState", "MasterWeightsState", "Matrix", "MechanicState",
    "MetricsState", "MigrationReport", "MinimizeResult", "Moment", "MomoAdamState", "MomoState", "MonitorState",
    "MultiSteps", "MultiStepsState", "MultiTransformState", "MuonDimensionNumbers", "MuonState", "MuownState", "New",
    "NoiseScaleState", "NonFiniteError", "NonNegativeParamsState", "NormalizeState", "OptState", "PSGDKronState",
    "PSGLDState", "Params", "ParamsEmaState", "PartitionState", "PerLeaf", "Plan", "ProdigyState", "Progress",
    "QuantizedState", "RadialBrakeState", "ReduceLROnPlateauState", "SAMState", "SGHMCState", "SGLDState",
    "SWAState", "ScalarOrSchedule", "ScaleByAdaDeltaState", "ScaleByAdamMiniState", "ScaleByAdamState",
    "ScaleByAdanState", "ScaleByAdanaState", "ScaleByAdemamixState", "ScaleByAmsgradState", "ScaleByApolloState",
    "ScaleByBFGSState", "ScaleByBacktrackingLinesearchState", "ScaleByBeliefState", "ScaleByCameState",
    "ScaleByDion2State", "ScaleByDionState", "ScaleByDistanceOverGradientsState", "ScaleByLBFGSState",
    "ScaleByLapropState", "ScaleByLionState", "ScaleByNadamState", "ScaleByNorMuonState", "ScaleByNovogradState",
    "ScaleByOptimisticGradientState", "ScaleByRStdDevState", "ScaleByRStdDevWithCountState", "ScaleByRmsState",
    "ScaleByRmsWithCountState", "ScaleByRpropState", "ScaleByRssState", "ScaleBySM3State", "ScaleByScheduleState",
    "ScaleByScionState", "ScaleBySimplifiedAdEMAMixState", "ScaleByTrustRatioState", "ScaleByZoomLinesearchState",
    "ScaleState", "Schedule", "ScheduleFreePlusState", "ScheduleFreeState", "ScheduledState", "ShampooState",
    "ShardedStep", "Shared", "ShouldSkipUpdateFunction", "Side", "SkipSpikesState", "SnapshotState", "SnooState",
    "SoapMuonState", "SoapState", "SophiaState", "SpectralState", "SplitRealAndImaginaryState", "StatefulSchedule",
    "StochasticRoundingState", "Stored", "SweepBySize", "SweepResult", "Table", "TailEmaState", "TraceState",
    "TransferCheck", "TransformInitFn", "TransformUpdateExtraArgsFn", "TransformUpdateFn", "UpdateFloorState",
    "Updates", "WeightDecaySchedule", "WrappedSchedule", "WrappedScheduleState", "WrapperState", "ZClipState",
    "ZeroNansState", "ZoomLinesearchInfo", "accumulate", "acprop", "adabelief", "adadelta", "adafactor", "adagrad",
    "adam", "adam_atan2", "adam_mini", "adamax", "adamaxw", "adamc", "adamw", "adan", "adana", "adaptive_grad_clip",
    "add_decayed_weights", "add_noise", "ademamix", "adopt", "amsgrad", "apollo", "apply_every", "apply_if_finite",
    "apply_updates", "assignment", "batch_ramp", "bfgs", "bfloat16_with_error", "bias_correction", "bounded", "came",
    "cautious", "centralize", "chain", "check_gradients", "check_numerics", "check_restored", "check_transfer", "clip",
    "clip_by_block_rms", "clip_by_global_norm", "cocob", "collectives", "conditionally_mask", "conditionally_transform",
    "constant_schedule", "contrib", "convex_kl_divergence", "cosine_decay_schedule", "cosine_distance",
    "cosine_onecycle_schedule", "cosine_similarity", "ctc_loss", "ctc_loss_with_forward_probs", "cyclic_schedule",
    "dadapt_adamw", "differentially_private_aggregate", "diloco_step", "dion", "dion2", "dog", "dowg", "dpsgd",
    "dynamic_loss_scale", "ema", "ema_nesterov", "escape_saddles", "eval_params", "experimental", "explain",
    "exponential_decay", "first_moment", "flatten", "for_batch", "for_length", "freeze", "from_optax", "fromage",
    "fuse_cpu_outputs", "galore", "gauss_newton", "generalized_kl_divergence", "get_hyperparams", "global_norm", "gpa",
    "gradient_release", "grokfast", "half_life_schedule", "hinge_loss", "huber_loss",
    "hutchinson_estimator_diag_hessian", "hyperball", "identity", "in_stacks", "in_turns", "incremental_update",
    "init_empty_state", "initial_parameter", "inject_hyperparams", "inject_stateful_hyperparams", "inverse_root",
    "inverse_sqrt_schedule", "join_schedules", "keep_params_nonnegative", "kl_divergence", "kl_shampoo", "kl_soap",
    "l2_loss", "label_by_path", "label_by_role", "lamb", "laprop", "largest", "lars", "layerwise_decay", "lbfgs",
    "leafwise", "linear_onecycle_schedule", "linear_schedule", "lion", "log_cosh", "log_time_schedule", "lookahead",
    "losses", "madgrad", "mars", "mask_by_path", "masked", "matrices_by_role", "matrix_inverse_pth_root", "matrixwise",
    "measure_with_ema", "mechanize", "metrics", "microbatch", "microbatching", "migrate", "minimize", "momo",
    "momo_adam", "monitor", "multi_normal", "multi_transform", "muon", "muown", "nadam", "nadamw", "named_chain",
    "nesterov_point", "nnls", "noisy_sgd", "normalize", "normalize_by_update_norm", "normuon", "novograd", "ntxent",
    "numerical_gradient", "offload_state", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent",
    "orthogonalize", "params_ema", "partition", "per_example_global_norm_clip", "per_example_layer_norm_clip",
    "per_leaf", "periodic_update", "perturbations", "perturbed_gradient_descent", "piecewise_constant_schedule",
    "piecewise_interpolate_schedule", "plan", "plot_schedule", "plots", "polyak_sgd", "polynomial_schedule",
    "power_iteration", "power_schedule", "powercool_schedule", "precond_update_prob_schedule", "prodigy", "projections",
    "psgd_kron", "psgld", "qk_clip", "quantize_state", "radam", "radial_brake", "recipes", "reduce_on_plateau",
    "refreshed_basis", "reset", "rex_schedule", "rmsprop", "roles", "rprop", "safe_increment", "safe_int32_increment",
    "safe_norm", "safe_root_mean_squares", "safe_softmax_cross_entropy", "sam", "scale", "scale_by_acprop",
    "scale_by_adadelta", "scale_by_adam", "scale_by_adam_atan2", "scale_by_adam_mini", "scale_by_adamax",
    "scale_by_adan", "scale_by_adana", "scale_by_ademamix", "scale_by_adopt", "scale_by_amsgrad", "scale_by_apollo",
    "scale_by_backtracking_linesearch", "scale_by_belief", "scale_by_bfgs", "scale_by_came", "scale_by_cocob",
    "scale_by_dion", "scale_by_dion2", "scale_by_distance_over_gradients", "scale_by_dog", "scale_by_dowg",
    "scale_by_factored_rms", "scale_by_galore", "scale_by_kl_shampoo", "scale_by_kl_soap", "scale_by_laprop",
    "scale_by_lbfgs", "scale_by_learning_rate", "scale_by_lion", "scale_by_madgrad", "scale_by_muon",
    "scale_by_normuon", "scale_by_novograd", "scale_by_optimistic_gradient", "scale_by_param_block_norm",
    "scale_by_param_block_rms", "scale_by_polyak", "scale_by_psgd_kron", "scale_by_radam", "scale_by_rms",
    "scale_by_rprop", "scale_by_rss", "scale_by_schedule", "scale_by_scion", "scale_by_shampoo", "scale_by_sign",
    "scale_by_simplified_ademamix", "scale_by_sm3", "scale_by_soap", "scale_by_soap_muon", "scale_by_sophia",
    "scale_by_ssbroyden", "scale_by_stable_adamw", "scale_by_stddev", "scale_by_trust_ratio", "scale_by_yogi",
    "scale_by_zoom_linesearch", "scale_gradient", "schedule_free", "schedule_free_adamw", "schedule_free_eval_params",
    "schedule_free_plus", "schedule_free_sgd", "schedules", "scion", "second_moment", "second_order",
    "selective_transform", "set_to_zero", "sgd", "sgdr_schedule", "sghmc", "sgld", "shampoo", "sharded_step",
    "sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "sign_sgd", "signum", "simplified_ademamix",
    "skip_large_updates", "skip_not_finite", "skip_spikes", "sm3", "smooth_labels", "snapshot", "snoo", "soap",
    "soap_muon", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels", "sophia", "spectral",
    "split_real_and_imaginary", "squared_error", "ssbroyden", "stable_adamw", "state_bytes", "state_from_dict",
    "state_from_optax", "state_sharding", "state_to_dict", "state_to_optax", "stateless", "stateless_with_tree_map",
    "swa", "sweep", "tabulate", "tail_ema", "to_optax", "together", "total", "total_norm", "trace", "transfer",
    "transfer_init", "transfer_table", "transform", "transformer_optimizer", "transforms", "tree", "tree_map_params",
    "tree_utils", "turned_basis", "unitwise_clip", "unitwise_norm", "update_floor", "update_infinity_moment",
    "update_moment", "update_moment_per_elem_norm", "value_and_grad_from_state", "warmup_constant_schedule",
    "warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule", "warmup_linear_decay_schedule",
    "warmup_stable_decay_schedule", "with_extra_args_support", "with_kahan_summation", "with_master_weights",
    "with_metrics", "with_stochastic_rounding", "with_weight_decay", "wrapper", "yogi", "zclip", "zero_nans",
]  # fmt: skip


def __dir__() -> list[str]:
    """What a user looks for; the folders of the inside are left out."""
    return sorted([*__all__, "__doc__", "__name__", "__version__"])
