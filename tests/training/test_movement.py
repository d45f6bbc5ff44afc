"""`check_transfer`: exponents of movements that are known, and a wrong rule that is found, with its leaf and remedy."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import gdjax
from tests.support import relaxed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 8)).astype(np.float32)
Y = (np.sin(X @ RNG.normal(size=(8, 3))) + X[:, :3]).astype(np.float32)
WIDTHS = 16, 32, 64  # small, for time: the limits of the exponents are for larger ones
RATE = 2.0**-9


def mlp(n: int, seed: int) -> Any:
    """Two hidden layers and a head that starts with 1 / n."""
    keys = jax.random.split(jax.random.key(seed), 3)
    sizes = {"w0": (8, n, 8**-0.5), "w1": (n, n, n**-0.5), "head": (n, 3, 1 / n)}
    weights = {k: s * jax.random.normal(key, (i, o)) for key, (k, (i, o, s)) in zip(keys, sizes.items(), strict=True)}

    def loss(p: Any, batch: Any) -> Any:
        x, y = batch
        first = jnp.tanh(x @ p["w0"] + p["bias"][None])
        second = jnp.tanh(first @ p["w1"])
        return jnp.mean((second @ p["head"] - y) ** 2), {"first": first, "second": second, "count": 3}

    return loss, weights | {"bias": jnp.zeros(n)}


DATA = [(X[:8], Y[:8]), (X[8:], Y[8:])]


def factors(base: Any, params: Any) -> Any:
    """1 over the growth of the inputs."""
    return jax.tree.map(lambda b, p: b.shape[0] / p.shape[0] if p.ndim == 2 else 1.0, base, params)


def with_table(base: Any, params: Any) -> Any:
    return gdjax.adam(gdjax.per_leaf(RATE, factors(base, params)))


def check(make: Any = mlp, tx: Any = None, **changes: Any) -> gdjax.TransferCheck:
    arguments = {"widths": WIDTHS, "data": DATA, "has_aux": make is mlp, **changes}
    return gdjax.check_transfer(make, gdjax.adam(RATE) if tx is None else tx, **arguments)


def column(found: gdjax.TransferCheck, name: str) -> dict[str, Any]:
    return dict(zip(found.table["leaf"], found.table[name], strict=True))


@pytest.mark.slow
def test_adam_at_one_rate_fails_and_with_the_table_holds():
    wrong, right = check(), check(tx=with_table, standard=gdjax.adam(RATE))
    assert column(wrong, "kind") == {
        "bias": "bias", "head": "head", "w0": "matrix", "w1": "matrix",
        "activations/first": "activation", "activations/second": "activation",
    }  # fmt: skip
    verdicts = column(wrong, "verdict")
    assert not wrong.holds and {k for k, v in verdicts.items() if v.startswith("fails")} == {
        "head", "w1", "activations/second"
    }  # fmt: skip
    assert column(wrong, "after 2")["w1"] > 0.7 < column(wrong, "after 2")["head"]
    remedies = [text for text in wrong.table.warnings if text.startswith("w1 (matrix, (16, 16) to (64, 64))")]
    assert len(remedies) == 1 and "its rate wants the factor (16 / width)^" in remedies[0]
    assert "gdjax.transfer(tx, base), or gdjax.per_leaf" in remedies[0] and verdicts["w1"].startswith(
        "fails: rate x 0."
    )
    assert right.holds and right.table.warnings == ()
    assert column(right, "verdict")["w1"] == column(right, "verdict")["head"] == "holds"
    assert column(right, "verdict")["w0"] == "holds, as without the rule: no power"
    assert column(right, "standard")["w1"] in (column(wrong, "after 2")["w1"], column(wrong, "after 10")["w1"])
    assert "below a width of 64" in right.table.notes[0] and "standard=" in wrong.table.notes[1]
    assert str(right) == repr(right) == str(right.table)


@pytest.mark.full
def test_a_factor_in_the_wrong_direction_is_found():
    found = check(tx=lambda base, p: gdjax.adam(gdjax.per_leaf(RATE, jax.tree.map(lambda f: f**2, factors(base, p)))))
    assert column(found, "after 2")["w1"] < -0.7 and column(found, "verdict")["w1"].startswith("fails: rate x 4")


def grown(by: float) -> Any:
    """Movements of a first step that are known, with `sign_sgd` at the rate 1: of all ones."""

    def make(n: int, seed: int) -> Any:
        shapes = {
            "w": (n, n),
            "up": (4, n),
            "head": (n, 3),
            "norm": (n,),
            "embed": (5, n),
            "blocks": {"kernel": (2, n, n)},
        }
        params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
        return lambda p: n**by * sum(map(jnp.sum, jax.tree.leaves(p))), params

    return make


def test_movements_are_those_of_the_definition():
    """A change that is -1 everywhere has the singular value sqrt(inputs x outputs)."""
    found = check(grown(0), gdjax.sign_sgd(1.0), data=None, has_aux=False, steps=(1,), widths=(4, 16), seeds=1)
    at = lambda path: found.movements[path][0, :, 0]
    for path, values in {
        "w": (4, 16), "blocks/kernel": (4, 16), "up": (4, 4), "head": (4, 16), "norm": (1, 1), "embed": (1, 1)
    }.items():  # fmt: skip
        np.testing.assert_allclose(at(path), values, rtol=1e-6, err_msg=path)
    assert column(found, "kind") == {
        "w": "matrix", "blocks/kernel": "matrix", "up": "matrix", "head": "head", "norm": "norm", "embed": "embedding",
    }  # fmt: skip
    assert (column(found, "grows")["w"], column(found, "grows")["up"]) == ("inputs, outputs", "outputs")
    steep = check(grown(0.5), gdjax.sgd(1.0), data=None, has_aux=False, steps=(1, 3), widths=(4, 8, 16), seeds=2)
    for path, exponent in {"w": 1.5, "blocks/kernel": 1.5, "up": 0.5, "head": 1.5, "norm": 0.5, "embed": 0.5}.items():
        np.testing.assert_allclose(column(steep, "after 3")[path], exponent, atol=0.006, err_msg=path)
        assert steep.movements[path].shape == (2, 3, 2) and column(steep, "error")[path] == 0


@pytest.mark.full
@pytest.mark.parametrize("own", ["as it is", "with the rule", "unknown"])
def test_leaves_that_the_rule_leaves_alone_are_not_to_blame(own: str):
    """An Adam whose eps is large moves as its gradient does: a bias of factor 1 wants no factor, SGD's does."""
    adam = gdjax.chain(gdjax.scale_by_adam(eps=1e6), _unknown() if own == "unknown" else gdjax.identity())
    adam = gdjax.chain(adam, gdjax.scale_by_learning_rate(1e6))
    tx = gdjax.transfer(adam, grown(0)(4, 0)[1]) if own == "with the rule" else adam
    given = {"data": None, "has_aux": False, "steps": (1,), "widths": (4, 16), "seeds": 1}
    rows = {r["leaf"]: r for r in map(dict, check(grown(-0.55), tx, **given).table)}
    warned = {text.split(" ")[0]: text for text in check(grown(-0.55), tx, **given).table.warnings}
    alone = "norm", "embed", "up"
    assert all("mend those that grow first" in warned[x] and "wants the factor" not in warned[x] for x in alone)
    assert {rows[x]["verdict"] for x in alone} == {"fails"}
    if own != "with the rule":
        assert "its rate wants the factor (4 / width)^0.45" in warned["w"]
    by_sgd = check(grown(-0.55), gdjax.sgd(1.0), **given).table.warnings
    assert any(text.startswith("norm ") and "wants the factor" in text for text in by_sgd)


