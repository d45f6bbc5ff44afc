"""The methods that Optax keeps under `optax.contrib`, by those names; the library itself makes no such difference."""

from gdjax.optimizers.acprop import *
from gdjax.optimizers.ademamix import *
from gdjax.optimizers.adopt import *
from gdjax.optimizers.cocob import *
from gdjax.optimizers.dadaptation import *
from gdjax.optimizers.dog import DoGState, DoWGState, dog, dowg
from gdjax.optimizers.dpsgd import *
from gdjax.optimizers.galore import *
from gdjax.optimizers.madgrad import *
from gdjax.optimizers.mechanic import *
from gdjax.optimizers.momo import *
from gdjax.optimizers.muon import *
from gdjax.optimizers.sam import *
from gdjax.optimizers.schedule_free import *
from gdjax.optimizers.sophia import SophiaState, sophia
from gdjax.transforms.clipping import NormalizeState, normalize
from gdjax.transforms.curvature import *
from gdjax.transforms.layouts import SplitRealAndImaginaryState, split_real_and_imaginary
from gdjax.transforms.noise import DifferentiallyPrivateAggregateState, differentially_private_aggregate
from gdjax.transforms.plateau import ReduceLROnPlateauState, reduce_on_plateau

__all__ = [
    "COCOBState", "DAdaptAdamWState", "DifferentiallyPrivateAggregateState", "DoGState", "DoWGState",
    "GaLoreDimensionNumbers", "GaLoreState", "HutchinsonState", "MadgradState", "MechanicState", "MomoAdamState",
    "MomoState", "MuonDimensionNumbers", "MuonState", "NormalizeState", "ProdigyState", "ReduceLROnPlateauState",
    "SAMState", "ScaleByAdemamixState", "ScaleBySimplifiedAdEMAMixState", "ScheduleFreeState", "SophiaState",
    "SplitRealAndImaginaryState", "acprop", "ademamix", "adopt", "cocob", "dadapt_adamw",
    "differentially_private_aggregate", "dog", "dowg", "dpsgd", "galore", "hutchinson_estimator_diag_hessian",
    "madgrad", "mechanize", "momo", "momo_adam", "muon", "normalize", "prodigy", "reduce_on_plateau", "sam",
    "scale_by_acprop", "scale_by_ademamix", "scale_by_adopt", "scale_by_cocob", "scale_by_galore", "scale_by_madgrad",
    "scale_by_muon", "scale_by_simplified_ademamix", "schedule_free", "schedule_free_adamw",
    "schedule_free_eval_params", "schedule_free_sgd", "simplified_ademamix", "sophia", "split_real_and_imaginary",
]  # fmt: skip
