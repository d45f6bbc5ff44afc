"""The points that the authors' Muon, NorMuon, Scion, Dion and Dion2 visit, from `golden/matrix.npz`.

`golden/matrix_notes.md` says how they were made. Their matrices are (outputs, inputs).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg.matrices import Matrix

with np.load(Path(__file__).parent / "matrix.npz") as file:
    GOLDEN = dict(file)
KEPT = GOLDEN["kept"]
LINEAR = Matrix(1, 0)
AXES = gdjax.MuonDimensionNumbers(1, 0)
JORDAN = {"ns_coeffs": "jordan", "eps": 1e-7}

# The table of docs/muon.md.
DIALECTS = {
    "jordan": lambda lr, **k: gdjax.muon(lr, eps=1e-7, bias_correction=False, **k),
    "moonlight": lambda lr, **k: gdjax.muon(lr, eps=1e-7, bias_correction=False, consistent_rms=0.2, **k),
}


def muon(dialect="jordan", **settings):
    return DIALECTS[dialect](0.02, **settings, muon_weight_dimension_numbers=AXES)


# Polar Express as in pytorch_optimizer, with the safety factor in the coefficients alone.
CUSHIONED = (
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
)
# That of microsoft/dion, for five steps, with 1.02 times the norm.
DIONS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
DIONS = (tuple(x / 1.02**k for x, k in zip(DIONS[0], (1, 3, 5), strict=True)), *DIONS[1:])


def normuon(b1=0.95, b2=0.95, consistent_rms=None, **settings):
    return gdjax.normuon(0.02, b1, b2, **JORDAN, consistent_rms=consistent_rms, roles=LINEAR, **settings)


def scion(norm, radius=1.0, alpha=0.1, constrained=True):
    return gdjax.chain(
        gdjax.scale_by_scion(norm, alpha, eps=1e-7, roles=LINEAR),
        gdjax.scale(radius),
        gdjax.add_decayed_weights(1.0 if constrained else 0.0),
        gdjax.scale_by_learning_rate(0.01),
    )


def dion2_in_rms(shape):
    """With torch's factor 0.2 sqrt(max(rows, columns)) on the rate, but not on the decay."""
    factor = 0.2 * max(shape) ** 0.5 / (shape[0] / shape[1]) ** 0.5
    return gdjax.dion2(0.02 * factor, 0.5, eps=1e-6, ns_coeffs=DIONS, weight_decay=0.1 / factor, roles=LINEAR)


RUNS = {
    "muon/torch_original": lambda shape: muon(),
    "muon/torch_original_plain": lambda shape: muon(nesterov=False),
    "muon/torch_match_rms_adamw": lambda shape: muon("moonlight", weight_decay=0.1),
    "muon/torch_match_rms_adamw_plain": lambda shape: muon("moonlight", nesterov=False, beta=0.9),
    "muon/jordan": lambda shape: muon(weight_decay=0.1),
    "muon/pytorch_optimizer_moonlight": lambda shape: muon("moonlight", weight_decay=0.1),
    "muon/pytorch_optimizer_polar_express": lambda shape: muon(ns_coeffs=CUSHIONED[:5]),
    "muon/pytorch_optimizer_polar_express_8": lambda shape: muon(ns_coeffs=CUSHIONED, ns_steps=8),
    "muon/pytorch_optimizer_quintic": lambda shape: muon(ns_coeffs="dion"),
    "muon/dion_rms_norm": lambda shape: muon("moonlight", weight_decay=0.1),
    "normuon/authors": lambda shape: normuon(),
    "normuon/authors_decay": lambda shape: normuon(0.9, 0.8, weight_decay=0.1),
    "normuon/pytorch_optimizer_match_rms": lambda shape: normuon(consistent_rms=0.2, weight_decay=0.1),
    "scion/authors_spectral": lambda shape: scion("spectral", 3.0),
    "scion/authors_spectral_free": lambda shape: scion("spectral", 3.0, constrained=False),
    "scion/authors_spectral_plain": lambda shape: scion("spectral", alpha=1.0),
    "scion/authors_sign": lambda shape: scion("sign", 3.0),
    "scion/authors_sign_unnormalized_free": lambda shape: scion("embedding_sign", constrained=False),
    "scion/authors_row": lambda shape: scion("row", 3.0),
    "scion/authors_col_transpose": lambda shape: scion("embedding_col"),
    "scion/authors_auto": lambda shape: scion("rms" if len(shape) == 1 else "spectral", 3.0),
    "dion/authors_full": lambda shape: gdjax.dion(0.02, roles=LINEAR),
    "dion/authors_half": lambda shape: gdjax.dion(0.02, rank_fraction=0.5, roles=LINEAR),
    "dion/authors_half_decay": lambda shape: gdjax.dion(0.02, rank_fraction=0.5, weight_decay=0.1, roles=LINEAR),
    "dion2/authors_full": lambda shape: gdjax.dion2(0.02, 1.0, eps=1e-6, ns_coeffs=DIONS, roles=LINEAR),
    "dion2/authors_half": dion2_in_rms,
}
CASES = [tuple(key.rsplit("/", 1)) for key in GOLDEN if key.rsplit("/", 1)[0] in RUNS and ":" not in key]


def trajectory(tx, leaf, start):
    """The points after the steps that are kept."""
    p = {k: jnp.asarray(GOLDEN[f"problem/{leaf}/{k}"]) for k in ("x0", "left", "pull", "noise")}
    right = jnp.asarray(GOLDEN[f"problem/{leaf}/right"]) if f"problem/{leaf}/right" in GOLDEN else None

    @jax.jit
    def step(carry, noise):
        x, state = carry
        g = p["left"] @ x["weight"]
        g = (g if right is None else g @ right) + p["pull"] + noise
        updates, state = tx.update({"weight": g}, state, x)
        x = gdjax.apply_updates(x, updates)
        return (x, state), x["weight"]

    x = {"weight": p["x0"]}
    points = jax.lax.scan(step, (x, start(tx.init(x))), p["noise"])[1]
    return np.asarray(points)[KEPT - 1]


# A square matrix is on neither side what a tall and a wide one are: `make test` has those two.
@pytest.mark.parametrize("run, leaf", [pytest.param(*x, marks=[pytest.mark.slow] * (x[1] == "square")) for x in CASES])
def test_the_authors_points(run, leaf):
    noise = GOLDEN.get(f"{run}/{leaf}:Q0")

    def start(state):
        if noise is not None:
            q = gdjax.tree.get(state, "Q")["weight"]
            assert q[0][0].shape == noise.shape
            state = gdjax.tree.set(state, Q={"weight": [jnp.asarray(noise)[None]]})
        return state

    wanted = GOLDEN[f"{run}/{leaf}"]
    got = trajectory(RUNS[run](wanted.shape[1:]), leaf, start)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)
