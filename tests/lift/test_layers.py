"""`layer_axes`: leading axes of a leaf that are layers, each with numbers of its own, as if the layers were leaves."""

import inspect
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core.parts import state_arrays
from gdjax.core.paths import path_of
from gdjax.lift import layers
from tests.cases import CASES, every
from tests.declare import Case
from tests.support import relaxed

SHAPES = {"stack": (3, 4, 6), "pair": (2, 2, 3, 4), "plain": (4, 6), "biases": (3, 6)}
LEAD = {"stack": 1, "pair": 2, "plain": 0, "biases": 1}
BY_PATH = {"stack|biases": 1, "pair": 2}


def numbers(seed: int, dtype: Any) -> Any:
    """Arrays whose layers differ in size."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in SHAPES.items():
        lead = shape[: LEAD[name]]
        sizes = rng.uniform(0.1, 8, lead).reshape(lead + (1,) * (len(shape) - len(lead)))
        found[name] = jnp.asarray(rng.normal(size=shape) * sizes, dtype)
    return found


def test_axes_of_slots_of_each_layer():
    axes = lambda slot, shape, n: layers.axes_of(slot, {})(shape, n)
    assert axes(gdjax.first_moment, (3, 4, 6), 1) == (0, 1, 2)
    assert axes(gdjax.Integer(), (3, 4, 6), 1) == (0,) and axes(gdjax.Key(), (3, 4, 6), 2) == (0, 1)
    assert axes(gdjax.Integer(each=True), (3, 4, 6), 1) == (0, 1, 2)
    assert axes(gdjax.Factor((0,)), (3, 4, 6), 1) == (0, 1)  # its rows are those of a layer
    assert layers.axes_of(lambda p, hyper: p, {}) is None


def test_slots_along_the_layers():
    p = jnp.ones((3, 4, 6))
    assert layers.along(gdjax.first_moment, 1) is gdjax.first_moment
    assert layers.along(gdjax.Integer(), 0) == gdjax.Integer()
    assert layers.along(gdjax.Integer(2), 1)(p, {}).tolist() == [2, 2, 2]
    assert layers.along(gdjax.Factor((1,)), 1)(p, {}).shape == (3, 6)
    assert layers.along(gdjax.Factor((-1, gdjax.New(2))), 2)(p, {}).shape == (3, 4, 6, 2)
    assert layers.along(lambda p, hyper: jnp.sum(p), 2)(p, {}).tolist() == [[6.0] * 4] * 3


def test_a_rule_of_one_layer_is_mapped():
    """The largest number of a layer, in units of `by`, which has a number for each row of each layer."""

    def rule(g: Any, s: Any, p: Any, t: Any, by: Any) -> Any:
        return g / jnp.max(g) * by, s

    class Empty(NamedTuple):
        pass

    g = jnp.array([[[1.0, 2.0]], [[4.0, 2.0]]])
    applied = layers.mapped(rule)
    assert applied(g, Empty(), None, None, by=2.0, layer_axes=1)[0].tolist() == [[[1, 2]], [[2, 1]]]
    assert applied(g, Empty(), None, None, by=2.0)[0].tolist() == [[[0.5, 1]], [[2, 1]]]
    by = jnp.array([[[10.0]], [[20.0]]])
    assert applied(g, Empty(), None, None, by=by, layer_axes=1)[0].tolist() == [[[5, 10]], [[20, 10]]]


def apart(tree: Any) -> Any:
    """Each layer as a leaf."""
    return {
        f"{name}{i}": x
        for name, whole in tree.items()
        for i, x in enumerate(whole.reshape(-1, *whole.shape[LEAD[name] :]) if LEAD[name] else [whole])
    }


def updates(tx: Any, params: Any, split: Any, dtype: Any) -> list[Any]:
    """The updates of three steps; `split` makes the tree."""
    tree = split(params)
    state, found = tx.init(tree), []
    step = jax.jit(tx.update)
    for seed in (1, 2, 3):
        u, state = step(split(numbers(seed, dtype)), state, tree)
        tree = gdjax.apply_updates(tree, u)
        found.append(u)
    return found


def masks_by_rank(case: Case) -> bool:
    """Whether masks take a stack of vectors for a matrix."""
    return any("mask" in name for name in case.fixed)


def by_layer(case: Case) -> bool:
    return "layer_axes" in inspect.signature(getattr(gdjax, case.covers)).parameters


def _around(name: str) -> Case:
    """A case of a transform around another."""
    return Case(name, lambda **hyper: getattr(gdjax, name)(gdjax.sgd(0.1, momentum=0.5), **hyper))


TESTED = [c for c in CASES if by_layer(c) and "layer_axes" in inspect.signature(c.factory).parameters]
TESTED += [_around("cautious"), _around("mars")]


# In 16 bits numbers of a leaf are as wide: that is asked of two of them.
NARROW = {c.name: [] if c.name in ("lamb", "adafactor") else [pytest.mark.slow] for c in TESTED}


@pytest.mark.full
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *(pytest.param(c, jnp.float32, id=c.name) for c in TESTED),
        *(pytest.param(c, jnp.bfloat16, id=f"{c.name}-bfloat16", marks=NARROW[c.name]) for c in TESTED),
    ],
)
def test_as_the_layers_apart(case: Case, dtype: Any):
    with relaxed():
        params = numbers(0, dtype)
        together = updates(case.make(layer_axes=BY_PATH), params, lambda tree: tree, dtype)
        alone = updates(case.make(layer_axes=None), params, apart, dtype)
        for u, v in zip(together, alone, strict=True):
            for name, x in apart(u).items():
                if name.startswith("biases") and masks_by_rank(case):
                    continue
                scale = float(jnp.max(jnp.abs(v[name].astype(jnp.float32))))
                tolerance = 2e-6 if dtype == jnp.float32 else 2.0**-7
                np.testing.assert_allclose(
                    x.astype(jnp.float32), v[name].astype(jnp.float32), rtol=tolerance, atol=tolerance * scale
                )


def is_alike(case: Case) -> bool:
    """Whether a stack takes the steps of its layers without being told that it is one."""
    p, g = numbers(0, jnp.float32)["stack"], numbers(1, jnp.float32)["stack"]
    one, all_in_one = [dict(enumerate(x)) for x in (p, g)], [{0: x} for x in (p, g)]
    tx = case.make()
    u, v = (tx.update(tree[1], tx.init(tree[0]), tree[0])[0] for tree in (one, all_in_one))
    whole = np.stack([u[i] for i in u])
    return bool(np.allclose(whole, v[0], rtol=1e-3, atol=1e-4 * float(np.max(np.abs(whole)))))


# Where roles, or numbers of dimensions, say which axes of a stack are a matrix; without them it is none, or another.
MATRICES = (
    "adam_mini apollo dion galore matrixwise muon scale_by_adam_mini scale_by_apollo scale_by_dion scale_by_dion2 "
    "scale_by_galore scale_by_kl_shampoo scale_by_kl_soap scale_by_muon scale_by_normuon scale_by_psgd_kron "
    "scale_by_shampoo scale_by_soap scale_by_soap_muon"
).split()
WHOLE = {
    "differentially_private_aggregate": "the first axis is that of the examples",
    "dpsgd": "the first axis is that of the examples",
    "scale_by_zoom_linesearch": "its loss is of a tree of another form",
}


@pytest.mark.full
@every(lambda case: not case.random, thin=3)
def test_what_takes_one_number_of_a_leaf_takes_layer_axes(case: Case):
    """A new rule that mixes the layers of a stack is told of by this test."""
    if case.covers in MATRICES or case.covers in WHOLE:
        return
    with relaxed():
        assert is_alike(case) or by_layer(case)


def test_all_that_take_it_are_tested():
    assert {c.covers for c in CASES if by_layer(c)} == {c.covers for c in TESTED}


@pytest.mark.parametrize("name", "lamb lars novograd adafactor".split())
def test_the_sweep_sees_them(name: str):
    with relaxed():
        assert not is_alike(next(case for case in CASES if case.name == name))


PARAMS = {"embed": jnp.ones((9, 4)), "layers": {"bias": jnp.ones((2, 8)), "kernel": jnp.ones((2, 4, 8))}}


@pytest.mark.parametrize(
    ("layer_axes", "expected"),
    [
        (None, ((), (), ())),
        (1, ((9,), (2,), (2,))),
        (2, ((9, 4), (2, 8), (2, 4))),
        ("^layers/", ((), (2,), (2,))),
        (re.compile("kernel$"), ((), (), (2,))),
        ({"kernel$": 2, "^layers": 1}, ((), (2,), (2, 4))),
        ({lambda path, leaf: leaf.ndim == 3: 1}, ((), (), (2,))),
        (lambda tree: {"embed": 0, "layers": 1}, ((), (2,), (2,))),
        (gdjax.matrices_by_role(), ((), (2,), (2,))),
        (gdjax.matrices_by_role({"kernel": gdjax.Matrix(-2, (-3, -1))}), ((), (), ())),
    ],
)
def test_the_ways_to_say_it(layer_axes: Any, expected: Any):
    tx = gdjax.novograd(0.1, layer_axes=layer_axes)
    state = tx.init(PARAMS)
    assert tuple(map(jnp.shape, jax.tree.leaves(state[0].nu))) == expected
    _, after = jax.jit(tx.update)(PARAMS, state, PARAMS)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_states_keep_their_classes():
    state = gdjax.adafactor(0.1, min_dim_size_to_factor=0, layer_axes="^layers").init(PARAMS)[0]
    assert isinstance(state, gdjax.FactoredState)
    shapes = {f: jax.tree.map(jnp.shape, getattr(state, f)) for f in ("v_row", "v_col", "v")}
    assert [shapes[f]["layers"]["kernel"] for f in shapes] == [(2, 4), (2, 8), (2, 1)]
    assert [shapes[f]["layers"]["bias"] for f in shapes] == [(2, 1), (2, 1), (2, 8)]


def test_a_state_from_shapes():
    tx = gdjax.scale_by_distance_over_gradients(layer_axes={"^layers": 1})
    state = tx.init(PARAMS)
    of_shapes = tx.init(jax.eval_shape(lambda: PARAMS))
    assert jax.tree.map(jnp.shape, of_shapes) == jax.tree.map(jnp.shape, state)
    assert state.max_dist["layers"]["kernel"].shape == (2,) and state.max_dist["embed"].shape == ()


def test_which_axes_the_state_follows():
    tx = gdjax.adafactor(0.1, min_dim_size_to_factor=0, layer_axes="^layers")
    params = {"layers": jnp.ones((16, 4, 8))}  # the layers would be the longest axis
    found = {path_of(x.field): x.axes for x in state_arrays(tx, tx.init(params), params) if x.leaf is not None}
    assert found == {"0/v_row": (0, 1), "0/v_col": (0, 2), "0/v": (0, None)}


def test_attention_in_a_scanned_stack():
    """The query of each layer has heads, and the trust ratio is that of a layer."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    sizes = jnp.array([1.0, 8.0, 0.1], jnp.float32)
    stack = lambda *shape: {"layers": {"query": {"kernel": draw(3, *shape) * sizes.reshape(3, 1, 1, 1)}}}
    params, g = stack(16, 2, 8), stack(16, 2, 8)
    tx = gdjax.lamb(0.1, weight_decay=0.1, layer_axes=gdjax.matrices_by_role())
    u, _ = tx.update(g, tx.init(params), params)
    for i in range(3):
        one = {"query": params["layers"]["query"]["kernel"][i]}
        tx = gdjax.lamb(0.1, weight_decay=0.1)
        v, _ = tx.update({"query": g["layers"]["query"]["kernel"][i]}, tx.init(one), one)
        np.testing.assert_allclose(u["layers"]["query"]["kernel"][i], v["query"], rtol=2e-6)


