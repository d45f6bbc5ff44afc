"""Gradient descent for JAX: optimizers as pure `(init, update)` pairs over pytrees, composed with `chain`."""

from inspect import ismodule as _is_module

from gdjax import (
    assignment,
    contrib,
    experimental,
    losses,
    microbatching,
    perturbations,
    plots,
    projections,
    prox,
    recipes,
    schedules,
    second_order,
    testing,
    transforms,
    tree,
    tree_utils,
)
from gdjax.codes.rounding import *
from gdjax.combine.chain import *
from gdjax.combine.conditional import *
from gdjax.combine.groups import *
from gdjax.combine.hyperparams import *
from gdjax.combine.layers import *
from gdjax.combine.masking import *
from gdjax.combine.quantized import *
from gdjax.combine.sharding import *
from gdjax.core.base import *
from gdjax.core.parts import *
from gdjax.core.paths import *
from gdjax.core.types import *
from gdjax.inspection.collectives import *
from gdjax.inspection.explain import *
from gdjax.inspection.metrics import *
from gdjax.inspection.migrate import *
from gdjax.inspection.numerics import *
from gdjax.inspection.restored import *
from gdjax.inspection.roles import *
from gdjax.inspection.states import *
from gdjax.inspection.tabulate import *
from gdjax.leaf_roles.plan import *
from gdjax.lift.leafwise import *
from gdjax.lift.meetings import *
from gdjax.lift.slots import *
from gdjax.lift.wrapper import *
from gdjax.linalg.bases import *
from gdjax.linalg.matrices import *
from gdjax.linalg.polar import *
from gdjax.linalg.roots import *
from gdjax.linalg.stacks import *
from gdjax.linesearch.backtracking import *
from gdjax.linesearch.line import *
from gdjax.linesearch.zoom import *
from gdjax.losses.classification import (
    hinge_loss,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from gdjax.losses.ctc import *
from gdjax.losses.divergences import convex_kl_divergence, generalized_kl_divergence, kl_divergence
from gdjax.losses.ranking import ntxent
from gdjax.losses.regression import *
from gdjax.matrices.in_turns import *
from gdjax.matrices.matrixwise import *
from gdjax.matrices.slots import *
from gdjax.matrices.together import *
from gdjax.microbatching import microbatch
from gdjax.numerics.bounds import *
from gdjax.numerics.elementwise import *
from gdjax.numerics.norms import *
from gdjax.optimizers.acprop import *
from gdjax.optimizers.adabelief import *
from gdjax.optimizers.adadelta import *
from gdjax.optimizers.adafactor import *
from gdjax.optimizers.adagrad import *
from gdjax.optimizers.adam import *
from gdjax.optimizers.adam_atan2 import *
from gdjax.optimizers.adam_mini import *
from gdjax.optimizers.adamax import *
from gdjax.optimizers.adamc import *
from gdjax.optimizers.adan import *
from gdjax.optimizers.adana import *
from gdjax.optimizers.ademamix import *
from gdjax.optimizers.adopt import *
from gdjax.optimizers.amsgrad import *
from gdjax.optimizers.anderson import *
from gdjax.optimizers.apollo import *
from gdjax.optimizers.bfgs import *
from gdjax.optimizers.came import *
from gdjax.optimizers.cocob import *
from gdjax.optimizers.constrained import *
from gdjax.optimizers.dadaptation import *
from gdjax.optimizers.dion import *
from gdjax.optimizers.dion2 import *
from gdjax.optimizers.dog import *
from gdjax.optimizers.dpsgd import *
from gdjax.optimizers.fromage import *
from gdjax.optimizers.galore import *
from gdjax.optimizers.gauss_newton import *
from gdjax.optimizers.gpa import *
from gdjax.optimizers.kl_shampoo import *
from gdjax.optimizers.kl_soap import *
from gdjax.optimizers.lamb import *
from gdjax.optimizers.langevin import *
from gdjax.optimizers.laprop import *
from gdjax.optimizers.lars import *
from gdjax.optimizers.lbfgs import *
from gdjax.optimizers.lion import *
from gdjax.optimizers.madgrad import *
from gdjax.optimizers.mechanic import *
from gdjax.optimizers.mirror_descent import *
from gdjax.optimizers.momo import *
from gdjax.optimizers.muon import *
from gdjax.optimizers.muown import *
from gdjax.optimizers.nadam import *
from gdjax.optimizers.nonlinear_cg import *
from gdjax.optimizers.normuon import *
from gdjax.optimizers.novograd import *
from gdjax.optimizers.optimistic import *
from gdjax.optimizers.polyak import *
from gdjax.optimizers.proximal import *
from gdjax.optimizers.psgd import *
from gdjax.optimizers.radam import *
from gdjax.optimizers.rmsprop import *
from gdjax.optimizers.rprop import *
from gdjax.optimizers.sam import *
from gdjax.optimizers.schedule_free import *
from gdjax.optimizers.schedule_free_plus import *
from gdjax.optimizers.scion import *
from gdjax.optimizers.sgd import *
from gdjax.optimizers.shampoo import *
from gdjax.optimizers.sign_sgd import *
from gdjax.optimizers.sm3 import *
from gdjax.optimizers.soap import *
from gdjax.optimizers.soap_muon import *
from gdjax.optimizers.sophia import *
from gdjax.optimizers.stable_adamw import *
from gdjax.optimizers.transformer import *
from gdjax.optimizers.yogi import *
from gdjax.perturbations import multi_normal
from gdjax.plots.curves import plot_schedule
from gdjax.schedules.cycles import *
from gdjax.schedules.decay import *
from gdjax.schedules.decay import precond_update_prob_schedule
from gdjax.schedules.piecewise import *
from gdjax.schedules.powers import *
from gdjax.schedules.ramp import *
from gdjax.schedules.warmup import *
from gdjax.solving.implicit import *
from gdjax.solving.lagrangian import *
from gdjax.solving.solve import *
from gdjax.solving.solve_constrained import *
from gdjax.training.diloco import *
from gdjax.training.gradients import *
from gdjax.training.loop import *
from gdjax.training.movement import *
from gdjax.training.plan import *
from gdjax.training.progress import *
from gdjax.training.release import *
from gdjax.training.results import *
from gdjax.training.sharded_step import *
from gdjax.training.sizes import *
from gdjax.training.spsa import *
from gdjax.training.sweep import *
from gdjax.transfer_laws.batch_and_length import *
from gdjax.transfer_laws.transfer import *
from gdjax.transforms.accumulation import *
from gdjax.transforms.averaging import *
from gdjax.transforms.clipping import *
from gdjax.transforms.constraints import *
from gdjax.transforms.curvature import *
from gdjax.transforms.decay import *
from gdjax.transforms.guards import *
from gdjax.transforms.hyperball import *
from gdjax.transforms.layouts import *
from gdjax.transforms.loss_scale import *
from gdjax.transforms.master_weights import *
from gdjax.transforms.momentum import *
from gdjax.transforms.monitoring import *
from gdjax.transforms.noise import *
from gdjax.transforms.noise_scale import *
from gdjax.transforms.plateau import *
from gdjax.transforms.qk_clip import *
from gdjax.transforms.scaling import *
from gdjax.transforms.spectral import *
from gdjax.transforms.spikes import *
from gdjax.transforms.trust_ratio import *
from gdjax.tree import bias_correction, global_norm, update_infinity_moment, update_moment, update_moment_per_elem_norm
from gdjax.tree import map_params as tree_map_params
from gdjax.tree.arithmetic import scale_gradient
from gdjax.tree.updates import *
from gdjax.xla.loops import *

__version__ = "0.3.0"
# What is imported by name; the rest is what the modules list, and type checkers find it in the imports.
__all__ = [
    "assignment", "bias_correction", "contrib", "convex_kl_divergence", "experimental", "generalized_kl_divergence",
    "global_norm", "hinge_loss", "kl_divergence", "losses", "microbatch", "microbatching", "multi_normal", "ntxent",
    "perturbations", "plot_schedule", "plots", "precond_update_prob_schedule", "projections", "prox", "recipes",
    "safe_softmax_cross_entropy", "scale_gradient", "schedules", "second_order", "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss", "smooth_labels", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels",
    "testing", "transforms", "tree", "tree_map_params", "tree_utils", "update_infinity_moment", "update_moment",
    "update_moment_per_elem_norm",
]  # fmt: skip
__all__ += sorted(name for name, x in vars().items() if not (name[0] == "_" or name in __all__ or _is_module(x)))


def __dir__() -> list[str]:
    """What a user looks for: not the classes of states, which can be imported, nor the folders of the inside."""
    states = {name for name in __all__ if name.endswith(("State", "Info"))} | {"ApplyEvery", "WeightDecaySchedule"}
    return sorted({*__all__, "__doc__", "__name__", "__version__"} - states | {"OptState"})
