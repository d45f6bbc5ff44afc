"""Who races: of each method what it makes of a point, the space it is tuned in, and its untuned row.

A point names rates (`rate`, `adam_rate`) and whatever else is tuned; `steps` is the length of the run. All may be
traced, so a study is one program. Weight decay acts on matrices alone. Adam beside a matrix method has b2 = 0.95.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import gdjax

from .schedule import WARMUP, constant, rate
from .spaces import Decay, Log, Point, Space

RATES = Log(3e-4, 1e-1)
DECAYS = Log(1e-3, 1.0)
AVERAGES = Decay(0.9, 0.999)


BY_ROLE = {"muon_weight_dimension_numbers": gdjax.matrices_by_role()}  # Muon alone has Optax's default: all of two axes


class Method(NamedTuple):
    make: Callable[[Any, Any], Any]  # point, steps -> transform
    space: Space
    untuned: Point  # the defaults that its page, or its paper, gives
    rates: tuple[str, ...] = ("rate",)  # what is extended if the best is at an edge
    larger: Space = {}  # noqa: RUF012  # of a baseline: as many trials more, in this space
    searches: bool = False  # the step, with the loss and its gradient as functions
    mapped: bool = (
        True  # several runs as one by `vmap`; else one after the other, since a condition would run both sides
    )


def matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def adams(make: Callable[..., Any], **fixed: Any) -> Callable[[Any, Any], Any]:
    """Of Adam's kin, with decoupled weight decay on matrices."""

    def of(h: Any, steps: Any) -> Any:
        own = {name: h[name] for name in ("b1", "b2", "weight_decay") if name in h}
        shape = {name: h[name] for name in ("warmup", "end") if name in h}
        return make(rate(h["rate"], steps, **shape), mask=matrices, **own, **fixed)

    return of


def beside_adam(make: Callable[..., Any], **fixed: Any) -> Callable[[Any, Any], Any]:
    """Of methods for hidden matrices, with Adam at a rate of its own for the rest."""

    def of(h: Any, steps: Any) -> Any:
        return make(
            rate(h["rate"], steps), adam_learning_rate=rate(h["adam_rate"], steps), adam_b2=0.95,
            weight_decay=h["weight_decay"], **fixed,
        )  # fmt: skip

    return of


def sgd(h: Any, steps: Any) -> Any:
    decay = gdjax.add_decayed_weights(h["weight_decay"], mask=matrices)
    return gdjax.chain(gdjax.trace(0.9, nesterov=True), decay, gdjax.scale_by_learning_rate(rate(h["rate"], steps)))


def adopt(h: Any, steps: Any) -> Any:
    decay = gdjax.add_decayed_weights(h["weight_decay"], mask=matrices)
    return gdjax.chain(gdjax.scale_by_adopt(b2=h["b2"]), decay, gdjax.scale_by_learning_rate(rate(h["rate"], steps)))


def cautious(h: Any, steps: Any) -> Any:
    return gdjax.cautious(adams(gdjax.adamw)(h, steps))


def schedule_free(h: Any, steps: Any) -> Any:
    inner = gdjax.chain(gdjax.scale_by_rms(decay=h["b2"], bias_correction=True),
                        gdjax.add_decayed_weights(h["weight_decay"], mask=matrices))  # fmt: skip
    down = gdjax.scale_by_learning_rate(constant(h["rate"], steps))
    return gdjax.contrib.schedule_free(gdjax.chain(inner, down), constant(h["rate"], steps), b1=0.9)


def prodigy(h: Any, steps: Any) -> Any:
    return gdjax.prodigy(rate(h["rate"], steps), weight_decay=h["weight_decay"], weight_decay_mask=matrices)


def mars(h: Any, steps: Any) -> Any:
    return gdjax.mars(adams(gdjax.adamw, b1=0.95)(h, steps))


def in_8_bits(h: Any, steps: Any) -> Any:
    return gdjax.quantize_state(adams(gdjax.adamw)(h, steps))


def averaged(h: Any, steps: Any) -> Any:
    """Judged by the average of its parameters."""
    return gdjax.params_ema(adams(gdjax.adamw)(h, steps), h["average"])


def primal_averages(h: Any, steps: Any) -> Any:
    return gdjax.gpa(adams(gdjax.adamw)(h, steps), h["mu_x"])


def corrected(h: Any, steps: Any) -> Any:
    """Decay times rate^2 / peak: the peak is known here, since the rate may be traced."""
    return adams(gdjax.adamc, peak_learning_rate=h["rate"])(h, steps)


