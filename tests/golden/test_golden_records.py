"""The points that optimizers of records visit in 50 steps of float64, from `golden/records.npz`.

`golden/make_records.py` says how they were made. Their matrices are (outputs, inputs).
"""

import contextlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix
from tests import oracles
from tests.golden_matrices import as_published

with np.load(Path(__file__).parent / "records.npz") as file:
    GOLDEN = dict(file)
KEPT, RATE, DECAY = GOLDEN["kept"], float(GOLDEN["rate"]), float(GOLDEN["decay"])
LINEAR, CONVERGED = Matrix(1, 0), {"ns_coeffs": (2.0, -1.5, 0.5), "ns_steps": 12}


def soap_muon(shape: Any) -> Any:
    """The second step whitens to a matrix of signs, which may be singular: an eps would be what Newton-Schulz sees."""
    numbers = {"eps": 0.0, "preconditioning": "schatten", **CONVERGED}
    inner = gdjax.soap_muon(RATE, precondition_frequency=1, **numbers, roles=LINEAR)
    return gdjax.radial_brake(inner, 0.5, floor=0.3825 * RATE, roles=LINEAR)


def normuon(shape: Any) -> Any:
    """The record's second moments are those of the shorter side, be it the outputs or the inputs."""
    rows, columns = shape
    numbers = {"eps": 0.0, "consistent_rms": None, **CONVERGED}
    if rows >= columns:
        return gdjax.normuon(RATE, **numbers, weight_decay=DECAY, roles=LINEAR)
    factor = (columns / rows) ** 0.5  # of the side that is taken for the outputs
    return gdjax.normuon(RATE / factor, **numbers, weight_decay=DECAY * factor, roles=Matrix(0, 1))


def dynmuon(power: float) -> Any:
    """Their momentum is a sum, so that its singular values are 20 times as large."""
    factor = 20.0**power
    return lambda shape: gdjax.muon(
        RATE * factor, **CONVERGED, power=power, weight_decay=DECAY / factor, bias_correction=False,
        muon_weight_dimension_numbers=gdjax.MuonDimensionNumbers(1, 0),
    )  # fmt: skip


def muown(shape: Any) -> Any:
    return gdjax.muown(RATE, eps=1e-7, ns_coeffs="jordan", weight_decay=DECAY, roles=LINEAR)


RUNS = {
    "soap_muon": soap_muon,
    "normuon": normuon,
    "dynmuon/0.25": dynmuon(0.25),
    "dynmuon/-0.25": dynmuon(-0.25),
    "muown": muown,
    "snoo": lambda shape: gdjax.snoo(gdjax.sgd(RATE), every=7),
}
CASES = [tuple(key.rsplit("/", 1)) for key in GOLDEN if key.rsplit("/", 1)[0] in RUNS]


def trajectory(tx: Any, problem: dict[str, Any]) -> np.ndarray:
    @jax.jit
    def step(carry: Any, noise: Any) -> Any:
        x, state = carry
        g = problem["left"] @ x["weight"] @ problem["right"] + problem["pull"] + noise
        updates, state = tx.update({"weight": g}, state, x)
        x = gdjax.apply_updates(x, updates)
        return (x, state), x["weight"]

    x = {"weight": problem["x0"]}
    return np.asarray(jax.lax.scan(step, (x, tx.init(x)), problem["noise"])[1])[KEPT - 1]


@pytest.mark.whole
@pytest.mark.parametrize("run, leaf", CASES)
def test_the_records_points(run: str, leaf: str):
    wanted = GOLDEN[f"{run}/{leaf}"]
    # SOAP's second moments do not turn in the record; ours do where a turn would lengthen an update.
    published = as_published() if run == "soap_muon" else contextlib.nullcontext()
    with oracles.precision("float64"), published:
        names = ("x0", "left", "right", "pull", "noise")
        problem = {k: jnp.asarray(GOLDEN[f"problem/{leaf}/{k}"], "float64") for k in names}
        got = trajectory(RUNS[run](wanted.shape[1:]), problem)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_every_run_is_there_and_moves():
    assert {run for run, _ in CASES} == set(RUNS)
    for run, leaf in CASES:
        assert np.abs(np.diff(GOLDEN[f"{run}/{leaf}"], axis=0)).max() > 1e-2