@gdjax.leafwise()
def _unknown(g: Any, s: Any, p: Any, t: Any):
    return g, s


def test_a_row_and_a_part_count_for_themselves():
    """Of an embedding the largest row, of a fused matrix each part with its own outputs."""

    def make(n: int, seed: int) -> Any:
        params = {"embed": jnp.zeros((5, n)), "qkv": jnp.zeros((n, 3 * n))}
        loss = lambda p: 2 * jnp.sum(p["embed"][1]) + 5 * p["embed"][1, 0] + jnp.sum(p["embed"]) + jnp.sum(p["qkv"])
        return loss, params

    run = lambda roles: check(
        make, gdjax.sgd(1.0), data=None, has_aux=False, steps=(1,), widths=(4, 8), seeds=1, roles=roles
    )
    found = run({"qkv": gdjax.Matrix(0, 1, parts=3)})
    row = [np.sqrt((8**2 + (n - 1) * 3**2) / n) for n in (4, 8)]
    np.testing.assert_allclose(found.movements["embed"].ravel(), row, rtol=1e-6)
    np.testing.assert_allclose(found.movements["qkv"].ravel(), [4, 8], rtol=1e-6)
    whole = run({"qkv": gdjax.Matrix((0,), 1)})
    np.testing.assert_allclose(whole.movements["qkv"].ravel(), [4, 8], rtol=1e-6)  # sqrt(3 n n) sqrt(n / 3 n)
    uneven = run({"qkv": gdjax.Matrix(1, 0)})
    np.testing.assert_allclose(uneven.movements["qkv"].ravel(), [12, 24], rtol=1e-6)


