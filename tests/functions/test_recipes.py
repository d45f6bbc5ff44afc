"""Each recipe trains a small model of its own kind, and does what is peculiar to it."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import recipes
from gdjax.recipes import _SPEEDRUN
from tests.oracles import precision
from tests.polar_oracles import gradients, polar
from tests.support import relaxed
from tests.trees import finite, signature

V, D, H, S, T = 24, 16, 2, 8, 12  # tokens, width, heads, numbers of a head, length
TOKENS = (np.arange(T)[None] * np.array([[5], [7], [11], [13]]) + np.arange(4)[:, None]) % V
TARGETS = np.roll(TOKENS, 1, axis=1) * 5 % V  # of the token before: attention must find it
TARGETS[:, 0] = 0


def normal(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape) / max(shape[0], 8) ** 0.5


def norm(x: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def loss_of(logits: Any) -> Any:
    return gdjax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(TARGETS)).mean()


def attention(p: Any, x: Any, more: Any = 0.0) -> tuple[Any, Any]:
    """The output, and the largest logit of each head; weights with an axis of heads."""
    q, k, v = (jnp.einsum("btd,dhs->bhts", x, p[name]["kernel"]) for name in ("query", "key", "value"))
    logits = jnp.einsum("bhts,bhus->bhtu", q, k) / S**0.5
    causal = jnp.tril(jnp.ones((T, T), bool))
    weights = jax.nn.softmax(jnp.where(causal, logits, -jnp.inf))
    out = jnp.einsum("bhtu,bhus,hsd->btd", weights, v + more, p["out"]["kernel"])
    return out, jnp.max(jnp.where(causal, logits, -jnp.inf), (0, 2, 3))


def attention_weights(seed: int) -> Any:
    parts = {name: {"kernel": normal(seed + i, D, H, S)} for i, name in enumerate(("query", "key", "value"))}
    return parts | {"out": {"kernel": normal(seed + 3, H, S, D)}}


def gpt() -> Any:
    """With the names of Flax, and heads that have an axis."""
    return {
        "embed": {"embedding": normal(0, V, D)},
        "position": {"embedding": normal(1, T, D)},
        "layer": {
            "attention": attention_weights(2),
            "norm": {"scale": jnp.ones(D)},
            "up": {"kernel": normal(6, D, 4 * D)},
            "down": {"kernel": normal(7, 4 * D, D)},
        },
        "lm_head": {"kernel": normal(8, D, V)},
    }


def gpt_loss(params: Any) -> tuple[Any, Any]:
    x = params["embed"]["embedding"][TOKENS] + params["position"]["embedding"]
    p = params["layer"]
    out, largest = attention(p["attention"], norm(x))
    x = x + out
    x = x + jax.nn.relu(norm(x) * p["norm"]["scale"] @ p["up"]["kernel"]) ** 2 @ p["down"]["kernel"]
    return loss_of(norm(x) @ params["lm_head"]["kernel"]), {"layer/attention": largest}


def experts() -> Any:
    """A layer of four experts and a router behind attention."""
    params = gpt()
    params["layer"] |= {
        "router": {"kernel": normal(10, D, 4)},
        "experts": {"up": normal(11, 4, D, 2 * D), "down": normal(12, 4, 2 * D, D)},
    }
    del params["layer"]["up"], params["layer"]["down"]
    return params


def experts_loss(params: Any) -> tuple[Any, Any]:
    p = params["layer"]
    x = params["embed"]["embedding"][TOKENS] + params["position"]["embedding"]
    x = x + attention(p["attention"], norm(x))[0]
    y = norm(x) * p["norm"]["scale"]
    chosen, which = jax.lax.top_k(jax.nn.sigmoid(y @ p["router"]["kernel"]), 2)
    shares = jnp.sum(jax.nn.one_hot(which, 4) * chosen[..., None], -2)
    each = jnp.einsum("bted,efd->btef", jnp.stack([y] * 4, -2), p["experts"]["up"].mT)
    x = x + jnp.einsum("bte,btef,efd->btd", shares, jax.nn.silu(each), p["experts"]["down"])
    return loss_of(norm(x) @ params["lm_head"]["kernel"]), {}


def scanned() -> Any:
    """Three layers, stacked as `scan` wants them."""
    layer = {
        "attention": attention_weights(2),
        "up": {"kernel": normal(6, D, 2 * D), "bias": jnp.zeros(2 * D)},
        "down": {"kernel": normal(7, 2 * D, D)},
    }
    layers = jax.tree.map(lambda x: jnp.stack([x, -x, x[::-1]]), layer)
    return {key: x for key, x in gpt().items() if key != "layer"} | {"layers": layers}


def scanned_loss(params: Any) -> tuple[Any, Any]:
    def layer(x: Any, p: Any) -> tuple[Any, None]:
        x = x + attention(p["attention"], norm(x))[0]
        hidden = jax.nn.gelu(norm(x) @ p["up"]["kernel"] + p["up"]["bias"])
        return x + hidden @ p["down"]["kernel"], None

    x = params["embed"]["embedding"][TOKENS] + params["position"]["embedding"]
    x, _ = jax.lax.scan(layer, x, params["layers"])
    return loss_of(norm(x) @ params["lm_head"]["kernel"]), {}


def speedrun() -> Any:
    """With value embeddings and scalars, and the names of nanochat."""
    params = gpt()
    return {
        "wte": params["embed"],
        "position": params["position"],
        "h": [params["layer"] | {"ve_gate": {"kernel": normal(13, 8, H)}}],
        "value_embeds": {"0": {"embedding": normal(14, V, H * S)}},
        "lm_head": {"kernel": 0.01 * params["lm_head"]["kernel"]},
        "resid_lambdas": jnp.ones(1),
        "x0_lambdas": 0.1 * jnp.ones(1),
        "smear_lambda": jnp.zeros(1),
    }


def speedrun_loss(params: Any) -> tuple[Any, Any]:
    p = params["h"][0]
    x0 = x = params["wte"]["embedding"][TOKENS] + params["position"]["embedding"]
    x = x + params["smear_lambda"] * jnp.roll(x, 1, 1)
    value = params["value_embeds"]["0"]["embedding"][TOKENS].reshape(4, T, H, S)
    gate = jax.nn.sigmoid(norm(x)[..., :8] @ p["ve_gate"]["kernel"])
    x = params["resid_lambdas"] * x + params["x0_lambdas"] * x0
    x = x + attention(p["attention"], norm(x), jnp.einsum("bths,bth->bhts", value, gate))[0]
    x = x + jax.nn.relu(norm(x) * p["norm"]["scale"] @ p["up"]["kernel"]) ** 2 @ p["down"]["kernel"]
    return loss_of(norm(x) @ params["lm_head"]["kernel"]), {}


def train(tx: Any, params: Any, loss: Callable[[Any], Any], steps: int, logits: bool = False) -> tuple[Any, Any, Any]:
    """The parameters, the loss before each step, and the largest logits."""

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    @jax.jit
    def step(params: Any, state: Any, grads: Any, more: Any) -> Any:
        updates, state = tx.update(grads, state, params, **more)
        return gdjax.apply_updates(params, updates), state

    state, values = tx.init(params), []
    found: list[Any] = []
    for _ in range(steps):
        with relaxed():  # the models broadcast
            (value, largest), grads = gradient(params)
        params, state = step(params, state, grads, {"max_logits": largest} if logits else {})
        values.append(float(value))
        found.append(largest)
    return params, values, found


# The optimizer, the model, its loss, and what is left of that after 120 steps.
MODELS: dict[str, Any] = {
    "kimi_k2": (recipes.kimi_k2(0.02), gpt, gpt_loss, 0.01),
    "deepseek_v4": (recipes.deepseek_v4(0.02), experts, experts_loss, 0.01),
    "glm_5": (recipes.glm_5(0.02), gpt, gpt_loss, 0.02),
    "marin": (recipes.marin(0.05, 0.01), scanned, scanned_loss, 0.4),  # of a head that keeps its norm
    "marin/adamh": (recipes.marin(0.05, 0.01, method="adamh"), scanned, scanned_loss, 0.5),
    "nanochat": (recipes.nanochat(120, D), speedrun, speedrun_loss, 0.01),
    "modded_nanogpt": (recipes.modded_nanogpt(120), speedrun, speedrun_loss, 0.1),
}


@pytest.mark.programs
@pytest.mark.whole
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_a_model_of_its_kind(name: str):
    tx, model, loss, left = MODELS[name]
    _, values, _ = train(tx, model(), loss, 120, logits=name == "kimi_k2")
    assert values[0] > 3 and values[-1] < left


@functools.cache
def explained(name: str) -> Any:
    tx, model, _, _ = MODELS[name]
    return gdjax.explain(tx, model(), **({"max_logits": {}} if name == "kimi_k2" else {}))


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_explain_has_nothing_to_say(name: str):
    assert not explained(name).warnings


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_it_can_be_scaled_for_a_larger_model(name: str):
    tx, model, _, _ = MODELS[name]
    params = model()
    smaller = jax.tree.map(lambda x: x[..., : max(1, x.shape[-1] // 2)] if x.shape[-1] == 4 * D else x, params)
    smaller = jax.tree.map(lambda x: x[..., : 2 * D, :] if x.ndim > 1 and x.shape[-2] == 4 * D else x, smaller)
    for scaled in (gdjax.transfer(tx, smaller), gdjax.for_batch(tx, 1024, 512)):
        jax.eval_shape(scaled.init, params)


def groups_of(name: str) -> dict[str, str]:
    return dict(zip(explained(name)["path"], explained(name)["group"], strict=True))


@pytest.mark.full
def test_which_leaf_gets_what():
    groups = groups_of("deepseek_v4")
    assert groups["layer/router/kernel"] == groups["layer/experts/up"] == "muon"
    assert {groups[path] for path in ("embed/embedding", "lm_head/kernel", "layer/norm/scale")} == {"adam"}
    assert groups_of("glm_5")["lm_head/kernel"] == "muon" and groups_of("kimi_k2")["lm_head/kernel"] == "adam"
    groups = groups_of("nanochat")
    expected = {"wte/embedding": "rest/embedding", "lm_head/kernel": "rest/head", "h/0/ve_gate/kernel": "rest/matrix",
                "value_embeds/0/embedding": "value", "resid_lambdas": "resid", "x0_lambdas": "x0",
                "smear_lambda": "smear", "h/0/norm/scale": "rest/other", "h/0/up/kernel": "rest/matrix"}  # fmt: skip
    assert {path: groups[path] for path in expected} == expected


# The formulas of the reports and programs, in NumPy.


def moonlight(x: Any, gs: Any, lr: float, rms: float, coeffs: Any, steps: int, nesterov: bool, eps: float) -> Any:
    m = np.zeros_like(x)
    for g in gs:
        m = 0.95 * m + g
        o = polar(0.95 * m + g if nesterov else m, coeffs, steps, eps)
        x = x - lr * (rms * max(x.shape) ** 0.5 * o + 0.1 * x)
        yield x


def adamw(x: Any, gs: Any, lr: Any, b1: float, b2: float, eps: float, decay: Any) -> Any:
    """With a rate and a decay for each step t = 0, 1, ...; the decay is what x loses over the rate."""
    m = v = np.zeros_like(x)
    for t, g in enumerate(gs):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        x = x - lr(t) * (u + decay(t, u, x) * x)
        yield x


def followed(tx: Any, params: Any, gs: Any, oracles: dict[str, Any], rtol: float = 1e-6) -> None:
    """Compares the points that the optimizer visits, in float64, with those of an oracle for each leaf."""
    with precision("float64"):
        params = jax.tree.map(jnp.asarray, params)
        state, step = tx.init(params), jax.jit(tx.update)
        for t, points in enumerate(zip(*oracles.values(), strict=True)):
            updates, state = step({k: jnp.asarray(g[t]) for k, g in gs.items()}, state, params)
            params = gdjax.apply_updates(params, updates)
            for name, want in zip(oracles, points, strict=True):
                np.testing.assert_allclose(params[name], want, rtol=rtol, atol=rtol, err_msg=f"{name} {t}")


SHAPES = {"wide": (3, 5), "tall": (6, 4), "square": (4, 4)}
WEIGHTS = {name: gradients(shape)[0] for name, shape in SHAPES.items()} | {"norm": np.array([1.0, -2.0])}


def noise(steps: int, shapes: Any = WEIGHTS) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return {name: 1e3 * rng.normal(size=(steps, *np.shape(x))) for name, x in shapes.items()}


@pytest.mark.full
@pytest.mark.parametrize(
    ("tx", "rms", "coeffs", "ns_steps", "nesterov", "eps", "ns_eps"),
    [
        (recipes.kimi_k2(0.02, tau=None), 0.2, "jordan", 5, False, 1e-8, 1e-7),
        (recipes.deepseek_v4(0.02), 0.18, "deepseek", 10, True, 1e-20, 1e-20),
        (recipes.glm_5(0.02), 0.2, "jordan", 5, True, 1e-8, 1e-7),
    ],
    ids=["kimi_k2", "deepseek_v4", "glm_5"],
)
def test_muon_of_the_reports(
    tx: Any, rms: float, coeffs: str, ns_steps: int, nesterov: bool, eps: float, ns_eps: float
):
    gs = noise(12)
    matrices = {
        name: moonlight(WEIGHTS[name], gs[name], 0.02, rms, coeffs, ns_steps, nesterov, ns_eps) for name in SHAPES
    }
    rest = adamw(WEIGHTS["norm"], gs["norm"], lambda t: 0.02, 0.9, 0.95, eps, lambda *_: 0.1)
    followed(tx, WEIGHTS, gs, matrices | {"norm": rest})


def test_deepseek_v4_moves_by_the_smallest_gradients():
    params = {"norm": jnp.ones(2), "up": jnp.eye(3)}
    tx = recipes.deepseek_v4(0.1, weight_decay=0.0)
    u, _ = tx.update(jax.tree.map(lambda x: 1e-12 * x, params), tx.init(params), params)
    np.testing.assert_allclose(u["norm"], -0.1, rtol=1e-5)  # with an eps of 1e-8 a ten thousandth of it
    np.testing.assert_allclose(u["up"], -0.018 * 3**0.5 * np.eye(3), rtol=1e-2, atol=1e-6)


def clipped(params: Any, u: Any, logits: Any, tau: float) -> Any:
    """Of a layer of attention: the parameters after a step and QK-Clip, by the formula."""
    gamma = np.sqrt(np.minimum(1, tau / np.asarray(logits)))[:, None]
    moved = jax.tree.map(np.add, params, u)
    return moved | {name: {"kernel": moved[name]["kernel"] * gamma} for name in ("query", "key")}


@pytest.mark.full
def test_kimi_k2_clips_after_the_step():
    params, grads = attention_weights(0), attention_weights(5)
    logits = np.array([40.0, 3.0], "float32")
    plain, tx = recipes.kimi_k2(0.1, tau=None), recipes.kimi_k2(0.1, tau=10.0)
    u, _ = plain.update(grads, plain.init(params), params)
    got, _ = tx.update(grads, tx.init(params), params, max_logits=logits)
    want = clipped(params, u, logits, 10.0)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), gdjax.apply_updates(params, got), want
    )
    for name in ("value", "out"):  # and where nothing is clipped the update is that of Muon, bit for bit
        np.testing.assert_array_equal(got[name]["kernel"], u[name]["kernel"])
    again, _ = tx.update(grads, tx.init(params), params, max_logits={})
    jax.tree.map(np.testing.assert_array_equal, again, u)


@pytest.mark.full
def test_kimi_k2_bounds_the_logits_of_a_run():
    largest = {}
    for tau in (100.0, 2.0):
        _, values, found = train(recipes.kimi_k2(0.02, tau=tau), gpt(), gpt_loss, 60, logits=True)
        largest[tau] = max(float(jnp.max(x["layer/attention"])) for x in found[1:])
        assert values[-1] < 0.1
    assert largest[100.0] > 5 and largest[2.0] < 3  # a step may add to what was clipped


@pytest.mark.full
def test_kimi_k2_with_the_names_of_pytorch():
    params = {f"{name}_proj": {"weight": jnp.asarray(normal(i, H * S, D))} for i, name in enumerate("qk")}
    tx = recipes.kimi_k2(0.0, tau=10.0, heads={"query": "q_proj", "key": "k_proj", "head_axis": 0})
    u, _ = tx.update(params, tx.init(params), params, max_logits=jnp.array([1.0, 40.0]))
    new = gdjax.apply_updates(params, u)["q_proj"]["weight"] / params["q_proj"]["weight"]
    np.testing.assert_allclose(new, np.repeat([1.0, 0.5], S)[:, None] * np.ones(D), rtol=1e-5)


def test_kimi_k2_says_what_is_missing():
    params = attention_weights(0)
    tx = recipes.kimi_k2(0.1)
    with pytest.raises(ValueError, match=r"gdjax.kimi_k2: call update\(updates, state, params, max_logits="):
        tx.update(params, tx.init(params), params)
    with pytest.raises(TypeError, match="unknown argument 'max_logit' of update: perhaps max_logits"):
        tx.update(params, tx.init(params), params, max_logit=jnp.ones(H))
    with pytest.raises(ValueError, match="gdjax.kimi_k2: heads: qk_clip has no argument 'querry'; it has query, key"):
        recipes.kimi_k2(0.1, heads={"querry": "q"})
    with pytest.raises(ValueError, match="gdjax.kimi_k2: tau must be finite and above 0"):
        recipes.kimi_k2(0.1, tau=0.0)


@pytest.mark.full
@pytest.mark.parametrize("head_size", [None, S])
def test_glm_5_orthogonalizes_each_head_by_itself(head_size: int | None):
    kernels = {name: normal(i, D, H, S) for i, name in enumerate(("query", "key", "value"))}
    whole = {name: {"kernel": x if head_size is None else x.reshape(D, H * S)} for name, x in kernels.items()}
    alone = {f"{name}{h}": x[:, h] for name, x in kernels.items() for h in range(H)}
    numbers = jax.tree.map(lambda _: gdjax.Matrix(), alone)
    by_heads = recipes.glm_5(0.1, head_size=head_size)
    by_hand = gdjax.muon(0.1, eps=1e-7, weight_decay=0.1, bias_correction=False, consistent_rms=0.2,
                         muon_weight_dimension_numbers=numbers, adam_learning_rate=1.0)  # fmt: skip
    u, _ = by_heads.update(whole, by_heads.init(whole), whole)
    want, _ = by_hand.update(alone, by_hand.init(alone), alone)
    for name in kernels:
        for h in range(H):
            got = u[name]["kernel"].reshape(D, H, S)[:, h]
            np.testing.assert_allclose(got, want[f"{name}{h}"], rtol=1e-5, atol=1e-7)
    together = recipes.kimi_k2(0.1, tau=None)
    other, _ = together.update(whole, together.init(whole), whole)
    assert float(jnp.max(jnp.abs(other["query"]["kernel"] - u["query"]["kernel"]))) > 1e-3


def test_glm_5_asks_for_the_size_of_a_head():
    params = {"q_proj": {"kernel": jnp.ones((8, 8))}}
    with pytest.raises(ValueError, match="cut into heads; give the size of a head"):
        recipes.glm_5(0.1).init(params)


@pytest.mark.full
@pytest.mark.parametrize("method", ["muonh", "adamh"])
def test_marin_keeps_norms(method: Any):
    tx = recipes.marin(0.05, 0.01, method=method)
    params = scanned()
    new, _, _ = train(tx, params, scanned_loss, 20)
    for name in ("up", "down"):  # of each layer
        norms = [jnp.linalg.norm(x["layers"][name]["kernel"], axis=(1, 2)) for x in (new, params)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
    np.testing.assert_allclose(*(jnp.linalg.norm(x["lm_head"]["kernel"]) for x in (new, params)), rtol=1e-5)
    moved = jnp.linalg.norm(new["embed"]["embedding"]) / jnp.linalg.norm(params["embed"]["embedding"])
    assert abs(float(moved) - 1) > 1e-3


@pytest.mark.parametrize("method", ["muonh", "adamh"])
def test_marin_by_the_formula(method: Any):
    gs = noise(8)
    params = {"mlp": WEIGHTS["wide"], "lm_head": WEIGHTS["tall"], "norm": WEIGHTS["norm"]}
    gs = {"mlp": gs["wide"], "lm_head": gs["tall"], "norm": gs["norm"]}

    def on_the_ball(x: Any, gs: Any, by_muon: bool) -> Any:
        size, m, v = np.linalg.norm(x), 0.0, 0.0
        for t, g in enumerate(gs):
            b1, b2 = (0.95, 0.0) if by_muon else (0.9062, 0.95)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            adam = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + 1e-8)
            u = polar(0.95 * m + 0.05 * g, "dion", 5) if by_muon else adam
            x = x - 0.05 * size * u / np.linalg.norm(u)
            x = size * x / np.linalg.norm(x)
            yield x

    oracles = {
        "mlp": on_the_ball(params["mlp"], gs["mlp"], method == "muonh"),
        "lm_head": on_the_ball(params["lm_head"], gs["lm_head"], False),
        "norm": adamw(params["norm"], gs["norm"], lambda t: 0.01, 0.9062, 0.95, 1e-8, lambda *_: 0.0),
    }
    followed(recipes.marin(0.05, 0.01, method=method), params, gs, oracles)


def of_the_speedrun(
    x: Any, gs: Any, lr: Any, b1: Any, decay: Any, safety: float, *, equilibrate: bool = False,
) -> Any:  # fmt: skip
    """The program's matrices, (outputs, inputs): lr, b1 and the decay are functions of the step t = 0, 1, ..."""
    x = x.T
    mu = np.zeros_like(x)
    axis = 1 if x.shape[0] >= x.shape[1] else 0
    v = 0.0
    for t, g in enumerate(gs):
        mu = b1(t) * mu + (1 - b1(t)) * g.T
        y = b1(t) * mu + (1 - b1(t)) * g.T
        if equilibrate:
            y = y / np.linalg.norm(y, axis=1, keepdims=True)
        y = y / (safety * np.linalg.norm(y))
        for a, b, c in _SPEEDRUN:
            s = y @ y.T
            y = a * y + (b * s + c * s @ s) @ y
        if equilibrate:
            y = y * min(y.shape) ** 0.5 / np.linalg.norm(y)
        v = 0.9 * v + 0.1 * np.mean(y**2, axis=axis, keepdims=True)
        u = y / np.sqrt(v)
        u = u * np.linalg.norm(y) / np.linalg.norm(u)
        rate = lr(t) * max(1, x.shape[0] / x.shape[1]) ** 0.5
        x = x - rate * (u + decay(t) * x * (u * x >= 0))
        yield x.T


