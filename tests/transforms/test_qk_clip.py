"""QK-Clip against the logits of an attention, by head, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

D, H, S = 6, 4, 5  # inputs, heads, numbers of a head
TAU = 2.0


def weights(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def logits(q, k, x):
    """Of each head, of weights (inputs, heads, size); the heads of k are shared by neighbours."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return np.einsum("ia,ahd,jb,bhd->hij", x, q, x, k)


def largest(q, k, x):
    return np.max(logits(q, k, x), (1, 2))


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("form", ["DenseGeneral", "fused", "torch"])
def test_no_logit_is_above_tau(key_heads, form):
    q, k, x = weights(0, D, H, S), weights(1, D, key_heads, S), weights(2, 7, D)
    found = largest(q, k, x)
    assert np.max(found) > TAU
    tau = float(np.sort(found)[1])  # some heads are above it, some not
    to, back, axis = {
        "DenseGeneral": (lambda w: w, lambda w, like: w, -2),
        "fused": (lambda w: w.reshape(D, -1), lambda w, like: w.reshape(like.shape), -1),
        "torch": (lambda w: w.reshape(D, -1).T, lambda w, like: w.T.reshape(like.shape), 0),
    }[form]
    params = {"layer": {"query": {"kernel": to(q)}, "key": {"kernel": to(k)}, "value": {"kernel": to(q)}}}
    new = gdjax.qk_clip(params, {"layer": found}, tau, head_axis=axis)
    new_q, new_k = back(new["layer"]["query"]["kernel"], q), back(new["layer"]["key"]["kernel"], k)
    gammas = np.minimum(1, tau / np.asarray(found)).reshape(key_heads, -1).min(1)  # of each group
    np.testing.assert_allclose(new_k, k * np.sqrt(gammas)[:, None], rtol=1e-6)
    np.testing.assert_allclose(new_q, q * np.sqrt(np.repeat(gammas, H // key_heads))[:, None], rtol=1e-6)
    expected = logits(q, k, x) * np.repeat(gammas, H // key_heads)[:, None, None]
    np.testing.assert_allclose(logits(new_q, new_k, x), expected, rtol=1e-4, atol=1e-5)
    assert float(jnp.max(largest(new_q, new_k, x))) <= tau * (1 + 1e-5)
    np.testing.assert_array_equal(new["layer"]["value"]["kernel"], to(q))


def test_below_tau_nothing_changes_nor_where_a_logit_is_no_number():
    params = {"query": weights(0, D, H, S), "key": weights(1, D, H, S)}
    new = gdjax.qk_clip(params, jnp.asarray([1.0, -3.0, jnp.nan, jnp.inf]), 2.0)
    jax.tree.map(np.testing.assert_array_equal, new, params)


def test_stacked_layers_biases_and_half_precision_under_jit():
    params = {
        "attention": {
            "query": {"kernel": weights(0, 2, D, H, S), "bias": weights(1, 2, H, S)},
            "key": {"kernel": weights(2, 2, D, H, S).astype(jnp.bfloat16), "bias": weights(3, 2, H, S)},
        }
    }
    found = jnp.asarray([[8.0, 1.0, 2.0, 32.0], [1.0, 1.0, 50.0, 2.0]])
    clip = jax.jit(lambda p, s, tau: gdjax.qk_clip(p, {"attention": s}, tau))
    new = clip(params, found, jnp.asarray(2.0))
    root = np.sqrt(np.minimum(1, 2 / np.asarray(found)))
    old = params["attention"]
    np.testing.assert_allclose(
        new["attention"]["query"]["kernel"], old["query"]["kernel"] * root[:, None, :, None], rtol=1e-6
    )
    np.testing.assert_allclose(new["attention"]["key"]["bias"], old["key"]["bias"] * root[:, :, None], rtol=1e-6)
    kernel = new["attention"]["key"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    expected = (old["key"]["kernel"].astype("float32") * root[:, None, :, None]).astype(jnp.bfloat16)
    np.testing.assert_array_equal(kernel, expected)


def test_latent_attention():
    """Algorithm 1: q^C and k^C by the root, q^R by gamma; what is the value stays."""
    found, gamma = jnp.asarray([8.0, 1.0, 2.0, 32.0]), np.asarray([0.25, 1, 1, 1 / 16])
    parts = {
        "q_c": weights(0, D, H, 3), "q_r": weights(1, D, H, 2), "k_c": weights(2, D, H, 3), "k_r": weights(3, D, 2)
    }  # fmt: skip
    new = gdjax.qk_clip(parts, found, TAU, query="q_c", key="k_c", rotary_query="q_r")
    powers = {"q_c": 0.5, "q_r": 1, "k_c": 0.5}
    for name, power in powers.items():
        np.testing.assert_allclose(new[name], parts[name] * gamma[:, None] ** power, rtol=1e-6)
    np.testing.assert_array_equal(new["k_r"], parts["k_r"])
    for axis, shape in ((-2, lambda w: w), (-1, lambda w: w.reshape(D, -1))):
        q = np.concatenate([parts["q_c"], parts["q_r"]], -1)
        kv = np.concatenate([parts["k_c"], weights(4, D, H, 7)], -1)
        both = gdjax.qk_clip(
            {"q": shape(q), "kv": shape(kv)}, found, TAU, query="^q", key="^kv", head_axis=axis, rotary=2, key_size=3
        )
        expected = np.concatenate([new["q_c"], new["q_r"]], -1), np.concatenate([new["k_c"], kv[..., 3:]], -1)
        np.testing.assert_allclose(both["q"], shape(expected[0]), rtol=1e-6)
        np.testing.assert_allclose(both["kv"], shape(expected[1]), rtol=1e-6)


def test_paths():
    one = {"query": weights(0, D, H, S), "key": weights(1, D, H, S)}
    params = {"a": one, "b": {"cross": one, "own": one}}
    found = {"a": jnp.full(H, 8.0), "b": {"own": jnp.ones(H)}}
    new = gdjax.qk_clip(params, found, 2.0)
    np.testing.assert_allclose(new["a"]["key"], one["key"] / 2, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new["b"], params["b"])
    new = gdjax.qk_clip(params, {"a": found["a"], "b/cross": jnp.full(H, 8.0)}, 2.0)
    np.testing.assert_allclose(new["b"]["cross"]["key"], one["key"] / 2, rtol=1e-6)


PARAMS = {"layer": {"query": jnp.ones((D, H, S)), "key": jnp.ones((D, H, S)), "bias": jnp.ones(3)}}


@pytest.mark.parametrize(
    "logits, arguments, text",
    [
        (
            {"layer": jnp.ones(3)},
            {},
            r"layer/query: axis 1 of shape \(6, 4, 5\) is not that of 3 heads; pass head_axis",
        ),
        ({"later": jnp.ones(H)}, {}, r"max_logits of 'later': query='query' matches no leaf: there are layer/bias"),
        ({"layer": jnp.ones(H)}, {"query": "q$"}, r"query='q\$' matches no leaf: bias, key, query"),
        ({"layer": jnp.ones(H)}, {"query": "e"}, r"layer/key is a query and a key by"),
        ({"layer": jnp.ones(())}, {}, r"max_logits must be floating \(heads,\), got float32\[\]"),
        ({"layer": jnp.ones((2, H))}, {}, r"does not begin with the axes \(2,\) of max_logits"),
        ({"layer": jnp.ones(H)}, {"head_axis": 3}, r"shape \(6, 4, 5\) has no axis head_axis=3 of heads"),
        ({"layer": jnp.ones(H)}, {"tau": 0.0}, r"tau must be above 0, got 0.0"),
        ({"layer": jnp.ones(H)}, {"rotary": 6}, r"a head of shape \(6, 4, 5\) has 5 numbers; rotary, key_size?"),
        (
            {"layer": jnp.ones(H), "layer/query": jnp.ones(H)},
            {},
            "max_logits of 'layer/query': query='query' matches no leaf",
        ),
    ],
)
def test_errors(logits, arguments, text):
    with pytest.raises(ValueError, match=f"gdjax.qk_clip: .*{text}"):
        gdjax.qk_clip(PARAMS, logits, **arguments)


def test_two_logits_of_one_leaf():
    inner = {"block": PARAMS["layer"]}
    with pytest.raises(ValueError, match=r"block/query belongs to the logits of 'layer' and of 'layer/block'"):
        gdjax.qk_clip({"layer": inner}, {"layer": jnp.ones(H), "layer/block": jnp.ones(H)})


def test_heads_that_share_no_whole_key_head():
    params = {"query": jnp.ones((D, H, S)), "key": jnp.ones((D, 3, S))}
    with pytest.raises(ValueError, match=r"key: shape \(6, 3, 5\) has no whole share of 4 heads"):
        gdjax.qk_clip(params, jnp.ones(H))