@pytest.mark.full
def test_in_groups_and_under_masks():
    params, g = numbers(0, jnp.float32), numbers(1, jnp.float32)
    tx = gdjax.lamb(0.1, layer_axes=BY_PATH)
    whole, _ = tx.update(g, tx.init(params), params)
    groups = gdjax.partition(
        {"a": tx, "b": gdjax.lamb(0.1, layer_axes={"pair": 2})}, {**dict.fromkeys(SHAPES, "a"), "pair": "b"}
    )
    for part in (groups, gdjax.masked(tx, dict.fromkeys(SHAPES, True)), gdjax.named_chain(("x", tx))):
        found, _ = part.update(g, part.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, found, whole)
    hidden = {**dict.fromkeys(SHAPES, True), "pair": False}  # a rule without slots, which sees the whole tree
    tx = gdjax.masked(gdjax.scale_by_trust_ratio(layer_axes=BY_PATH), hidden)
    found, _ = tx.update(g, tx.init(params), params)
    np.testing.assert_array_equal(found["pair"], g["pair"])
    assert not np.allclose(found["stack"], g["stack"])


def test_hyperparameters_that_differ_within_a_stack():
    params, g = numbers(0, jnp.float32), numbers(1, jnp.float32)
    factors = {**dict.fromkeys(SHAPES, 1.0), "stack": jnp.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)}
    tx = gdjax.novograd(0.1, weight_decay=gdjax.per_leaf(0.1, factors), layer_axes=BY_PATH)
    u, _ = tx.update(g, tx.init(params), params)
    for i, factor in enumerate((1.0, 2.0, 4.0)):
        tx = gdjax.novograd(0.1, weight_decay=0.1 * factor)
        v, _ = tx.update(g["stack"][i], tx.init(params["stack"][i]), params["stack"][i])
        np.testing.assert_allclose(u["stack"][i], v, rtol=1e-6, atol=1e-7)