def test_what_does_not_move_and_what_is_unclear():
    def make(n: int, seed: int) -> Any:
        params = {"still": jnp.ones((n, n)), "v": jnp.full(n, 1.0 * n**seed), "number": jnp.ones((), jnp.int32)}
        return lambda p: n**0.2 * jnp.sum(p["v"] ** 2), params

    found = check(make, gdjax.sgd(1e-5), data=None, has_aux=False, widths=(4, 8), seeds=2)
    assert column(found, "verdict") == {"still": "does not move", "v": "unclear"} and not found.holds
    assert column(found, "after 2") == {"still": None, "v": 0.7} and column(found, "error")["v"] == 0.5
    remedy = "it moves as width^+0.70, with a standard error of 0.50: take more seeds"
    assert [text.partition("): ")[2] for text in found.table.warnings] == [remedy]


class Linen(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = jnp.tanh(linen.Dense(self.width)(x))
        return linen.Dense(3, name="head")(x)


class Nnx(nnx.Module):
    def __init__(self, n: int, seed: int):
        rngs = nnx.Rngs(seed)
        self.first, self.second = nnx.Linear(8, n, rngs=rngs), nnx.Linear(n, n, rngs=rngs)
        self.head = nnx.Linear(n, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(jnp.tanh(self.second(jnp.tanh(self.first(x)))))


def of_linen(n: int, seed: int) -> Any:
    model = Linen(n)
    return lambda p, batch: jnp.mean((model.apply(p, batch[0]) - batch[1]) ** 2), model.init(jax.random.key(seed), X)


def of_nnx(n: int, seed: int) -> Any:
    graph, params = nnx.split(Nnx(n, seed))
    return lambda p, batch: jnp.mean((nnx.merge(graph, p)(batch[0]) - batch[1]) ** 2), params


def of_equinox(n: int, seed: int) -> Any:
    model = eqx.nn.MLP(8, 3, n, 2, activation=jnp.tanh, key=jax.random.key(seed))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(p: Any, batch: Any) -> Any:
        return jnp.mean((jax.vmap(eqx.combine(p, static))(batch[0]) - batch[1]) ** 2)

    return loss, params


@pytest.mark.full
@pytest.mark.parametrize("make", [of_linen, of_nnx, of_equinox])
def test_on_the_models_of_other_libraries(make: Any):
    with relaxed():
        found = check(make, widths=(16, 64), seeds=1, steps=(2,))
    kinds, after = column(found, "kind"), column(found, "after 2")
    (hidden,) = [path for path, sides in column(found, "grows").items() if sides == "inputs, outputs"]
    (head,) = [path for path, kind in kinds.items() if kind == "head"]
    assert sorted(kinds.values()) == ["bias"] * 3 + ["head", "matrix", "matrix"]
    assert after[hidden] > 0.7 < after[head]


def other(n: int, seed: int) -> Any:
    loss, params = mlp(n, seed)
    return loss, params if n == 16 else params | {"more": jnp.ones(3)}


def of_shape(shape: Any) -> Any:
    return lambda n, seed: ((lambda p: jnp.sum(p["w"])), {"w": jnp.ones(shape(n))})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"widths": (16,)}, ValueError, r"widths must be at least 2 ints in rising order, got \(16,\)"),
        ({"widths": (32, 16)}, ValueError, "widths must be at least 2 ints in rising order"),
        ({"widths": 16}, TypeError, "widths must be a sequence of ints, got 16"),
        ({"steps": (2.5,)}, TypeError, r"steps\[0\] must be an int, got 2.5"),
        ({"steps": (0, 2)}, ValueError, r"steps\[0\] must be at least 1, got 0"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1, got 0"),
        ({"tx": 3}, TypeError, "argument tx is 3"),
        ({"tx": lambda base, params: 3}, TypeError, r"argument tx\(base, params\) is 3"),
        ({"standard": 3}, TypeError, "argument tx is 3"),
        ({"data": iter(DATA)}, TypeError, "data is an iterator, which ends with the first run"),
        ({"data": []}, ValueError, "data has no batch"),
        ({"data": None}, TypeError, r"loss_fn takes \(p, batch\), and without data gets the first"),
        ({"make": lambda n, seed: {}}, TypeError, r"make\(16, 0\) must return \(loss_fn, params\), got dict"),
        ({"make": other}, ValueError, "the models differ: of 16 and 32 only 32 has more"),
        ({"make": of_shape(lambda n: (64 - n, 4))}, ValueError, "w is .48, 4. at width 16 and .32, 4. at 32: an axis"),
        ({"make": of_shape(lambda n: (n,) * (n // 16))}, ValueError, "w is .16,. at width 16 and .32, 32. at 32: the"),
        ({"make": of_shape(lambda n: (4, 4))}, ValueError, "no axis grows from width 16 to 64: make must use its w"),
        ({"tx": gdjax.sgd(1e38)}, FloatingPointError, r".* is not finite after 2 steps at width 16; lower the rate"),
    ],
)  # fmt: skip
def test_misuse(changes: dict[str, Any], error: type[Exception], message: str):
    if "make" in changes and changes["make"] is not other:
        changes = {"data": None, "has_aux": False} | changes
    with pytest.raises(error, match=f"^gdjax.check_transfer: {message}"):
        check(**changes)
