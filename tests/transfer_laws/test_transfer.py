"""Tune small, train big: factors, where they stand, and what is refused."""

import inspect
import pickle
import re
import warnings
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gdjax
from tests.transfer_laws.models import BASE, DEEP, WIDE, V, changed, factors, flat
from tests.trees import assert_close, assert_equal

GRADS = jax.tree.map(lambda p: 0.3 * p - 0.1, WIDE)
ADAM = {"rate": {"out|qkv|up$|down|head": 0.25}, "eps": {"head": 1.0, ".*": 0.25}}


def trained(tx: Any, params: Any = WIDE, grads: Any = GRADS, number: int = 3) -> Any:
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(number):
        updates, state = update(jax.tree.map(lambda g, i=i: g * (i + 1), grads), state, params)
        params = gdjax.apply_updates(params, updates)
    return params


def by_role(embed: Any, matrix: Any, vector: Any, head: Any) -> dict[str, Any]:
    names = {"embed": embed, "gain": vector, "qkv": matrix, "out": matrix, "up": matrix, "up_bias": vector}
    return names | {"down": matrix, "head": head}


@pytest.mark.parametrize(
    ("tx", "embed", "matrix", "vector", "head"),
    [
        (gdjax.adam(0.1), (1, 1, 0.25, 1), (0.25, 1, 0.25, 0.5), (1, 1, 0.25, 1), (0.25, 1, 1, 0.25)),
        (gdjax.adamw(0.1), (1, 1, 0.25, 1), (0.25, 4, 0.25, 0.5), (1, 1, 0.25, 1), (0.25, 4, 1, 0.25)),
        (gdjax.lion(0.1), (1, 1, 1, 1), (0.25, 4, 1, 0.5), (1, 1, 1, 1), (0.25, 4, 1, 0.25)),
        (gdjax.sgd(0.1, momentum=0.9), (4, 1, 1, 1), (1, 1, 1, 0.5), (4, 1, 1, 1), (0.25, 1, 1, 0.25)),
        (gdjax.lamb(0.1), (1, 1, 0.25, 1), (0.5, 1, 0.25, 0.5), (1, 1, 0.25, 1), (1, 1, 1, 0.25)),
        (gdjax.adafactor(0.1), (1, 1, 1, 1), (0.5, 1, 1, 0.5), (1, 1, 1, 1), (1, 1, 1, 0.25)),
        (gdjax.novograd(0.1), (2, 0.5, 1, 1), (1, 1, 1, 0.5), (2, 0.5, 1, 1), (0.5, 2, 1, 0.25)),
        (
            gdjax.normuon(0.1, weight_decay=0.1), (1, 1, 0.25, 1), (0.25, 4, 1, 0.5), (1, 1, 0.25, 1),
            (0.25, 4, 1, 0.25),
        ),
    ],
    ids=["adam", "adamw", "lion", "sgd", "lamb", "adafactor", "novograd", "normuon"],
)  # fmt: skip
def test_factors_follow_from_roles_and_families(tx: Any, embed: Any, matrix: Any, vector: Any, head: Any):
    assert factors(tx) == by_role(embed, matrix, vector, head)


@pytest.mark.parametrize("method", [gdjax.soap, gdjax.kl_soap, gdjax.psgd_kron])
def test_kronecker_methods_grow_as_measured(method: Any):
    rates = {k: x[0] for k, x in factors(method(0.1, adam_learning_rate=0.01)).items()}
    assert rates == pytest.approx(by_role(1, 4**-0.88, 1, 0.25))
    (wide,) = gdjax.transfer_table(method(0.1), {"up": jnp.ones((8, 32))}, {"up": jnp.ones((8, 8))})
    (tall,) = gdjax.transfer_table(method(0.1), {"up": jnp.ones((32, 8))}, {"up": jnp.ones((8, 8))})
    assert (wide.rate, tall.rate) == pytest.approx((4 ** (0.5 - 0.44), 4 ** (-0.5 - 0.44)))