def test_coded_states():
    tx = gdjax.quantize_state(gdjax.novograd(0.1, layer_axes=BY_PATH), min_size=1)
    params = numbers(0, jnp.float32)
    state = tx.init(params)
    _, after = jax.jit(tx.update)(numbers(1, jnp.float32), state, params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize(
    ("layer_axes", "error", "text"),
    [
        (-1, ValueError, "gdjax.novograd: layer_axes must be at least 0"),
        (
            1.5,
            TypeError,
            "gdjax.novograd: layer_axes must be an int, a pattern, a dict from patterns to ints or a function",
        ),
        (True, TypeError, "layer_axes must be an int"),
        ({"embed": 1.5}, TypeError, "gdjax.novograd: layer_axes of embed is 1.5, not the number of its axes of layers"),
        ({"embed": 3}, ValueError, "embed of shape (9, 4) has no 3 leading axes of layers"),
        ({"embed": None}, TypeError, "layer_axes of embed is None"),
        ({"(": 1}, ValueError, "is no regular expression"),
        (lambda tree: {"embed": 0}, ValueError, "gdjax.novograd: the layer_axes are not a prefix of the tree"),
        (lambda tree: None, TypeError, "gdjax.novograd: the function of layer_axes returned None"),
    ],
)
def test_errors(layer_axes: Any, error: type[Exception], text: str):
    with pytest.raises(error, match=re.escape(text)):
        gdjax.novograd(0.1, layer_axes=layer_axes).init(PARAMS)


@pytest.mark.full
def test_injected():
    tx = gdjax.inject_hyperparams(gdjax.lamb)(0.1, layer_axes=1)
    params, g = numbers(0, jnp.float32), numbers(1, jnp.float32)
    plain = gdjax.lamb(0.1, layer_axes=1)
    state = tx.init(params)
    assert "layer_axes" not in state.hyperparams
    found, expected = (t.update(g, t.init(params), params)[0] for t in (tx, plain))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected)


