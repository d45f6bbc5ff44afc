"""What is trained. A task says how parameters begin, what a batch is, what is minimised and how a run is judged."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Task(NamedTuple):
    about: str  # a sentence for the table
    steps: int  # of a run, the same for all methods and seeds
    start: Callable[[Any], Any]  # key -> params
    batch: Callable[..., Any]  # key, times=1 -> a batch, so many times as large, drawn in the compiled step
    loss: Callable[[Any, Any], Any]  # params, batch -> what the gradient is of
    judge: Callable[[Any], Any]  # params -> the number of the table, smaller is better, at the end of a run
    glance: Callable[[Any], Any]  # params -> a cheaper estimate of it, for the curve
    unit: str  # of what `judge` returns
    seconds: float | None = None  # of a run, in place of the steps: each method has as many steps as it makes in them
    passes: float | None = None  # of a diagnostic: the end at which a run has passed
    drawn: bool = True  # batches are drawn; else all data are in each step
    extra_fns: Any = None  # functions of the parameters for the methods that ask for them, by name: residual_fn
    aside: Callable[[Any], Any] | None = None  # params -> a second number, told beside the first: what was forgotten
    aside_unit: str = ""
    near: str = ""  # a task whose best points are tried here, with rates a few times smaller and larger
    data: str = ""  # a digest of the data, where they may differ from machine to machine


MAKERS = {  # the file and function of each; a file is imported when its task is made, since some want scikit-learn
    "language": "language.fresh",
    "language_repeated": "language.repeated",
    "digits": "digits.make",
    "autoencoder": "autoencoder.make",
    "factors": "factors.make",
    "modular": "modular.make",
    "pinn": "pinn.single",
    "pinn_double": "pinn.double",
    "experts": "experts.make",
    "language_batch": "language.of_large_batches",
    "language_128": "language.of_width_128",
    "language_256": "language.of_width_256",
    "language_long": "language.long",
    "fine_tune": "fine_tuning.after_adamw",
    "fine_tune_muon": "fine_tuning.after_muon",
    "fine_tune_lora": "fine_tuning.adapters",
    "convolution": "held_out.convolution",
    "recurrent": "held_out.recurrent",
}
HELD_OUT = ("convolution", "recurrent")  # each method once, at the point that does best over the others
NAMES = tuple(name for name in MAKERS if name not in HELD_OUT)
DIAGNOSTICS = ("saddle", "valley", "scales", "sparse", "heavy_tails", "float16")
DOUBLE = ("pinn_double",)  # known before JAX is told


def all_data(key: Any, times: int = 1) -> None:
    """The batch of a task whose loss is of all data."""


def task(name: str) -> Task:
    """Makes a task, reading its data."""
    file, function = MAKERS.get(name, f"diagnostics.{name}").split(".")
    return getattr(importlib.import_module(f".{file}", __name__), function)()
