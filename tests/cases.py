"""All the declared cases and twins, and how tests run over them."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from tests.declare import SAMPLE, WRAPPERS, Case, Twin, one_in

_MODULES = [
    importlib.import_module(f"tests.declared.{path.stem}")
    for path in sorted((Path(__file__).parent / "declared").glob("*.py"))
]
__all__ = ["CASES", "SAMPLE", "TWINS", "WRAPPERS", "Case", "by_name", "derived", "every"]
DECLARED: tuple[Case, ...] = tuple(case for module in _MODULES for case in module.CASES)
TWINS: tuple[Twin, ...] = tuple(twin for module in _MODULES for twin in module.TWINS)


def derived(name: str) -> Case:
    """The case of an optimizer that none is declared for: its numbers are its defaults, at a rate of 0.1."""
    factory = getattr(gdjax, name)
    parameters = inspect.signature(factory).parameters.values()
    hyper = {"learning_rate": 0.1} | {x.name: x.default for x in parameters if isinstance(x.default, float)}
    quiet = {k: 0.0 for k in hyper if k.startswith("weight_decay")}
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = factory(**hyper)
    try:
        jax.eval_shape(tx.update, params, tx.init(params))
    except ValueError:
        return Case(name, factory, hyper, quiet=quiet, needs_params=True)
    return Case(name, factory, hyper, quiet=quiet)


def _optimizers() -> list[str]:
    """The public functions whose first argument is the learning rate."""
    functions = {name: getattr(gdjax, name) for name in gdjax.__all__}
    named = {name: f for name, f in functions.items() if inspect.isfunction(f) and "optimizers" in f.__module__}
    return [name for name, f in named.items() if next(iter(inspect.signature(f).parameters), "") == "learning_rate"]


_KNOWN = {case.covers for case in DECLARED}
CASES: tuple[Case, ...] = (*DECLARED, *(derived(name) for name in _optimizers() if name not in _KNOWN))


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def every(
    condition: Callable[[Case], bool] = lambda case: True,
    *,
    sampled: bool = False,
    but: Sequence[str] = (),
    few: int | None = None,
    thin: int = 1,
    **axis: Any,
) -> Any:
    """Parametrises a test over the cases, and over the values of one more argument.

    `make test` runs every case with the first value and those in `SAMPLE` with each, or with the first `few`; with
    `sampled` it runs only those, `but` not the ones named. With `thin` it runs those and one in so many of the others,
    which are others for each test.
    """
    ((argument, values),) = axis.items() or [("", [None])]
    cases = [case for case in CASES if condition(case)]

    def marks(test: str, case: Case, i: int) -> list[Any]:
        slow = not case.sampled and not one_in(thin, f"{test} {case.name}")
        slow = slow or case.slow or i >= (few or len(values)) or not case.sampled and (sampled or i) or case.name in but
        return [pytest.mark.slow] if slow else []

    def parametrized(test: Callable[..., Any]) -> Callable[..., Any]:
        name = test.__name__
        if not argument:
            chosen = [pytest.param(case, id=case.name, marks=marks(name, case, 0)) for case in cases]
            return pytest.mark.parametrize("case", chosen)(test)
        chosen = [
            pytest.param(case, x, id=f"{case.name}-{x}", marks=marks(name, case, i))
            for case in cases
            for i, x in enumerate(values)
        ]
        return pytest.mark.parametrize(("case", argument), chosen)(test)

    return parametrized