TOKENWISE = {"embed": (7, 4), "lm_head": (4, 7), "value_embeds": (7, 3)}
OF_GPT = WEIGHTS | {name: gradients(shape)[0] for name, shape in TOKENWISE.items()}
N = 130  # steps; the rate of nanochat falls from step 45 on


def of_nanochat(t: int) -> tuple[float, float, float]:
    """The factor of the rates, the momentum, the decay."""
    fall = round(0.65 * N)
    left = (N - t) / fall
    rate = (t + 1) / 40 if t < 40 else 1.0 if t <= N - fall else left + (1 - left) * 0.05
    b1 = 0.85 + (0.97 - 0.85) * t / (N - fall) if t < N - fall else 0.97 * left + 0.9 * (1 - left)
    return rate, b1, 0.28 * 0.5 * (1 + np.cos(np.pi * t / N))


@pytest.mark.full
@pytest.mark.parametrize("width", [768, 192])
def test_nanochat_by_its_program(width: int):
    params = OF_GPT | {"resid_lambdas": np.ones(2), "x0_lambdas": np.ones(2), "smear_lambda": np.ones(1)}
    gs = noise(N, params)
    larger = (width / 768) ** -0.5

    def group(name: str, lr: float, b1: float, b2: float, decay: float) -> Any:
        return adamw(params[name], gs[name], lambda t: lr * of_nanochat(t)[0], b1, b2, 1e-10, lambda *_: decay)

    oracles = {
        name: of_the_speedrun(
            params[name], gs[name], lambda t: 0.02 * of_nanochat(t)[0], lambda t: of_nanochat(t)[1],
            lambda t: of_nanochat(t)[2], 1.01, equilibrate=True,
        )
        for name in SHAPES
    }  # fmt: skip
    oracles |= {
        "embed": group("embed", 0.3 * larger, 0.8, 0.995, 0.001),
        "lm_head": group("lm_head", 0.008 * larger, 0.8, 0.96, 0.01),
        "value_embeds": group("value_embeds", 0.15 * larger, 0.8, 0.995, 0.01),
        "resid_lambdas": group("resid_lambdas", 0.005, 0.8, 0.95, 0.05),
        "x0_lambdas": group("x0_lambdas", 0.5, 0.96, 0.95, 0.0),
        "smear_lambda": group("smear_lambda", 0.2, 0.8, 0.95, 0.0),
    }
    followed(recipes.nanochat(N, width), params, gs, oracles)