def test_the_start_of_a_preconditioner_grows_as_gradients_shrink():
    """PSGD's first update is precond_init_scale^2 times the gradient, whose numbers are those of 1 / outputs."""
    tx, base = gdjax.psgd_kron(0.1, precond_init_scale=3.0), {"up": jnp.ones((8, 4)), "head": jnp.ones((4, 3))}
    wide = {"up": jnp.ones((8, 16)), "head": jnp.ones((16, 3))}
    starts = lambda tx: [
        x for s in jax.tree.leaves(tx.init(wide), is_leaf=_is_psgd) if _is_psgd(s) for x in s.Q.values()
    ]
    for own, plain in zip(jax.tree.leaves(starts(gdjax.transfer(tx, base))), jax.tree.leaves(starts(tx)), strict=True):
        np.testing.assert_allclose(own, plain * 4**0.25, rtol=1e-6)
    assert_equal(gdjax.transfer(tx, base).init(base), tx.init(base))


def _is_psgd(x: Any) -> bool:
    return type(x).__name__ == "PSGDKronState"


def _mlp(n: int, seed: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = {"up": (16, n, 0.25), "w": (n, n, (2 / n) ** 0.5), "head": (n, 4, 1 / n)}
    weights = {k: s * jax.random.normal(key, (i, o)) for key, (k, (i, o, s)) in zip(keys, sizes.items(), strict=True)}

    def loss(p: Any, batch: Any) -> Any:
        scores = jax.nn.relu(jax.nn.relu(batch[0] @ p["up"]) @ p["w"]) @ p["head"]
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(scores) * batch[1], 1))

    return loss, weights


def _moves(tx: Any, widths: tuple[int, ...], steps: tuple[int, ...]) -> dict[str, float]:
    """The exponent farthest from 0 of how far each leaf moves, by width."""
    rng = np.random.default_rng(0)
    x, teacher = rng.normal(size=(4, 64, 16)).astype(np.float32), rng.normal(size=(16, 4))
    data = [(a, np.eye(4, dtype=np.float32)[np.argmax(a @ teacher, 1)]) for a in x]
    own = gdjax.transfer(tx, _mlp(widths[0], 0)[1])
    check = gdjax.check_transfer(_mlp, own, widths, steps=steps, seeds=1, data=data)
    return {r["leaf"]: max((r[f"after {t}"] for t in steps), key=abs) for r in map(dict, check.table)}


@pytest.mark.slow
def test_psgd_moves_as_far_at_two_widths():
    """It was -0.9 for the first matrix and -0.7 for the others, since the start of Q did not grow."""
    found = _moves(gdjax.psgd_kron(2**-9), (32, 128), (3,))
    assert max(map(abs, found.values())) <= 0.35, found


@pytest.mark.slow
@pytest.mark.parametrize(("method", "limit"), [("soap", 0.3), ("kl_soap", 0.3), ("psgd_kron", 0.4), ("adamw", 0.15)])
def test_how_far_leaves_move_is_the_same_at_every_width(method: str, limit: float):
    found = _moves(getattr(gdjax, method)(2**-9), (64, 128, 256), (2, 10))
    assert max(map(abs, found.values())) <= limit, found


def test_muon_transfers_by_shape():
    roles = gdjax.matrices_by_role()
    tx = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=roles)
    assert {k: x[0] for k, x in factors(tx).items()} == by_role(1, 1, 1, 0.25)
    taller = {"a": jnp.ones((4, 4)), "head": jnp.ones((4, 2))}, {"a": jnp.ones((4, 16)), "head": jnp.ones((4, 2))}
    for rms, factor in [(None, 1.0), (0.2, 1.0)]:  # sqrt(16 / 4) is in the update, and sqrt(outputs / 4)
        tx = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=roles, consistent_rms=rms)
        row, *_ = gdjax.transfer_table(tx, taller[1], taller[0])
        assert row.rate == pytest.approx(factor)
        wide, narrow = {"a": jnp.ones((16, 4)), "head": jnp.ones((4, 2))}, taller[0]
        row, *_ = gdjax.transfer_table(tx, wide, narrow)
        assert row.rate == pytest.approx(0.5 if rms is None else 0.25)


@pytest.mark.parametrize(("inner", "factor"), [(gdjax.normuon(0.1), 1.0), (gdjax.adamw(0.1), 0.5)])
def test_hyperball_takes_the_direction_alone(inner: Any, factor: float):
    """Measured: the exponent of how far hidden matrices move by the width is 0.03 to 0.12 and 0.38 to 0.45."""
    found = factors(gdjax.hyperball(inner, 0.1))
    assert (found["up"][0], found["head"][0], found["embed"][0]) == (pytest.approx(factor), 1.0, 1.0)


