"""The laws by which updates grow with a matrix: each is the largest singular value of such an update."""

from typing import Any

import numpy as np
import pytest

from gdjax.core import growth
from gdjax.core.growth import LAWS, Law, law_of


def size(law: Law, inputs: int, outputs: int) -> float:
    scale = 1.0 if law.scale is None else law.scale(inputs, outputs)
    return inputs**law.inputs * outputs**law.outputs * scale


def largest(x: Any) -> float:
    return float(np.linalg.norm(x, 2))


def test_laws_are_the_largest_singular_values_of_updates():
    for inputs, outputs in ((4, 9), (16, 4), (8, 8)):
        # One direction, as gradients have few of them.
        g = np.outer(np.ones(inputs), np.resize([1.0, -1.0], outputs))
        q = np.linalg.qr(np.random.default_rng(0).normal(size=(max(g.shape), min(g.shape))))[0]
        updates = {
            "elementwise": np.sign(g),
            "gradient": g / outputs,
            "normalized": g / np.linalg.norm(g),
            "orthonormal": q,
            "by_shape": q * max(1, outputs / inputs) ** 0.5,
            "by_rms": q * max(inputs, outputs) ** 0.5,
        }
        for name, update in updates.items():
            assert largest(update) == pytest.approx(size(LAWS[name], inputs, outputs)), name


def test_what_a_rule_says():
    before = LAWS["elementwise"]
    assert (
        law_of("orthonormal", {}, before, "matrix") == LAWS["orthonormal"] and law_of(None, {}, before, "norm") is None
    )
    assert law_of(growth.DIRECTION, {}, before, "matrix") == law_of(growth.SAME, {}, before, "matrix") == growth.SAME
    relative = law_of(growth.relative, {}, LAWS["orthonormal"], "matrix")
    assert isinstance(relative, Law) and relative.start == 1 and size(relative, 4, 16) == pytest.approx(4)
    starts_at_0 = [
        law_of(growth.elementwise_from_0, {"initial_accumulator_value": x}, before, "norm") for x in (0, 0.1)
    ]
    assert starts_at_0 == [LAWS["elementwise"], None]


def test_laws_of_roles():
    of_matrices = growth.of_roles(("matrix",), "fits")
    found = [
        law_of(of_matrices, {"ascends": x}, LAWS["gradient"], role)
        for x, role in ((0, "matrix"), (0, "norm"), (1, "norm"))
    ]
    assert found == [LAWS["fits"], growth.SAME, LAWS["gradient"]]
    assert growth.divides_by_norm(of_matrices) and not growth.divides_by_norm("elementwise")


def test_no_such_law():
    with pytest.raises(ValueError, match="gdjax.leafwise: growth is 'linear'; there are gradient, elementwise,"):
        growth.check_growth("leafwise", "linear")
