"""The methods in plain JAX have the numbers of the library's."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import precision

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))
adamw, muon, soap = (getattr(importlib.import_module(f"plain.{name}"), name) for name in ("adamw", "muon", "soap"))

ADAM = gdjax.adamw(0.02, 0.8, 0.9, 1e-3, weight_decay=0.0)
PAIRS = {
    "adamw": (adamw(0.01), gdjax.adamw(0.01)),
    "adamw, other numbers": (adamw(0.02, 0.8, 0.9, 1e-3, 0.1), gdjax.adamw(0.02, 0.8, 0.9, 1e-3, weight_decay=0.1)),
    "muon": (muon(0.01), gdjax.muon(0.01)),
    "muon, other numbers": (
        muon(0.02, 0.8, 3, 1e-3, 0.1),
        gdjax.muon(0.02, ns_steps=3, beta=0.8, eps=1e-3, weight_decay=0.1),
    ),
    "soap": (soap(0.01), gdjax.soap(0.01, precondition_frequency=lambda count: 10)),
    "soap, other numbers": (
        soap(0.02, 0.8, 0.9, 1e-3, 3, 0.1),
        gdjax.soap(0.02, 0.8, 0.9, None, 1e-3, lambda count: 3, weight_decay=0.1, others=ADAM),
    ),
}
SHAPES = {"tall": (16, 8), "wide": (8, 24), "square": (7, 7), "vector": (5,)}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_numbers_of_the_library(pair: str):
    rng = np.random.default_rng(0)
    with precision("float64"), relaxed():
        start = {name: {"kernel": jnp.asarray(rng.normal(size=shape))} for name, shape in SHAPES.items()}
        found, runs = [], [(tx, jax.jit(tx[1])) for tx in PAIRS[pair]]
        gradients = [jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), start) for _ in range(20)]
        for (init, _), step in runs:
            params, state = start, init(start)
            for g in gradients:
                updates, state = step(g, state, params)
                params = jax.tree.map(jnp.add, params, updates)
            found.append(jax.device_get(params))
    for name in SHAPES:
        got, want = (x[name]["kernel"] for x in found)
        # A power step of SOAP's divides rounding in a null space by eps^0.4.
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-8 if "soap" in pair else 1e-12, err_msg=name)


def test_each_is_one_screen_without_the_library():
    for name in ("adamw", "muon", "soap"):
        text = (EXAMPLES / "plain" / f"{name}.py").read_text("utf-8")
        code = text.split('"""', 2)[2]
        assert "gdjax" not in code
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 50
