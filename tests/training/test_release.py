"""`gradient_release` against `jax.value_and_grad`, `update` and `apply_updates`; what it refuses; what it takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import gdjax
from gdjax.codes.rounding import salt, uniform
from gdjax.lift import probe
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, signature

LAYERS, WIDTH = 3, 4
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 2)).astype(np.float32), RNG.normal(size=(8, 1)).astype(np.float32)


def start(dtype: Any = jnp.float32) -> Any:
    def normal(*shape: int) -> Any:
        return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape) * 0.5, dtype)

    layers = {"a": normal(LAYERS, WIDTH, WIDTH), "b": normal(LAYERS, WIDTH), "number": jnp.arange(LAYERS)}
    return {"embed": normal(2, WIDTH), "layers": layers, "head": {"w": normal(WIDTH, 1)}}


def before(p: Any, x: Any, y: Any) -> Any:
    return {"h": x @ p["embed"], "seen": jnp.zeros((), jnp.int32)}


def layer(w: Any, x: Any, *_: Any) -> Any:
    h = jnp.tanh(x["h"] @ w["a"] + w["b"][None])
    return {"h": h * (1 + w["number"]).astype(h.dtype), "seen": x["seen"] + 1}


def after(p: Any, x: Any, inputs: Any, y: Any) -> Any:
    h = x["h"] @ p["head"]["w"] + jnp.sum(p["embed"])  # the embedding once more
    return jnp.mean((h - y) ** 2), x["seen"]


def plain(tx: Any, params: Any, state: Any, x: Any, y: Any) -> Any:
    def loss(p: Any) -> Any:
        h = jax.lax.scan(lambda h, w: (layer(w, h), None), before(p, x, y), p["layers"])[0]
        return after(p, h, x, y)

    told, grads = jax.value_and_grad(loss, has_aux=True, allow_int=True)(params)
    grads["layers"].pop("number")
    updates, state = tx.update({**grads, "layers": {**grads["layers"], "number": None}}, state, params)
    return gdjax.apply_updates(params, updates), state, told


def released(tx: Any) -> Any:
    return gdjax.gradient_release(tx, before, layer, after, stack=lambda p: p["layers"], has_aux=True)


def by_part(p: Any) -> Any:
    return {k: "hidden" if k == "layers" else "rest" for k in p}


def clipped(tx: Any, **groups: Any) -> Any:
    return gdjax.chain(gdjax.clip_by_global_norm(0.05, **groups), tx)


MATRICES = lambda p: {"embed": None, "layers": {"a": gdjax.MuonDimensionNumbers(1, 2), "b": None, "number": None},
                      "head": {"w": None}}  # fmt: skip
ONE = {"groups": {".*": "one"}}  # the norm of the group is meant
FITTING: dict[str, Callable[[], Any]] = {
    "adamw, a schedule and a mask": lambda: gdjax.adamw(
        gdjax.cosine_decay_schedule(1e-2, 4), weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    "a mask by paths": lambda: gdjax.adamw(1e-2, weight_decay=0.1, mask=gdjax.mask_by_path("embed", r"\ba$")),
    "a mask by predicates": lambda: gdjax.adamw(
        1e-2, weight_decay=0.1, mask=gdjax.mask_by_path(lambda path, x: path == "embed", lambda path, x: x.ndim == 3)
    ),
    "a number of each layer": lambda: gdjax.lamb(1e-2, weight_decay=0.1, layer_axes="^layers"),
    "clip": lambda: clipped(gdjax.adamw(1e-2)),
    "two clips": lambda: gdjax.partition(
        {"hidden": clipped(gdjax.lion(1e-2), **ONE), "rest": clipped(gdjax.sgd(0.1, momentum=0.9), **ONE)}, by_part
    ),
    "clip by group": lambda: clipped(gdjax.sgd(0.1), groups={"layers": "hidden", ".*": "rest"}),
    "factors, codes": lambda: gdjax.adam(gdjax.per_leaf(1e-2, {"layers": 0.5}), mu_dtype=gdjax.bfloat16_with_error),
    "injected": lambda: gdjax.inject_hyperparams(gdjax.amsgrad)(learning_rate=1e-2),
    "muon": lambda: gdjax.muon(1e-2, muon_weight_dimension_numbers=MATRICES, adam_learning_rate=1e-3),
    # Numbers of rows or columns, with axes of length 1 for the others.
    "normuon": lambda: gdjax.normuon(1e-2),
    "normuon, longer": lambda: gdjax.normuon(1e-2, neurons="longer"),
    "muown": lambda: gdjax.muown(1e-2),
    "transformer_optimizer": lambda: gdjax.transformer_optimizer(1e-2, steps=10),
}


@pytest.mark.full
@pytest.mark.parametrize("name", FITTING)
def test_steps_are_those_with_all_gradients(name: str):
    tx = FITTING[name]()
    p = q = start()
    s = t = tx.init(p)
    one, other = jax.jit(lambda p, s: plain(tx, p, s, X, Y)), jax.jit(released(tx))
    told = ours = None
    for _ in range(3):
        p, s, told = one(p, s)
        q, t, ours = other(q, t, X, Y)
    assert signature((q, t)) == signature((p, s))
    assert_close((q, t, ours), (p, s, told), rtol=1e-5, atol=1e-6)
    assert float(jnp.max(jnp.abs(q["layers"]["a"] - start()["layers"]["a"]))) > 1e-4
    if name.startswith("adamw"):  # a run goes on with either
        a, b = one(q, t), other(p, s, X, Y)
        assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kept", [{}, {"moments": "blocks"}], ids=["words", "blocks"])
def test_codes_of_a_group_beside_a_frozen_one(kept: dict[str, Any], inside: bool):
    """Parameters that a group does not see have codes without arrays."""
    coded = lambda tx: gdjax.quantize_state(tx, min_size=1, **kept)
    group = coded(gdjax.adamw(1e-2)) if inside else gdjax.adamw(1e-2)
    labels = gdjax.label_by_path({"^embed": "fixed", ".*": "rest"})
    tx = gdjax.partition({"fixed": gdjax.set_to_zero(), "rest": group}, labels)
    tx = tx if inside else coded(tx)
    p = q = start()
    s = t = tx.init(p)
    whole, by_layers = jax.jit(lambda p, s: plain(tx, p, s, X, Y)), jax.jit(released(tx))
    for _ in range(3):
        p, s, _ = whole(p, s)
        q, t, _ = by_layers(q, t, X, Y)
    assert signature((q, t)) == signature((p, s))
    assert_close(q, p, rtol=0, atol=2e-4)  # in units of the rate 0.02: rounding may draw another code
    assert bool((q["embed"] == start()["embed"]).all())


@pytest.mark.full
def test_bfloat16():
    tx, p = clipped(gdjax.adamw(1e-2)), start(jnp.bfloat16)
    x, y = jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y, jnp.bfloat16)
    a = jax.jit(lambda p, s: plain(tx, p, s, x, y))(p, tx.init(p))
    b = released(tx)(p, tx.init(p), x, y)
    assert signature(b[:2]) == signature(a[:2])
    assert_close(b, a, rtol=2e-2, atol=2e-3)


ROUNDED = {
    "parameters": gdjax.with_stochastic_rounding(gdjax.sgd(0.1), key=0),
    "remainders": gdjax.with_master_weights(gdjax.sgd(0.1), remainder_bits=8),
    "a state": gdjax.quantize_state(gdjax.adam(0.1), min_size=1),
}


@pytest.mark.full
@pytest.mark.parametrize("name", ROUNDED)
def test_the_bits_of_a_layer_are_those_in_the_stack(name: str):
    w, tx = jnp.linspace(0.5, 1, 3 * 64).reshape(3, 64).astype(jnp.bfloat16), ROUNDED[name]
    step, loss = bare(tx, w)
    x = jnp.ones(64, jnp.bfloat16)
    updates, wanted = tx.update(jax.grad(loss)(w, x), tx.init(w), w)
    new, state, _ = step(w, tx.init(w), x)
    assert_close((new, state), (gdjax.apply_updates(w, updates), wanted), rtol=0, atol=0)


def test_all_parameters_are_layers():
    tx, w = clipped(gdjax.adam(1e-2)), start()["layers"]["a"]
    step = gdjax.gradient_release(
        tx, lambda p, x: x, lambda w, x, *_: jnp.tanh(x @ w), lambda p, x, *_: jnp.mean(x**2), stack=lambda p: p
    )
    x = jnp.ones((2, WIDTH))

    def loss(w: Any) -> Any:
        return jnp.mean(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0] ** 2)

    updates, state = tx.update(jax.grad(loss)(w), tx.init(w), w)
    got = step(w, tx.init(w), x)
    assert_close(got, (gdjax.apply_updates(w, updates), state, loss(w)), rtol=1e-5, atol=1e-6)
    assert int(gdjax.tree.get(got[1], "count")) == 1


class Block(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        return x + linen.Dense(WIDTH)(linen.LayerNorm()(x)), None


class Net(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Dense(WIDTH, name="embed")(x)
        stacked = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
        x, _ = stacked(name="layers")(x, None)
        return linen.Dense(1, name="head")(x)


@pytest.mark.slow
def test_a_stack_of_flax():
    tx, net = clipped(gdjax.adamw(1e-2)), Net()
    with relaxed():
        params = net.init(jax.random.key(0), X)["params"]
        step = gdjax.gradient_release(
            tx,
            lambda p, x, y: linen.Dense(WIDTH).apply({"params": p["embed"]}, x),
            lambda w, h, x, y: Block().apply({"params": w}, h)[0],
            lambda p, h, x, y: jnp.mean((linen.Dense(1).apply({"params": p["head"]}, h) - y) ** 2),
            stack=lambda p: p["layers"],
        )
        out: Any = net.apply
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((out({"params": p}, X) - Y) ** 2))(params)
        got = step(params, tx.init(params), X, Y)
    updates, state = tx.update(grads, tx.init(params), params)
    assert_close(got, (gdjax.apply_updates(params, updates), state, loss), rtol=1e-4, atol=1e-5)


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm, self.dense = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.dense(self.norm(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed, self.head = nnx.Linear(2, WIDTH, rngs=rngs), nnx.Linear(WIDTH, 1, rngs=rngs)
        self.layers = nnx.split_rngs(splits=LAYERS)(nnx.vmap(NnxBlock))(rngs)

    def __call__(self, x: Any) -> Any:
        run = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(run(self.layers, self.embed(x)))


@pytest.mark.programs
def test_a_stack_of_nnx():
    tx = clipped(gdjax.adamw(1e-2))
    with relaxed():
        model = NnxNet(nnx.Rngs(0))
        graph, params = nnx.split(model, nnx.Param)
        block, _ = nnx.split(model.layers)  # the graph of one layer is that of all
        step = gdjax.gradient_release(
            tx,
            lambda p, x, y: nnx.merge(graph, p).embed(x),
            lambda w, h, x, y: nnx.merge(block, w)(h),
            lambda p, h, x, y: jnp.mean((nnx.merge(graph, p).head(h) - y) ** 2),
            stack=lambda p: p["layers"],
        )
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((nnx.merge(graph, p)(X) - Y) ** 2))(params)
        got = step(params, tx.init(params), X, Y)
    updates, state = tx.update(grads, tx.init(params), params)
    wanted = gdjax.apply_updates(params, updates), state, loss
    assert signature(got) == signature(wanted)
    assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    nnx.update(model, got[0])
    assert_equal(nnx.state(model), got[0])


class Model(eqx.Module):
    embed: eqx.nn.Linear
    layers: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key: Any):
        a, b, c = jax.random.split(key, 3)
        self.embed, self.head = eqx.nn.Linear(2, WIDTH, key=a), eqx.nn.Linear(WIDTH, 1, key=c)
        self.layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(WIDTH, WIDTH, key=k))(jax.random.split(b, LAYERS))


@pytest.mark.slow
def test_a_stack_of_equinox():
    tx = gdjax.adamw(1e-2)
    with relaxed():
        params, static = eqx.partition(Model(jax.random.key(0)), eqx.is_inexact_array)

        def before(p: Any, x: Any, y: Any) -> Any:
            return jax.vmap(eqx.combine(p, static).embed)(x)

        def layer(w: Any, h: Any, *_: Any) -> Any:
            return jnp.tanh(jax.vmap(eqx.combine(w, static.layers))(h))

        def after(p: Any, h: Any, x: Any, y: Any) -> Any:
            return jnp.mean((jax.vmap(eqx.combine(p, static).head)(h) - y) ** 2)

        def loss(p: Any) -> Any:
            return after(p, jax.lax.scan(lambda h, w: (layer(w, h), None), before(p, X, Y), p.layers)[0], X, Y)

        step = gdjax.gradient_release(tx, before, layer, after, stack=lambda p: p.layers)
        value, grads = jax.value_and_grad(loss)(params)
        got = step(params, tx.init(params), X, Y)
    updates, state = tx.update(grads, tx.init(params), params)
    assert_close(got, (gdjax.apply_updates(params, updates), state, value), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_optax():
    with relaxed():
        tx, p = optax.adamw(1e-2), start()
        p["layers"].pop("number")
        one = lambda w, x, *_: {**x, "h": jnp.tanh(x["h"] @ w["a"] + w["b"])}
        step = gdjax.gradient_release(tx, before, one, after, stack=lambda p: p["layers"], has_aux=True)

        def loss(p: Any) -> Any:
            return after(p, jax.lax.scan(lambda x, w: (one(w, x), None), before(p, X, Y), p["layers"])[0], X, Y)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(p)
        updates, state = tx.update(grads, tx.init(p), p)
        wanted = optax.apply_updates(p, updates), state, (value, aux)
        assert_close(step(p, tx.init(p), X, Y), wanted, rtol=1e-5, atol=1e-6)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a norm of each parameter": (lambda: gdjax.lamb(1e-2), r"params\['layers'\]\['a'\] .* by lamb"),
    "a sum of the tree": (lambda: gdjax.dog(1e-2), "gdjax.total at"),
    "an estimate for the tree": (lambda: gdjax.prodigy(), "gdjax.total at"),
    "a mean over the layers": (lambda: gdjax.sm3(1e-2), r"state.*mu\['layers'\]\['a'\]\[1\] .* by sm3"),
    "a number of each parameter": (lambda: gdjax.novograd(1e-2), "novograd"),
    "matrices in stacks": (lambda: gdjax.soap(1e-2), "belongs to several parameters together"),
    "a line search": (lambda: gdjax.lbfgs(1e-2), "evaluates the loss at other parameters|several layers"),
    "noise by place": (lambda: gdjax.chain(gdjax.add_noise(0.1, 0.5, 0), gdjax.sgd(0.1)), "by add_noise"),
    "a flag of each parameter": (
        lambda: gdjax.chain(gdjax.zero_nans(), gdjax.sgd(0.1)),
        "state.*found_nan.* by zero_nans",
    ),
    "decay by layer": (lambda: gdjax.sgd(gdjax.per_leaf(0.1, gdjax.layerwise_decay(0.5, "layers/a", 3))), "by sgd"),
    "a guard of all": (lambda: gdjax.apply_if_finite(gdjax.sgd(0.1), 3), "by apply_if_finite"),
    "a norm after a norm": (
        lambda: gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.scale(2.0), gdjax.clip_by_global_norm(1.0)),
        "one more backward pass",
    ),
    "Optax's norm": (
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        r"params\['embed'\] .* by optax.chain",
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name: str):
    make, why = REFUSED[name]
    with relaxed():
        tx, p = make(), start()
        p["layers"] = {"a": p["layers"]["a"]}
        p["embed"], p["head"] = jnp.ones((2, WIDTH)), {"w": jnp.ones((WIDTH, 1))}
        one = lambda w, x, *_: {**x, "h": x["h"] @ w["a"]}
        step = gdjax.gradient_release(tx, before, one, after, stack=lambda p: p["layers"], has_aux=True)
        with pytest.raises(ValueError, match=f"gdjax.gradient_release: .*({why})"):
            jax.eval_shape(step, p, jax.eval_shape(tx.init, p), X, Y)


class Rows(NamedTuple):
    count: Any
    rows: Any


@gdjax.leafwise(Rows, rows=gdjax.Factor((0,)))
def by_rows(g: Any, s: Any, p: Any, t: Any) -> Any:
    if g.shape[0] == 1:  # another method
        return g, s._replace(rows=jnp.sum(g))
    rows = s.rows + jnp.sum(g**2, axis=1)
    return g / jnp.sqrt(rows)[:, None], s._replace(rows=rows)


def bare(tx: Any, w: Any) -> Any:
    """The step and the loss of layers w x alone."""
    one, loss = lambda w, x, *_: x * w, lambda p, x, *_: jnp.sum(x)
    step = gdjax.gradient_release(tx, lambda p, x: x, one, loss, stack=lambda p: p)
    return step, lambda w, x: loss(w, jax.lax.scan(lambda x, w: (one(w, x), None), x, w)[0])


def test_a_state_that_one_layer_would_have_otherwise():
    tx, w = by_rows(), jnp.ones((6, 4))
    with pytest.raises(ValueError, match="one layer of params by itself has another state than in the stack"):
        jax.eval_shape(bare(tx, w)[0], w, tx.init(w), jnp.ones(4))


def test_rounded_by_place():
    """As codes of a state are: the bits are those of the whole stack."""

    def init(params: Any) -> Rows:
        return Rows(jnp.zeros((), jnp.int32), jax.tree.map(lambda x: x.astype(jnp.uint8), params))

    def update(updates: Any, state: Rows, params: Any = None, first_row: Any = 0, **_: Any) -> Any:
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: g + m.astype(g.dtype), updates, state.rows)
        mark = salt(0, count, 1, first_row)
        codes = jax.tree.map(lambda m: jnp.floor(m * 3 + uniform(mark, m)).astype(jnp.uint8), mu)
        return mu, Rows(count, codes)

    tx, w, x = gdjax.GradientTransformation(init, update), jnp.linspace(0.5, 1, 8 * 64).reshape(8, 64), jnp.ones(64)
    step, loss = bare(tx, w)
    _, state, _ = step(w, tx.init(w), x)
    _, wanted = tx.update(jax.grad(loss)(w, x), tx.init(w), w)
    np.testing.assert_array_equal(state.rows, wanted.rows)

    def hidden(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        return update(updates, state)  # which rounds as if the layer were the first

    with pytest.raises(ValueError, match="state.rows is made of several layers"):
        bare(gdjax.GradientTransformation(init, hidden), w)[0](w, tx.init(w), x)


def test_arguments():
    tx, p = gdjax.sgd(0.1), start()
    with pytest.raises(TypeError, match="gradient_release: argument tx"):
        gdjax.gradient_release(3, before, layer, after, stack=lambda p: p)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layer must be a function, got 3"):
        gdjax.gradient_release(tx, before, 3, after, stack=lambda p: p)  # type: ignore[arg-type]

    def run(stack: Any, layer: Any = layer, after: Any = after) -> None:
        step = gdjax.gradient_release(tx, before, layer, after, stack=stack, has_aux=True)
        jax.eval_shape(step, p, tx.init(p), X, Y)

    with pytest.raises(ValueError, match="stack must return a part of the parameters"):
        run(lambda p: jnp.zeros(3))
    with pytest.raises(ValueError, match=r"params\['head'\]\['w'\] has shape \(4, 1\), params\['embed'\] \(2, 4\)"):
        run(lambda p: [p["embed"], p["head"]])
    with pytest.raises(ValueError, match="nothing in it is trained"):
        run(lambda p: p["layers"]["number"])
    with pytest.raises(ValueError, match="layer got x of .* and returned"):
        run(lambda p: p["layers"], lambda w, x, *_: x["h"])
    with pytest.raises(ValueError, match="after must return the loss, one real number"):
        run(lambda p: p["layers"], after=lambda p, x, *_: (x["h"], None))


@pytest.mark.full
@pytest.mark.optimized
@pytest.mark.parametrize("tx", [gdjax.adam(1e-3), clipped(gdjax.amsgrad(1e-3))], ids=["adam", "clip, amsgrad"])
def test_what_it_takes(tx: Any):
    """Beside parameters and state, the activations and a few layers; the plain step has all gradients."""
    n, width, rows = 16, 256, 16
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    step = gdjax.gradient_release(
        tx, lambda p, x: x, lambda w, x, _: jnp.tanh(x @ w), lambda p, x, _: jnp.mean(x**2), stack=lambda p: p
    )
    w = of(n, width, width)
    program = jax.jit(step, donate_argnums=(0, 1)).lower(w, jax.eval_shape(tx.init, w), of(rows, width)).compile()
    memory: Any = program.memory_analysis()
    layers = (memory.temp_size_in_bytes - 4 * (n + 1) * rows * width) / (4 * width**2)
    assert layers < 10  # 16 with all gradients
    assert memory.alias_size_in_bytes > 4 * w.size * 3


def sometimes(when: Callable[[Any, Any], Any]) -> Any:
    """Adds the mean of each array to it where `when(step, gradient)` holds."""

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        mixed = lambda g: jnp.where(when(state.count, g), g + jnp.mean(g), g)
        return jax.tree.map(mixed, updates), Rows(state.count + 1, ())

    return gdjax.GradientTransformation(lambda params: Rows(jnp.zeros((), jnp.int32), ()), update)


RARE: dict[str, Callable[[Any, Any], Any]] = {
    "every seventh step": lambda t, g: t % 7 == 6,
    "every hundredth step": lambda t, g: (t + 1) % 100 == 0,
    "after a million steps": lambda t, g: t > 1_000_000,
    "large gradients": lambda t, g: jnp.max(jnp.abs(g)) > 1e4,
    "small gradients": lambda t, g: jnp.max(jnp.abs(g)) < 1e-4,
    "a limit in each leaf": lambda t, g: jnp.any(jnp.abs(g) > 3e3) & ~jnp.all(jnp.any(jnp.abs(g) > 3e3, axis=1)),
    "NaN in one layer": lambda t, g: jnp.isnan(jnp.sum(g)),
}


@pytest.mark.parametrize("name", RARE)
def test_what_mixes_layers_in_some_steps_is_refused(name: str):
    tx, w = sometimes(RARE[name]), jnp.ones((3, 4))
    with pytest.raises(ValueError, match="the update of params is made of several layers.* by tests.sometimes"):
        jax.eval_shape(bare(tx, w)[0], w, tx.init(w), jnp.ones(4))
    tx = sometimes(lambda t, g: jnp.max(jnp.abs(g)) < 0)
    jax.eval_shape(bare(tx, w)[0], w, tx.init(w), jnp.ones(4))


def test_a_period_that_the_optimizer_tells():
    """It updates in each step of a number that nobody would guess, which its call says."""
    tx, w = gdjax.MultiSteps(gdjax.lamb(0.1), every_k_schedule=537), jnp.ones((3, 4))
    named = "lamb" if jax.__version_info__ >= (0, 6) else "MultiSteps"
    with pytest.raises(ValueError, match=f"the update of params is made of several layers.* by {named}"):
        jax.eval_shape(bare(tx, w)[0], w, tx.init(w), jnp.ones(4))


@pytest.mark.parametrize(
    ("tx", "tried"),
    [
        (gdjax.adam(0.1), (3, 9, 10)),
        (gdjax.quantize_state(gdjax.adam(0.1)), (3, 129, 130)),  # codes from 4096 numbers on
        (gdjax.quantize_state(gdjax.adam(0.1), min_size=10**6), (3, 9, 10)),
    ],
)
def test_the_size_at_which_it_is_tried(tx: Any, tried: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    """The least of some, where the state has the form that it has at the real one."""
    shapes, real = [], probe.tried
    monkeypatch.setattr(probe, "tried", lambda f, *args: shapes.append(args[0].shape) or real(f, *args))
    of = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    one = lambda w, x, *_: jnp.tanh(x @ w)[:, :500]
    step = gdjax.gradient_release(tx, lambda p, x: x, one, lambda p, x, *_: jnp.sum(x), stack=lambda p: p)
    with relaxed():
        w = of(3, 500, 600)
        jax.eval_shape(step, w, jax.eval_shape(tx.init, w), of(2, 500))
    assert shapes == [tried]


@pytest.mark.full
def test_of_what_is_updated_alike_one_is_tried(monkeypatch: pytest.MonkeyPatch):
    """Of six arrays two, whatever their lengths; a mask around one of them tells it apart, and it is refused."""
    tried, real = list[int](), probe.tried
    monkeypatch.setattr(probe, "tried", lambda f, *args: tried.append(len(jax.tree.leaves(args[0]))) or real(f, *args))
    w = {"layers": {k: jnp.ones((3, n)) for k, n in zip("abcd", (40, 50, 60, 70), strict=True)}}
    w["rest"] = {"e": jnp.ones((20, 30)), "f": jnp.ones((30, 1000))}
    one = lambda w, x, *_: sum(jnp.sum(v) for v in w.values()) * x

    def run(tx: Any) -> None:
        step = gdjax.gradient_release(tx, lambda p, x: x, one, lambda p, x, *_: jnp.sum(x), stack=lambda p: p["layers"])
        jax.eval_shape(step, w, tx.init(w), jnp.ones(4))

    run(gdjax.quantize_state(gdjax.adam(0.1), min_size=10**6))
    assert tried == [2]
    with pytest.raises(ValueError, match=r"the update of params\['layers'\]\['c'\] is made of several layers"):
        run(gdjax.chain(gdjax.masked(gdjax.scale_by_trust_ratio(), gdjax.mask_by_path("c$")), gdjax.sgd(0.1)))
    assert tried[1] == 3


def test_numbers_and_arrays_that_the_optimizer_holds():
    """A traced rate has no value; an array goes with the real shapes alone."""
    w, x = jnp.linspace(0.5, 1, 3 * 40).reshape(3, 40), jnp.ones(40)
    factors = jnp.linspace(1, 2, 40)[None]

    @jax.jit
    def run(rate: Any) -> Any:
        tx = gdjax.chain(gdjax.stateless(lambda g, p: g * factors), gdjax.sgd(rate))
        return bare(tx, w)[0](w, tx.init(w), x)[0]

    loss = bare(gdjax.sgd(0.1), w)[1]
    np.testing.assert_allclose(run(0.1), w - 0.1 * factors * jax.grad(loss)(w, x), rtol=1e-6)


def test_an_update_that_calls_the_program_is_not_tried():
    calls: list[Any] = []

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> Any:
        jax.debug.callback(lambda x: calls.append(float(x)), jnp.sum(updates))
        return -updates, state

    tx, w, x = gdjax.GradientTransformation(lambda params: (), update), jnp.ones((3, 4)), jnp.ones(4)
    step, loss = bare(tx, w)
    new, _, _ = step(w, (), x)
    jax.effects_barrier()
    assert len(calls) == 3
    np.testing.assert_allclose(new, w - jax.grad(loss)(w, x))


@pytest.mark.full
@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="this JAX has no jax.set_mesh")
def test_under_a_mesh():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    tx, w, x = gdjax.adam(0.1), jnp.ones((3, 4)), jnp.ones(4)
    wanted = bare(tx, w)[0](w, tx.init(w), x)
    with jax.set_mesh(mesh):
        assert_close(bare(tx, w)[0](w, tx.init(w), x), wanted)
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="by lamb"):
        bare(gdjax.lamb(0.1), w)[0](w, gdjax.lamb(0.1).init(w), x)