def test_a_pattern_that_decides_for_no_leaf_warns():
    with pytest.warns(UserWarning, match="no leaf is given layer_axes 1 by the rule 'blocks'"):
        gdjax.novograd(0.1, layer_axes="blocks").init(PARAMS)


class OneNumber(NamedTuple):
    n: Any


def test_rules_of_others():
    @gdjax.leafwise(OneNumber, n=gdjax.Factor())
    def by_sum(g: Any, s: OneNumber, p: Any, t: Any, *, layer_axes: Any = None) -> Any:
        n = s.n + jnp.sum(g)
        return g * n, s._replace(n=n)

    g = jnp.arange(6.0).reshape(2, 3)
    u, state = by_sum(layer_axes=1).update(g, by_sum(layer_axes=1).init(g))
    np.testing.assert_array_equal(u, g * jnp.array([[3.0], [12.0]]))
    np.testing.assert_array_equal(state.n, [3, 12])
    with pytest.raises(TypeError, match="a rule with layer_axes sees one layer: n of its state is of the whole"):
        gdjax.leafwise(OneNumber, n=gdjax.Shared())(lambda g, s, p, t, *, layer_axes=None: (g, s))


def test_by_role():
    shapes = {
        "embed": (9, 4), "layers/attn/query": (3, 16, 2, 8), "layers/moe/w": (3, 5, 4, 8), "layers/moe/b": (3, 5, 8),
        "layers/ln/scale": (3, 4), "layers/gate": (3,), "block_0/kernel": (4, 8), "block_0/bias": (8,),
        "other/w": (3, 4, 8), "other/b": (3, 8), "conv/kernel": (3, 3, 8, 16), "head/kernel": (4, 9),
    }  # fmt: skip
    found = gdjax.matrices_by_role().layers({path: jnp.ones(shape) for path, shape in shapes.items()})
    assert {path: n for path, n in found.items() if n} == {
        "layers/attn/query": 1, "layers/moe/w": 2, "layers/moe/b": 2, "layers/ln/scale": 1, "layers/gate": 1,
        "other/w": 1, "other/b": 1,
    }  # fmt: skip
