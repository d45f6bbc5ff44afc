"""All the declared cases and twins, and how tests run over them."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.declare import SAMPLE, WRAPPERS, Case, Twin

_MODULES = [
    importlib.import_module(f"tests.declared.{path.stem}")
    for path in sorted((Path(__file__).parent / "declared").glob("*.py"))
]
__all__ = ["CASES", "SAMPLE", "TWINS", "WRAPPERS", "Case", "by_name", "every"]
CASES: tuple[Case, ...] = tuple(case for module in _MODULES for case in module.CASES)
TWINS: tuple[Twin, ...] = tuple(twin for module in _MODULES for twin in module.TWINS)


def by_name(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def every(
    condition: Callable[[Case], bool] = lambda case: True,
    *,
    sampled: bool = False,
    but: Sequence[str] = (),
    few: int | None = None,
    **axis: Any,
) -> Any:
    """Parametrises a test over the cases, and over the values of one more argument.

    `make test` runs every case with the first value and those in `SAMPLE` with each, or with the first `few`; with
    `sampled` it runs only those, `but` not the ones named.
    """
    ((argument, values),) = axis.items() or [("", [None])]

    def marks(case: Case, i: int) -> list[Any]:
        slow = case.slow or i >= (few or len(values)) or not case.sampled and (sampled or i) or case.name in but
        return [pytest.mark.slow] if slow else []

    if not argument:
        chosen = [pytest.param(case, id=case.name, marks=marks(case, 0)) for case in CASES if condition(case)]
        return pytest.mark.parametrize("case", chosen)
    return pytest.mark.parametrize(
        ("case", argument),
        [
            pytest.param(case, x, id=f"{case.name}-{x}", marks=marks(case, i))
            for case in CASES
            if condition(case)
            for i, x in enumerate(values)
        ],
    )