def test_modded_nanogpt_by_its_program():
    params = OF_GPT
    gs = noise(N, params)
    flat = int(0.4 * N)

    def factor(t: int) -> float:
        x = max(0, t - flat) / (N - flat)
        return 1 - x + 0.15 * x

    def momentum(t: int) -> float:
        return 0.85 + 0.1 * (t / (N - 50) if t < N - 50 else (N - t) / 50)

    def group(name: str, times: float, b1: float, b2: float, decay: float) -> Any:
        rate = lambda t: 0.008 * times * factor(t)
        cautious = lambda t, u, x: decay * rate(t) * (u * x > 0)
        return adamw(params[name], gs[name], rate, b1, b2, 1e-10, cautious)

    oracles = {
        name: of_the_speedrun(
            params[name], gs[name], lambda t: 0.023 * factor(t), momentum, lambda t: 1.2 * 0.023 * factor(t), 1.02
        )
        for name in SHAPES
    }
    oracles |= {
        "embed": group("embed", 1.0, 0.5, 0.95, 0.005 * 150),
        "lm_head": group("lm_head", 1.0, 0.5, 0.95, 0.005 * 150),
        "value_embeds": group("value_embeds", 75.0, 0.75, 0.95, 0.005 * 5),
        "norm": group("norm", 5.0, 0.9, 0.99, 0.0),
    }
    followed(recipes.modded_nanogpt(N), params, gs, oracles)


def test_runs_that_are_too_short():
    with pytest.raises(ValueError, match="gdjax.nanochat: warmup_steps is 40, and the rate falls from step 35 on"):
        recipes.nanochat(100, D)
    recipes.nanochat(100, D, warmup_steps=35)
    for recipe in (lambda n: recipes.nanochat(n, D, warmup_steps=1), recipes.modded_nanogpt):
        with pytest.raises(ValueError, match="steps must be at least 100, got 99"):
            recipe(99)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_recipes_keep_the_contract(name: str, dtype: str):
    """They are values; the state is a fixed point, updates have the dtype of gradients; zeros and half precision do."""
    tx, model, _, _ = MODELS[name]
    assert pickle.loads(pickle.dumps(tx)) == tx
    params = jax.tree.map(lambda x: x.astype(dtype), model())
    more = {"max_logits": {"layer/attention": jnp.array([200.0, 1.0])}} if name == "kimi_k2" else {}
    state = tx.init(params)
    for grads in (jax.tree.map(jnp.zeros_like, params), params):
        updates, new = jax.jit(tx.update)(grads, state, params, **more)
        assert signature(updates) == signature(grads) and signature(new) == signature(state)
        assert finite(updates)
