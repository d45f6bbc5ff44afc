"""The factors of `transfer` on a GPT are those of mup and nanoGPT-mup, bit for bit, from `golden/transfer.json`.

Both give the logits a factor c in the forward pass, which no optimizer can. That is the same as a head that starts at c
times its weights and, under Adam, has c times the rate, 1 / c times the decay and the eps; under SGD c^2 times the
rate, 1 / c^2 times the decay. So are the factors compared here.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

GOLDEN = json.loads((Path(__file__).parent / "transfer.json").read_text("utf-8"))
SIZES = GOLDEN["sizes"]
ADAMW = gdjax.adamw(1e-3, weight_decay=0.1)
SGD = gdjax.chain(gdjax.add_decayed_weights(0.1), gdjax.sgd(0.1))
widths = pytest.mark.parametrize("width", [x for x in GOLDEN if x.isdigit()])


def gpt(m, layers=SIZES["layers"], head=True):
    """The shapes of nanoGPT, by its names."""
    n = m * SIZES["base"]
    linear = lambda inputs, outputs: {"weight": (outputs, inputs), "bias": (outputs,)}
    norm = {"weight": (n,), "bias": (n,)}
    attention = {"c_attn": linear(n, 3 * n), "c_proj": linear(n, n)}
    mlp = {"c_fc": linear(n, 4 * n), "c_proj": linear(4 * n, n)}
    block = {"ln_1": norm, "attn": attention, "ln_2": norm, "mlp": mlp}
    table = {"wte": {"weight": (SIZES["vocabulary"], n)}, "wpe": {"weight": (SIZES["length"], n)}}
    tree = {"transformer": {**table, "h": [block] * layers, "ln_f": norm}}
    tree |= {"lm_head": {"weight": (SIZES["vocabulary"], n)}} if head else {}
    leaf = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, "float32"), tree, is_leaf=leaf)


def rows(tx, params, base, **more):
    """By the names in the file the rows of the first layer and of what is no layer; all layers are alike."""
    found = {}
    for row in gdjax.transfer_table(tx, params, base, **more):
        path = row.path.replace("/", ".")
        if ".h." in path:
            number = path.split(".")[2]
            path = path.replace(f".h.{number}.", ".h.0.")
        numbers = (row.rate, row.decay, row.eps, row.start)
        assert found.setdefault(path, numbers) == numbers
    return found


@widths
@pytest.mark.parametrize("method", ["adamw", "sgd"])
def test_mup(width, method):
    golden, power = GOLDEN[width]["mup"], {"adamw": 1, "sgd": 2}[method]
    found = rows({"adamw": ADAMW, "sgd": SGD}[method], gpt(int(width)), gpt(1))
    assert found.keys() == golden[method].keys() == golden["start"].keys()
    for path, (rate, decay, _, start) in found.items():
        c = golden["logits"] if path == "lm_head.weight" else 1.0
        wanted = golden[method][path]
        assert (rate, start) == (wanted["rate"] * c**power, golden["start"][path] * c), path
        np.testing.assert_allclose(decay, wanted["decay"] / c**power, rtol=1e-15)


@widths
@pytest.mark.parametrize("deeper", [1, 2])
def test_nanogpt_mup(width, deeper):
    """Its embedding is the head as well, and has a factor of the logits for that: ours is told to be an embedding."""
    golden = GOLDEN[width][{1: "nanogpt", 2: "nanogpt, twice as deep"}[deeper]]
    assert golden["branch"] == 1 / deeper and golden["logits"] == 1 / int(width)
    base, params = gpt(1, head=False), gpt(int(width), deeper * SIZES["layers"], head=False)
    found = rows(ADAMW, params, base, roles={"w[tp]e": "embedding"}, depth="forward")
    assert found.keys() == golden["adamw"].keys()
    for path, (rate, decay, eps, start) in found.items():
        wanted = golden["adamw"][path]
        assert (rate, start) == (wanted["rate"], pytest.approx(wanted["start"], rel=3e-16)), path
        assert wanted["decay"] in (None, decay), path
        # Outside of the layers it has the eps of those inside, which its main branch has mended.
        assert eps * (1 if ".h." in path else 1 / deeper) == pytest.approx(wanted["eps"], rel=3e-16), path


@pytest.mark.full
def test_a_factor_of_the_logits_is_one_of_start_rate_decay_and_eps():
    """What the comparison above rests on."""
    c, (lr, eps, decay) = 0.25, (0.01, 1e-3, 0.1)
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(key, (32, 8)) for key in keys[:2])
    start = jax.random.normal(keys[2], (8, 8))

    def run(tx, w, factor):
        state = tx.init(w)
        for _ in range(20):
            g = jax.grad(lambda w: jnp.mean((factor * (x @ w) - y) ** 2))(w)
            updates, state = tx.update(g, state, w)
            w = gdjax.apply_updates(w, updates)
        return w

    adam = run(gdjax.adamw(lr, eps=eps, weight_decay=decay), start, c)
    same = run(gdjax.adamw(c * lr, eps=eps / c, weight_decay=decay / c), c * start, 1.0)
    np.testing.assert_allclose(c * adam, same, rtol=1e-6, atol=1e-6)
    sgd = run(gdjax.chain(gdjax.add_decayed_weights(decay), gdjax.sgd(lr)), start, c)
    same = run(gdjax.chain(gdjax.add_decayed_weights(decay / c**2), gdjax.sgd(c**2 * lr)), c * start, 1.0)
    np.testing.assert_allclose(c * sgd, same, rtol=1e-6, atol=1e-6)