def recipe(h: Any, steps: Any) -> Any:
    """What `transformer_optimizer` makes, of traced lengths: a test compares the two."""
    hidden = gdjax.chain(
        gdjax.scale_by_normuon(),
        gdjax.add_decayed_weights(h["weight_decay"], cautious=True),
        gdjax.scale_by_learning_rate(rate(h["rate"], steps)),
    )
    rest = gdjax.adam(rate(h["adam_rate"], steps), b2=0.95)
    return gdjax.partition({"matrix": hidden, "other": rest}, by_role)


def searching(make: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    return lambda h, steps: make()


def by_role(params: Any) -> Any:
    numbers = gdjax.matrices_by_role()(params)
    return jax.tree.map(lambda p, d: "other" if d is None else "matrix", params, numbers, is_leaf=lambda x: x is None)


def hyperball(h: Any, steps: Any) -> Any:
    inner = gdjax.muon(1.0, adam_learning_rate=rate(h["adam_rate"], steps), adam_b2=0.95, **BY_ROLE)
    return gdjax.hyperball(inner, rate(h["rate"], steps))


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
    "sgd": Method(sgd, TUNED | {"rate": Log(3e-3, 1.0)}, {"rate": 0.1, "weight_decay": 1e-4}),
    "lion": Method(adams(gdjax.lion), TUNED | {"rate": Log(3e-5, 1e-2)}, {"rate": 1e-4, "weight_decay": 1.0}),
    "adan": Method(adams(gdjax.adan), TUNED, {"rate": 5e-3, "weight_decay": 0.02}),
    "adopt": Method(adopt, KIN, ADAM | {"b2": 0.9999}),
    "ademamix": Method(adams(gdjax.ademamix, b3=0.999), KIN, ADAM | {"b2": 0.999}),
    "cautious adamw": Method(cautious, KIN, ADAM | {"b2": 0.999}),
    "laprop": Method(adams(gdjax.laprop), KIN, {"rate": 4e-4, "weight_decay": 0.1, "b2": 0.999}),
    "adam-atan2": Method(adams(gdjax.adam_atan2), KIN, ADAM | {"b2": 0.99}),
    "stable adamw": Method(adams(gdjax.stable_adamw), KIN, ADAM | {"b2": 0.99}),
    "mars adamw": Method(mars, KIN, {"rate": 3e-3, "weight_decay": 0.01, "b2": 0.99}),
    "adamc": Method(corrected, KIN, ADAM | {"b2": 0.999}),
    "came": Method(adams(gdjax.came), TUNED, {"rate": 2e-4, "weight_decay": 0.1}),
    "adamw in 8 bits": Method(in_8_bits, KIN, ADAM | {"b2": 0.999}),
    "averaged adamw": Method(averaged, KIN | {"average": AVERAGES}, ADAM | {"b2": 0.999, "average": 0.99}),
    "gpa adamw": Method(primal_averages, KIN | {"mu_x": AVERAGES}, ADAM | {"b2": 0.999, "mu_x": 0.9967}),
    "schedule-free adamw": Method(schedule_free, KIN, {"rate": 2.5e-3, "weight_decay": 0.1, "b2": 0.999}),
    "prodigy": Method(prodigy, TUNED | {"rate": Log(0.1, 10.0)}, {"rate": 1.0, "weight_decay": 0.1}),
    "muon": Method(beside_adam(gdjax.muon, consistent_rms=0.2, **BY_ROLE), BESIDE, MATRIX, BOTH),
    "normuon": Method(beside_adam(gdjax.normuon), BESIDE, MATRIX, BOTH),
    "recipe": Method(recipe, BESIDE, MATRIX, BOTH),
    "hyperball muon": Method(hyperball, {"rate": RATES, "adam_rate": RATES}, {"rate": 1e-2, "adam_rate": 3e-3}, BOTH),
    "soap": Method(beside_adam(gdjax.soap), BESIDE, MATRIX, BOTH, mapped=False),
    "kl-shampoo": Method(beside_adam(gdjax.kl_shampoo), BESIDE, MATRIX, BOTH, mapped=False),
    "soap-muon": Method(beside_adam(gdjax.soap_muon), BESIDE, MATRIX, BOTH, mapped=False),
    "psgd-kron": Method(beside_adam(gdjax.psgd_kron), BESIDE, MATRIX | {"rate": 1e-3}, BOTH, mapped=False),
    "lbfgs": Method(searching(lambda: gdjax.lbfgs(memory_size=50)), {}, {}, (), searches=True, mapped=False),
    "bfgs": Method(searching(gdjax.bfgs), {}, {}, (), searches=True, mapped=False),
    "ssbroyden": Method(searching(gdjax.ssbroyden), {}, {}, (), searches=True, mapped=False),
}
WHOLE_DATA = ("pinn", "pinn_double", "factors")  # the tasks for those that search: no noise


def races(task: str, method: str) -> bool:
    return not METHODS[method].searches or task in WHOLE_DATA