@pytest.mark.full
def test_the_numbers_are_those_of_per_leaf():
    rate, decay = gdjax.linear_schedule(0.1, 0.02, 7), {"out|qkv|up$|down|head": 4.0}
    tx = gdjax.adamw(rate, eps=1e-2, weight_decay=0.1)
    by_hand = gdjax.adamw(
        gdjax.per_leaf(rate, ADAM["rate"]), eps=gdjax.per_leaf(1e-2, ADAM["eps"]),
        weight_decay=gdjax.per_leaf(0.1, decay),
    )  # fmt: skip
    assert_equal(trained(gdjax.transfer(tx, BASE)), trained(by_hand))


LABELS = gdjax.label_by_path({"gain": "b", ".*": "a"})
WRAPPED = {
    "chain": lambda tx: gdjax.chain(gdjax.clip_by_global_norm(1.0), tx),
    "named_chain": lambda tx: gdjax.named_chain(("clip", gdjax.clip(1.0)), ("own", tx)),
    "MultiSteps": lambda tx: gdjax.MultiSteps(tx, 1),
    "accumulate": lambda tx: gdjax.accumulate(tx, 2),
    "apply_if_finite": lambda tx: gdjax.apply_if_finite(tx, 3),
    "cautious": gdjax.cautious,
    "quantize_state": gdjax.quantize_state,
    "masters": gdjax.with_master_weights,
    "metrics": gdjax.with_metrics,
    "params_ema": lambda tx: gdjax.params_ema(tx, 0.9),
    "schedule_free": lambda tx: gdjax.contrib.schedule_free(tx, 0.1),
    "frozen": lambda tx: gdjax.chain(tx, gdjax.freeze(gdjax.mask_by_path("gain"))),
    "partition": lambda tx: gdjax.partition({"a": tx, "b": gdjax.sgd(0.1)}, LABELS),
    "again": lambda tx: gdjax.for_batch(tx, 2, 2),
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("name", WRAPPED)
def test_it_goes_through_what_is_around(name: str):
    around = WRAPPED[name](gdjax.adamw(0.1))
    tx = gdjax.transfer(around, BASE)
    assert factors(around)["up"] == (0.25, 4.0, 0.25, 0.5)
    assert jax.tree.structure(tx.init(WIDE)) == jax.tree.structure(around.init(WIDE))
    by_hand = WRAPPED[name](
        gdjax.adamw(gdjax.per_leaf(0.1, ADAM["rate"]), eps=gdjax.per_leaf(1e-8, ADAM["eps"]),
        weight_decay=gdjax.per_leaf(1e-4, {"out|qkv|up$|down|head": 4.0}))
    )  # fmt: skip
    own, other = trained(tx), trained(by_hand)
    if name == "partition":  # SGD's rates are for its leaf alone
        pick = lambda tree: [tree["blocks"][0]["mlp"]["up"], tree["head"], tree["embed"]]
        own, other = pick(own), pick(other)
    assert_close(own, other, rtol=1e-6)


def test_inside_of_a_group():
    """The same factors as around the groups: the base shows the roles of all leaves."""
    labels = gdjax.label_by_path({"embed|gain|bias": "rest", ".*": "matrices"})
    group = lambda tx: gdjax.partition({"rest": gdjax.sgd(0.0), "matrices": tx}, labels)
    own = trained(group(gdjax.transfer(gdjax.adamw(0.1), BASE)))
    assert_close(own["head"], trained(gdjax.transfer(gdjax.adamw(0.1), BASE))["head"], rtol=1e-6)
    assert_equal(own["embed"], WIDE["embed"])


def test_injected_hyperparameters_stay_in_the_state():
    tx = gdjax.transfer(gdjax.inject_hyperparams(gdjax.adamw)(0.1), BASE)
    state = tx.init(WIDE)
    state.hyperparams["learning_rate"] = jnp.asarray(0.2)
    updates, _ = tx.update(GRADS, state, WIDE)
    other = gdjax.transfer(gdjax.adamw(0.2), BASE)
    assert_close(updates, other.update(GRADS, other.init(WIDE), WIDE)[0], rtol=1e-6)


TUNED = {
    "adamw": gdjax.adamw(0.1), "lamb": gdjax.lamb(0.1), "sgd": gdjax.sgd(gdjax.linear_schedule(0.1, 0.0, 9)),
    "transformer": gdjax.transformer_optimizer(0.1, steps=9),
    "muon": gdjax.muon(0.1, adam_learning_rate=0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role()),
}  # fmt: skip


@pytest.mark.parametrize("name", TUNED)
def test_the_base_itself_has_the_same_program(name: str):
    def compiled(tx: Any) -> str:
        grads, state = jax.tree.map(jnp.ones_like, BASE), tx.init(BASE)
        text = jax.jit(tx.update).lower(grads, state, BASE).compile().as_text()
        return re.sub(r"metadata=\{[^}]*\}", "", text).partition("FileNames")[0]

    tx = gdjax.transfer(TUNED[name], BASE)
    assert all(set(row[4:8]) == {1.0} for row in gdjax.transfer_table(TUNED[name], BASE, BASE))
    assert compiled(tx) == compiled(TUNED[name])


def test_it_is_a_value():
    make = lambda: gdjax.transfer(gdjax.adamw(0.1), jax.eval_shape(lambda: BASE), depth="fold")
    tx = make()
    assert tx == make() != gdjax.transfer(gdjax.adamw(0.2), jax.eval_shape(lambda: BASE), depth="fold")
    assert pickle.loads(pickle.dumps(tx)) == tx
    assert repr(tx).startswith("transfer(tx=adamw(")


def test_a_factor_is_one_of_the_forward_pass():
    """(start x c, rate x c, eps / c) is a factor c of the forward pass, over 20 steps of Adam."""
    x, y, c = jnp.linspace(-1, 1, 12).reshape(4, 3), jnp.linspace(0, 1, 8).reshape(4, 2), 0.25
    start = jnp.linspace(-2, 2, 6).reshape(3, 2)

    def run(tx: Any, w: Any, factor: float) -> Any:
        state = tx.init(w)
        for _ in range(20):
            g = jax.grad(lambda w: jnp.mean((jnp.tanh(x @ (factor * w)) - y) ** 2))(w)
            updates, state = tx.update(g, state, w)
            w = gdjax.apply_updates(w, updates)
        return factor * w

    own = run(gdjax.adam(0.1 * c, eps=1e-3 / c), c * start, 1.0)
    np.testing.assert_allclose(own, run(gdjax.adam(0.1, eps=1e-3), start, c), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stacked", [False, True])
def test_more_layers(stacked: bool):
    stack = lambda tree: tree | {"blocks": jax.tree.map(lambda *xs: jnp.stack(xs), *tree["blocks"])}
    base, deep = (stack(BASE), stack(DEEP)) if stacked else (BASE, DEEP)
    of = lambda tx, depth: factors(tx, deep, base, depth=depth)
    fold = of(gdjax.adamw(0.1), "fold")
    assert fold["down"] == fold["out"] == (1 / 16, 16, 0.25, 1 / 8)
    assert fold["up"] == fold["qkv"] == (0.25, 4, 1 / 16, 0.5)
    assert fold["head"] == (0.25, 4, 1, 0.25)
    assert of(gdjax.adamw(0.1), "down|out") == fold
    forward = of(gdjax.adamw(0.1), "forward")
    assert forward["down"] == forward["up"] == (0.25, 4, 1 / 16, 0.5)
    sgd = of(gdjax.sgd(0.1), "fold")
    assert (sgd["up"][0], sgd["down"][0]) == (4.0, 0.25)
    with pytest.raises(ValueError, match=r"4 times the layers of the base with blocks.*say depth='fold'"):
        gdjax.transfer(gdjax.adamw(0.1), base).init(deep)


def test_the_bias_of_the_last_matrix_goes_with_it():
    found = factors(gdjax.adamw(0.1), flat(16, 6), flat(16, 2), depth="fold")
    assert found["w2"] == found["b2"] == found["attn_out"] == pytest.approx((1 / 3, 3, 1, 1 / 3))
    assert found["w1"] == found["b1"] == found["qkv"] == pytest.approx((1, 1, 1 / 3, 1))


@pytest.mark.full
def test_folding_is_a_factor_of_the_branches():
    """Adam's steps with fold are those of a model that multiplies each branch by 1 / layers, biases too."""

    def run(tx: Any, params: Any, factor: float) -> list[float]:
        x, state, losses = jnp.linspace(-1, 1, 12).reshape(4, 3), tx.init(params), []

        def loss(p: Any) -> Any:
            h = x @ p["embed"]
            for i in range(4):
                up, bias, down, b2 = (p["layers"][k][i] for k in ("w1", "b1", "w2", "b2"))
                h = h + factor * (jnp.tanh(h @ up + bias[None]) @ down + b2[None])
            return jnp.mean((h @ p["head"] - 1) ** 2)

        for _ in range(8):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            params = gdjax.apply_updates(params, updates)
            losses.append(float(value))
        return losses

    def params(layers: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(0), 6))
        draw = lambda *shape: 0.3 * jax.random.normal(next(keys), shape)
        stack = {"w1": draw(layers, 8, 16), "b1": draw(layers, 16), "w2": draw(layers, 16, 8), "b2": draw(layers, 8)}
        return {"embed": draw(3, 8), "layers": stack, "head": draw(8, 2)}

    base, deep, tx = params(2), params(4), gdjax.adamw(0.01, eps=1e-3, weight_decay=0.1)
    fold = run(gdjax.transfer(tx, base, depth="fold"), gdjax.transfer_init(deep, base, depth="fold"), 1.0)
    forward = run(gdjax.transfer(tx, base, depth="forward"), deep, 0.5)
    np.testing.assert_allclose(fold, forward, rtol=2e-5)
    assert abs(fold[-1] - run(tx, deep, 1.0)[-1]) > 1e-3


def test_slips():
    base = flat(16, 2)
    for depth in ("Fold", "nothing"):
        with pytest.raises(ValueError, match=rf"depth='{depth}' is neither 'fold' nor 'forward', and matches none of"):
            gdjax.transfer(gdjax.adam(0.1), base, depth=depth)
    less = changed(base, layers=changed(base["layers"], b2=None))
    with pytest.raises(ValueError, match=r"params has layers/b2, the base has embed"):
        gdjax.transfer(gdjax.adam(0.1), less, depth="fold").init(flat(16, 6))
    with pytest.raises(ValueError, match="the optimizer is transferred already"):
        gdjax.transfer(gdjax.transfer(gdjax.adam(0.1), base), base)
    stack = lambda n: changed(flat(16, n)["layers"], attn_out=None, a=jnp.ones((n, 16, 16)))
    other = lambda n: changed(flat(16, n), layers=stack(n))
    with pytest.raises(ValueError, match=r"last matrices of the 2 residual branches with layers/a"):
        gdjax.transfer(gdjax.adam(0.1), other(2), depth="fold").init(other(6))
    tied = lambda n: changed(flat(n, 2), head=None)
    with pytest.raises(ValueError, match=r"not the inputs of its head embed, from \(32, 16\) to \(32, 64\)"):
        gdjax.transfer(gdjax.adam(0.1), tied(16), roles={"embed": "head"}).init(tied(64))
    with pytest.raises(ValueError, match="growth is 'sign'; there are gradient, elementwise"):
        gdjax.leafwise(growth="sign")(_of_a_user)


@pytest.mark.parametrize("grown", [2, 3])
def test_experts_fused_and_divided_matrices_have_the_plain_tree_s_factors(grown: int):
    def tree(n: int) -> Any:
        block = {"q_proj": jnp.ones((n, n // 2, 2)), "qkv": jnp.ones((n, 3, n // 2, 2)), "experts": jnp.ones((5, n, n))}
        return {"embed": jnp.ones((9, n)), "block": block, "head": jnp.ones((n, 9))}

    found = factors(gdjax.adamw(0.1), tree(16 * grown), tree(16))
    assert found["q_proj"] == found["qkv"] == found["experts"] == (1 / grown, grown, 1 / grown, grown**-0.5)


@pytest.mark.full
def test_frameworks_have_the_plain_tree_s_factors():
    class Nnx(nnx.Module):
        def __init__(self, n: int):
            self.embed = nnx.Embed(V, n, rngs=nnx.Rngs(0))
            self.hidden = nnx.Linear(n, n, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(n, V, rngs=nnx.Rngs(0))

    class Linen(nn.Module):
        n: int

        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Dense(self.n, name="hidden")(nn.Embed(V, self.n, name="embed")(x))
            return nn.Dense(V, name="head")(x)

    class Equinox(eqx.Module):
        embed: Any
        hidden: Any
        head: Any

        def __init__(self, n: int):
            self.embed = eqx.nn.Embedding(V, n, key=jax.random.key(0))
            self.hidden = eqx.nn.Linear(n, n, key=jax.random.key(0))
            self.head = eqx.nn.Linear(n, V, key=jax.random.key(0))

    def params(n: int) -> list[Any]:
        linen = Linen(n).init(jax.random.key(0), jnp.zeros(1, jnp.int32))
        return [nnx.state(Nnx(n), nnx.Param), linen, eqx.filter(Equinox(n), eqx.is_inexact_array)]

    tx = gdjax.adamw(0.1)
    tables = [gdjax.transfer_table(tx, wide, base) for wide, base in zip(params(32), params(8), strict=True)]
    kernel = re.compile("kernel|weight|embedding")
    named = [{kernel.sub("w", r.path.removeprefix("params/").replace("/", ".")): r[4:8] for r in t} for t in tables]
    assert named[0] == named[1] == named[2]
    assert named[0]["hidden.w"] == (0.25, 4.0, 0.25, 0.5)
    assert named[0]["head.w"] == (0.25, 4.0, 1.0, 0.25)
    assert named[0]["embed.w"] == named[0]["hidden.bias"] == (1.0, 1.0, 0.25, 1.0)
    for wide, base in zip(params(32), params(8), strict=True):
        own = gdjax.transfer(tx, base)
        updates, _ = own.update(wide, own.init(wide), wide)
        assert jax.tree.structure(updates) == jax.tree.structure(wide)


def test_explain_shows_the_rates():
    table = gdjax.explain(gdjax.transfer(gdjax.adamw(0.5, weight_decay=0.25), BASE), WIDE)
    rows = {r.path: r for r in table}
    assert (rows["head"].rate, rows["head"].decay, rows["embed"].rate) == (0.125, 1.0, 0.5)
    assert rows["head"].steps == "adam, decay, rate"
    assert table.warnings == ()


@pytest.mark.parametrize(
    ("law", "matrix", "head"), [("fan_in", 1.0, 0.5), ("constant", 0.5, 0.25), ("measured", 0.5, 0.25)]
)
def test_starts(law: Any, matrix: float, head: float):
    base = {"w": jnp.full((4, 4), 2.0), "head": jnp.full((4, 9), 2.0), "zeros": {"head": jnp.zeros((4, 9))}}
    wide = {"w": jnp.full((16, 16), 2.0), "head": jnp.full((16, 9), 2.0), "zeros": {"head": jnp.zeros((16, 9))}}
    found = gdjax.transfer_init(wide, base, law=law)
    assert (found["w"][0, 0], found["head"][0, 0]) == (2 * matrix, 2 * head)
    assert not found["zeros"]["head"].any()


def test_a_measured_start_needs_arrays():
    with pytest.raises(ValueError, match=r"law='measured' compares with the arrays of base, and .* is a shape there"):
        gdjax.transfer_init(WIDE, jax.eval_shape(lambda: BASE), law="measured")


@gdjax.leafwise()
def _of_a_user(g: Any, s: Any, p: Any, t: Any):
    return jnp.sign(g), s


@gdjax.leafwise(growth="elementwise")
def _known(g: Any, s: Any, p: Any, t: Any):
    return jnp.sign(g), s


def test_an_average_of_squares_that_starts_high_has_no_law():
    assert factors(gdjax.adagrad(0.1, initial_accumulator_value=0.0))["up"] == (0.25, 1, 0.25, 0.5)
    for tx in (gdjax.adagrad(0.1), gdjax.yogi(0.1), gdjax.shampoo(0.1, grafting="sgd")):
        with pytest.raises(ValueError, match="does not say how its updates"):
            gdjax.transfer(tx, BASE)
    assert factors(gdjax.shampoo(0.1))["up"] == (0.25, 4, 1, 0.5)  # its eps is that of the roots


def test_a_router_is_like_a_head():
    experts = lambda n: {"router": {"kernel": jnp.ones((n, 8))}, "experts": jnp.ones((8, n, n))}
    base, wide = BASE | {"moe": experts(4)}, WIDE | {"moe": experts(16)}
    found = {r.path: (r.role, r.rate, r.eps, r.start) for r in gdjax.transfer_table(gdjax.adam(0.1), wide, base)}
    assert found["moe/router/kernel"] == ("router", 0.25, 1.0, 0.25)


def test_what_comes_before_the_direction():
    """The gradient of an L2 penalty stays as it is, and so does an eps beside what is not the gradient."""
    penalty = gdjax.chain(gdjax.add_decayed_weights(0.1), gdjax.adam(0.1))
    assert factors(penalty)["up"] == factors(gdjax.adam(0.1))["up"] == (0.25, 1, 0.25, 0.5)
    signs = gdjax.chain(gdjax.scale_by_sign(), gdjax.adam(0.1))
    assert factors(signs)["up"] == (0.25, 1, 1, 0.5)


def test_a_rule_that_does_not_say_how_it_grows():
    unknown, known = (gdjax.chain(f(), gdjax.scale_by_learning_rate(0.1)) for f in (_of_a_user, _known))
    with pytest.raises(ValueError, match=r'_of_a_user does not say .* leafwise\(..., growth="elementwise"\)'):
        gdjax.transfer(unknown, BASE)
    assert factors(known)["up"] == (0.25, 1, 1, 0.5)
    with pytest.raises(ValueError, match="goes through optax.chain, which hides its numbers"):
        gdjax.transfer(optax.adam(1e-3), BASE)
    with pytest.raises(ValueError, match=r"goes through scale_by_adam, where no learning rate is"):
        gdjax.transfer(gdjax.scale_by_adam(), BASE)
    with pytest.raises(ValueError, match="base is None"):
        gdjax.transfer(gdjax.adam(0.1), None)


def public_optimizers() -> list[str]:
    return [name for name in gdjax.__all__ if inspect.isfunction(getattr(gdjax, name)) and _is_one(name)]


def _is_one(name: str) -> bool:
    try:
        first = next(iter(inspect.signature(getattr(gdjax, name)).parameters), "")
    except (TypeError, ValueError):
        return False
    return first == "learning_rate"


TRANSFERRED = (
    "acprop adabelief adafactor adam adam_atan2 adam_mini adamax adamaxw adamc adamw adan adana ademamix adopt "
    "amsgrad came dion dion2 kl_soap lamb laprop lars lion muon nadam nadamw normuon novograd optimistic_adam "
    "optimistic_adam_v2 optimistic_gradient_descent perturbed_gradient_descent psgd_kron radam rmsprop "
    "scale_by_learning_rate schedule_free_adamw schedule_free_sgd scion sgd shampoo sign_sgd signum "
    "simplified_ademamix sm3 soap soap_muon stable_adamw transformer_optimizer"
).split()


@pytest.mark.parametrize("name", public_optimizers())
def test_every_optimizer_transfers_or_says_why_not(name: str):
    noise = {"data_size": 1.0, "key": 0}
    more = {
        "transformer_optimizer": {"steps": 9},
        "noisy_sgd": {"key": 0},
        "psgld": noise,
        "sghmc": noise,
        "sgld": noise,
    }
    more["dpsgd"] = {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "key": 0}
    tx = getattr(gdjax, name)(0.1, **more.get(name, {}))
    with warnings.catch_warnings(action="ignore"):  # Muon's, of a rate that is not for Adam
        if name in TRANSFERRED:
            gdjax.transfer(tx, BASE).init(WIDE)
            assert len(gdjax.transfer_table(tx, WIDE, BASE)) == len(jax.tree.leaves(WIDE))
        else:
            with pytest.raises(ValueError, match="does not say how its updates"):
                gdjax.transfer(tx, BASE)


def test_a_wrapper_written_by_hand_may_do_anything():
    @gdjax.transform
    def aside(inner: Any) -> gdjax.GradientTransformation:
        return gdjax.GradientTransformation(inner.init, lambda g, s, p=None: inner.update(g, s, p))

    with pytest.raises(ValueError, match="aside does not say how its updates of blocks/0/attn/gain grow"):
        gdjax.transfer(aside(gdjax.adam(0.1)), BASE)


def test_heads_of_two_sizes_in_one_optimizer_are_refused():
    each = [gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role(per_head=n)) for n in (2, 4)]
    with pytest.raises(ValueError, match=r"heads are matrices of several sizes, per_head=\[2, 4\]"):
        gdjax.transfer(gdjax.partition({"a": each[0], "b": each[1]}, lambda tree: "a"), BASE)
