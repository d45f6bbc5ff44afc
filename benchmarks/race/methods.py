"""Who races: of each method what it makes of a point, the space it is tuned in, and its untuned row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gdjax

from . import makers
from .makers import adams, averaged, beside_adam, searching
from .schedule import WARMUP
from .spaces import Decay, Log, Point, Space


class Method(NamedTuple):
    make: Callable[[Any, Any], Any]  # point, steps -> transform
    space: Space
    untuned: Point  # the defaults that its page, or its paper, gives
    rates: tuple[str, ...] = ("rate",)  # what is extended if the best is at an edge
    larger: Space = {}  # of a baseline: as many trials more, in this space
    searches: bool = False  # the step, with the loss and its gradient as functions
    residuals: bool = False  # the step, with the residuals of the loss as a function
    # Several runs as one by `vmap`; else one after the other, since a condition would run both sides.
    mapped: bool = True
    carried: str = ""  # the method whose point of a smaller task it takes over as it is


RATES = Log(3e-4, 1e-1)
DECAYS = Log(1e-3, 1.0)
OUTER = Log(0.2, 0.8)  # momentum of an outer step
GROWTH = Log(0.1, 100.0)  # of a decay, from the first step to the last
AVERAGES = Decay(0.9, 0.999)
TUNED = {"rate": RATES, "weight_decay": DECAYS}
KIN = TUNED | {"b2": Decay(0.9, 0.999)}
FULL = KIN | {"b1": Decay(0.8, 0.98), "warmup": Log(0.01, 0.2), "end": Log(1e-3, 0.3)}
BESIDE = {"rate": RATES, "adam_rate": RATES, "weight_decay": DECAYS}
BOTH = ("rate", "adam_rate")
ADAM = {"rate": 1e-3, "weight_decay": 0.1}
SHAPE = {"b1": 0.9, "b2": 0.999, "warmup": WARMUP, "end": 0.0}
MATRIX = {"rate": 3e-3, "adam_rate": 3e-3, "weight_decay": 0.1}

METHODS: dict[str, Method] = {
    "adamw": Method(adams(gdjax.adamw), KIN, ADAM | SHAPE, larger=FULL),
    "nadamw": Method(adams(gdjax.nadamw), KIN, ADAM | SHAPE, larger=FULL),
    "adamw, two rates": Method(makers.two_rates, BESIDE | {"b2": KIN["b2"]}, MATRIX | {"rate": 1e-3, "b2": 0.95}, BOTH),
    "sgd": Method(makers.sgd, TUNED | {"rate": Log(3e-3, 1.0)}, {"rate": 0.1, "weight_decay": 1e-4}),
    "lion": Method(adams(gdjax.lion), TUNED | {"rate": Log(3e-5, 1e-2)}, {"rate": 1e-4, "weight_decay": 1.0}),
    "adan": Method(adams(gdjax.adan), TUNED, {"rate": 5e-3, "weight_decay": 0.02}),
    "adopt": Method(makers.adopt, KIN, ADAM | {"b2": 0.9999}),
    "ademamix": Method(adams(gdjax.ademamix, b3=0.999), KIN, ADAM | {"b2": 0.999}),
    "cautious adamw": Method(makers.cautious(adams(gdjax.adamw)), KIN, ADAM | {"b2": 0.999}),
    "laprop": Method(adams(gdjax.laprop), KIN, {"rate": 4e-4, "weight_decay": 0.1, "b2": 0.999}),
    "adam-atan2": Method(adams(gdjax.adam_atan2), KIN, ADAM | {"b2": 0.99}),
    "stable adamw": Method(adams(gdjax.stable_adamw), KIN, ADAM | {"b2": 0.99}),
    "mars adamw": Method(
        makers.mars(adams(gdjax.adamw, b1=0.95)), KIN, {"rate": 3e-3, "weight_decay": 0.01, "b2": 0.99}
    ),
    "adamc": Method(makers.corrected, KIN, ADAM | {"b2": 0.999}),
    "came": Method(adams(gdjax.came), TUNED, {"rate": 2e-4, "weight_decay": 0.1}),
    "adam-mini": Method(adams(gdjax.adam_mini), KIN, ADAM | {"b2": 0.999}),
    "apollo-mini": Method(makers.apollo_mini, KIN, {"rate": 0.01, "weight_decay": 0.1, "b2": 0.999}),
    "adamw in 8 bits": Method(makers.in_8_bits, KIN, ADAM | {"b2": 0.999}),
    "decay-scheduled adamw": Method(
        makers.decay_scheduled(adams(gdjax.adamw)), KIN | {"growth": GROWTH}, ADAM | {"b2": 0.999, "growth": 10.0}
    ),
    "averaged adamw": Method(
        averaged(adams(gdjax.adamw)), KIN | {"average": AVERAGES}, ADAM | {"b2": 0.999, "average": 0.99}
    ),
    "tail-averaged adamw": Method(
        makers.tail_averaged, KIN | {"horizon": Log(0.005, 0.15)}, ADAM | {"b2": 0.999, "horizon": 0.03}
    ),
    "ema-nesterov adamw": Method(
        makers.looking_ahead, KIN | {"lookahead": Log(0.1, 0.9)}, ADAM | {"b2": 0.999, "lookahead": 0.45}
    ),
    "gpa adamw": Method(makers.primal_averages, KIN | {"mu_x": AVERAGES}, ADAM | {"b2": 0.999, "mu_x": 0.9967}),
    "schedule-free adamw": Method(makers.schedule_free, KIN, {"rate": 2.5e-3, "weight_decay": 0.1, "b2": 0.999}),
    "prodigy": Method(makers.prodigy, TUNED | {"rate": Log(0.1, 10.0)}, {"rate": 1.0, "weight_decay": 0.1}),
    "muon": Method(beside_adam(gdjax.muon, consistent_rms=0.2, **makers.BY_ROLE), BESIDE, MATRIX, BOTH),
    "normuon": Method(beside_adam(gdjax.normuon), BESIDE, MATRIX, BOTH),
    "recipe": Method(makers.recipe, BESIDE, MATRIX, BOTH),
    "averaged recipe": Method(
        averaged(makers.recipe), BESIDE | {"average": AVERAGES}, MATRIX | {"average": 0.99}, BOTH
    ),
    "cautious normuon": Method(makers.cautious(beside_adam(gdjax.normuon)), BESIDE, MATRIX, BOTH),
    "mars normuon": Method(makers.mars(beside_adam(gdjax.normuon)), BESIDE, MATRIX, BOTH),
    "decay-scheduled normuon": Method(
        makers.decay_scheduled(beside_adam(gdjax.normuon)), BESIDE | {"growth": GROWTH}, MATRIX | {"growth": 10.0}, BOTH
    ),
    "hyperball muon": Method(
        makers.hyperball, {"rate": RATES, "adam_rate": RATES}, {"rate": 1e-2, "adam_rate": 3e-3}, BOTH
    ),
    "soap": Method(beside_adam(gdjax.soap), BESIDE, MATRIX, BOTH, mapped=False),
    "averaged soap": Method(
        averaged(beside_adam(gdjax.soap)), BESIDE | {"average": AVERAGES}, MATRIX | {"average": 0.99}, BOTH,
        mapped=False,
    ),
    "kl-shampoo": Method(beside_adam(gdjax.kl_shampoo), BESIDE, MATRIX, BOTH, mapped=False),
    "soap-muon": Method(beside_adam(gdjax.soap_muon), BESIDE, MATRIX, BOTH, mapped=False),
    "psgd-kron": Method(beside_adam(gdjax.psgd_kron), BESIDE, MATRIX | {"rate": 1e-3}, BOTH, mapped=False),
    "adana": Method(adams(gdjax.adana), TUNED, ADAM),
    "snoo adamw": Method(
        makers.outer_steps(adams(gdjax.adamw)), KIN | {"momentum": OUTER}, ADAM | {"b2": 0.999, "momentum": 0.5}
    ),
    "snoo normuon": Method(
        makers.outer_steps(beside_adam(gdjax.normuon)), BESIDE | {"momentum": OUTER}, MATRIX | {"momentum": 0.5}, BOTH
    ),
    "muown": Method(beside_adam(gdjax.muown), BESIDE, MATRIX, BOTH),
    "dynmuon": Method(makers.dynmuon, BESIDE, MATRIX, BOTH),
    "lbfgs": Method(searching(lambda: gdjax.lbfgs(memory_size=50)), {}, {}, (), searches=True, mapped=False),
    "bfgs": Method(searching(gdjax.bfgs), {}, {}, (), searches=True, mapped=False),
    "ssbroyden": Method(searching(gdjax.ssbroyden), {}, {}, (), searches=True, mapped=False),
    "gauss-newton": Method(searching(lambda: gdjax.gauss_newton(1e-3)), {}, {}, (), residuals=True, mapped=False),
}  # fmt: skip
METHODS |= {
    f"{name}, transferred": METHODS[name]._replace(
        make=makers.carried_over(METHODS[name].make), carried=name, larger={}
    )
    for name in ("adamw", "nadamw", "recipe", "soap")
}
EQUATIONS = ("pinn", "pinn_double")  # a minute for the eight seeds of a method: for a few of the others
OF_EQUATIONS = ("adamw", "nadamw", "muon", "soap", "psgd-kron")
# These race where all data are in each step; a whole inverse Hessian is for a thousand weights.
WHOLE_DATA = {"lbfgs": ("factors", *EQUATIONS), "bfgs": EQUATIONS, "ssbroyden": EQUATIONS, "gauss-newton": EQUATIONS}


# On these the winners of `language` run, and the same optimizers transferred where the model is wider.
WIDER = ("language_128", "language_256")
LARGER = (*WIDER, "language_batch", "language_long")
OF_LARGER = ("adamw", "nadamw", "normuon", "recipe", "soap")
# Fine-tuning: a bit of each family; SAM, searches and what only differs in a corner are left out.
FINE_TUNING = ("fine_tune", "fine_tune_muon", "fine_tune_lora")
OF_FINE_TUNING = (
    "adamw", "nadamw", "adamw, two rates", "sgd", "lion", "cautious adamw", "adamw in 8 bits", "averaged adamw",
    "schedule-free adamw", "prodigy", "muon", "normuon", "recipe", "averaged recipe", "hyperball muon", "soap",
    "averaged soap", "kl-shampoo", "psgd-kron",
)  # fmt: skip


def races(task: str, method: str) -> bool:
    if METHODS[method].carried:
        return task in WIDER
    if task in LARGER or task in FINE_TUNING:
        return method in (OF_LARGER if task in LARGER else OF_FINE_TUNING)
    if method in WHOLE_DATA:
        return task in WHOLE_DATA[method]
    return task not in EQUATIONS or method in OF_EQUATIONS
