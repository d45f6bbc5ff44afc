"""Roles of the leaves of a tree, what the user says of some, and the plan of its matrices."""

import functools
import pickle
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Matrix
from gdjax.leaf_roles.plan import plan_of, routing
from tests.leaf_roles.leaves import SHAPES, axes_of, roles, tree_of
from tests.trees import assert_close


def test_axes_of_layers_and_experts():
    shapes = {"layers/up/kernel": (3, 4, 8), "layers/ln/scale": (3, 4), "x/kernel": (5, 4, 8), "x/bias": (5, 8)}
    found = gdjax.matrices_by_role().layers(tree_of(shapes | {"head": (8, 9), "norm/scale": (5, 4), "b": (5,)}))
    assert found["layers"] == {"up": {"kernel": 1}, "ln": {"scale": 1}} and found["x"] == {"kernel": 1, "bias": 1}
    assert (found["head"], found["norm"]["scale"], found["b"]) == (0, 1, 0)
    experts = gdjax.matrices_by_role().layers(tree_of({"experts/up": (5, 4, 8), "norm/scale": (5, 4)}))
    assert experts == {"experts": {"up": 1}, "norm": {"scale": 0}}


def is_wide(path: str, leaf: Any) -> bool:
    return len(leaf.shape) == 2 and leaf.shape[0] > 4


def test_overrides():
    assert roles(SHAPES, {"last": "head"})["last/kernel"] == "head"
    assert roles(SHAPES, {"bias": "other", "layer": "head"}) == {
        "last/kernel": "matrix 4 x 3", "layer/bias": "other", "layer/kernel": "head"
    }  # fmt: skip
    assert roles(SHAPES, {re.compile("LAST", re.IGNORECASE): "router", is_wide: Matrix(1, 0)}) == {
        "last/kernel": "router", "layer/bias": "bias", "layer/kernel": "matrix 4 x 8"
    }  # fmt: skip
    assert roles(SHAPES, {"layer/k": Matrix(0, 1, parts=[1, 3])})["layer/kernel"] == "matrix 8 x 1 + 8 x 3"
    assert roles(SHAPES, {"layer/k": gdjax.MuonDimensionNumbers(1, 0)})["layer/kernel"] == "matrix 4 x 8"
    # "matrix" takes a leaf for one, by its own name and shape, whatever other leaves say.
    stack = {"embed/kernel": (3, 3, 4, 8), "tok": (50, 8), "last/kernel": (8, 50)}
    assert roles(stack, {"kernel": "matrix"}) == {
        "embed/kernel": "matrix 36 x 8", "tok": "embedding", "last/kernel": "matrix 8 x 50"
    }  # fmt: skip
    # Integers are never matrices.
    assert [row.role for row in gdjax.roles({"w": jnp.ones((2, 3), int)}, {"w": "matrix"})] == ["other"]


def test_heads_apart():
    heads = {"query": Matrix(0, 2), "out": Matrix(1, 2), "flat": Matrix(0, 1, parts=4)}
    shapes = {"attn/query/kernel": (32, 4, 8), "attn/out/kernel": (4, 8, 32), "attn/flat/kernel": (32, 32)}
    assert roles(shapes, heads) == {
        "attn/query/kernel": "matrix 4 x 32 x 8", "attn/out/kernel": "matrix 4 x 8 x 32",
        "attn/flat/kernel": "matrix 4 x 32 x 8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "shape", "size", "axes"),
    [
        ("attn/query/kernel", (32, 4, 8), True, Matrix(-3, -1)),
        ("attn/query/kernel", (2, 32, 4, 8), True, Matrix(-3, -1)),
        ("attn/qkv/kernel", (3, 32, 4, 8), True, Matrix(-3, -1)),
        ("attn/qkv/kernel", (32, 3, 4, 8), True, Matrix(-4, -1)),
        ("attn/wkv_b/kernel", (16, 4, 80), True, Matrix(-3, -1)),  # MaxText's latent attention
        ("attn/k_proj/kernel", (32, 16), 8, Matrix(-2, -1, parts=2)),
        ("attn/q_proj/weight", (32, 32), 8, Matrix(-1, -2, parts=4)),
        ("attn/qkv/kernel", (32, 96), 8, Matrix(-2, -1, parts=12)),
        ("attn/query_key_value/weight", (96, 32), 8, Matrix(-1, -2, parts=12)),
        ("attn/out/kernel", (4, 8, 32), True, Matrix((-3, -2), -1)),
        ("attn/query/bias", (4, 8), True, None),
        ("mlp/up/kernel", (32, 64), 8, Matrix(-2, -1)),
    ],
)
def test_a_matrix_for_each_head(path: str, shape: tuple[int, ...], size: Any, axes: Any):
    beside = {"attn/query/kernel": (32, 4, 8)} if "out" in path else {}
    assert axes_of({path: shape, **beside}, per_head=size)[path] == axes


def test_heads_whose_size_is_not_known():
    said = r"it cannot be known where the 32 outputs of q_proj/kernel are cut into heads; give the size of a head, or"
    for size in (True, 5):
        with pytest.raises(ValueError, match=said):
            axes_of({"q_proj/kernel": (32, 32)}, per_head=size)
    with pytest.raises(ValueError, match=r"override it by \{'kv_b_proj/weight': gdjax.Matrix\(-1, -2, parts=...\)\}"):
        axes_of({"kv_b_proj/weight": (64, 16)}, per_head=8)
    own = {"kv_b": Matrix(-1, -2, parts=(5, 3) * 8)}
    assert axes_of({"kv_b_proj/weight": (64, 16)}, own, per_head=8) == {"kv_b_proj/weight": own["kv_b"]}
    with pytest.raises(ValueError, match="per_head must be at least 1, got 0"):
        gdjax.matrices_by_role(per_head=0)


def test_other_roles_as_matrices():
    shapes = {"embed": (50, 8), "moe/router/kernel": (8, 4), "moe/router/bias": (4,), "lm_head/weight": (50, 8)}
    found = axes_of(shapes, also=("router", "head"))
    assert found == {"embed": None, "moe/router/kernel": Matrix(-2, -1), "moe/router/bias": None,
                     "lm_head/weight": Matrix(-1, -2)}  # fmt: skip
    assert axes_of(shapes, {"head": "other"}, also=("head",))["lm_head/weight"] is None
    assert roles(shapes)["lm_head/weight"] == "head"
    with pytest.raises(ValueError, match=r"gdjax.matrices_by_role: also: \['bias'\]: only a router, a head or"):
        gdjax.matrices_by_role(also=("bias",))
    route = gdjax.matrices_by_role(also=("head",))
    tx = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=route)
    table = gdjax.explain(tx, tree_of(shapes))
    assert table["group"] == ["adam", "muon", "adam", "adam"] and not table.warnings
    assert route == pickle.loads(pickle.dumps(route)) != gdjax.matrices_by_role()
    assert repr(gdjax.matrices_by_role(also=["head"], per_head=8)) == "matrices_by_role(also=('head',), per_head=8)"


def test_overrides_that_fail():
    with pytest.raises(ValueError, match="gdjax.matrices_by_role: 'x': unknown role 'heda'; there are matrix,"):
        gdjax.matrices_by_role({"x": "heda"})
    with pytest.raises(ValueError, match="gdjax.label_by_role: 'x': unknown role None"):
        gdjax.label_by_role({"x": None})
    with pytest.raises(ValueError, match=r"only: unknown roles \['matrices'\]"):
        gdjax.label_by_role(only=("matrices",))
    with pytest.raises(TypeError, match="overrides is list, not a mapping"):
        gdjax.matrices_by_role([("x", "head")])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="3 is neither a regular expression nor a function"):
        gdjax.matrices_by_role({3: "head"})
    with pytest.raises(ValueError, match=r"gdjax.roles: params\['layer'\]\['bias'\]: shape \(4,\) is no matrix"):
        roles(SHAPES, {"bias": "matrix"})
    with pytest.raises(ValueError, match=r"gdjax.roles: params\['last'\]\['kernel'\]: 3 columns are no 2 parts"):
        roles(SHAPES, {"last": Matrix(0, 1, parts=2)})
    with pytest.raises(ValueError, match="output_axis 2 does not name"):
        roles(SHAPES, {"last": Matrix(0, 2)})


def test_an_override_that_decides_nothing_warns():
    tree = tree_of(SHAPES)
    route = gdjax.matrices_by_role({"haed": "head", "kernel": "matrix"})
    with pytest.warns(UserWarning, match="no leaf is given the role 'head' by the rule 'haed': it matches none of"):
        route(tree)
    assert gdjax.roles(tree, {"haed": "head"}).warnings[0].startswith("no leaf is given the role 'head'")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        route({**tree, "last": gdjax.MaskedNode()})
        route({})


def test_they_are_values():
    def make() -> Any:
        return gdjax.matrices_by_role({"last": "head", "qkv": Matrix(0, 1, [4, 2, 2])})

    assert make() == make() and hash(make()) == hash(make()) and pickle.loads(pickle.dumps(make())) == make()
    assert make() != gdjax.matrices_by_role() and repr(gdjax.matrices_by_role()) == "matrices_by_role()"
    assert repr(gdjax.matrices_by_role({"x": "head"})) == "matrices_by_role({'x': 'head'})"
    labels = gdjax.label_by_role({"x": "head"}, only=("matrix",))
    assert labels == pickle.loads(pickle.dumps(labels)) == gdjax.label_by_role({"x": "head"}, only=("matrix",))
    txs = [gdjax.muon(0.1, muon_weight_dimension_numbers=make()) for _ in range(2)]
    assert txs[0] == txs[1] and pickle.loads(pickle.dumps(txs[0])) == txs[0]
    assert routing(None) == routing({}) == gdjax.matrices_by_role() and routing(make()) == make()
    assert routing({"x": "head"}) == gdjax.matrices_by_role({"x": "head"}) and routing(Matrix()) == Matrix()


def test_none_and_integers():
    tree = {"w": jnp.ones((2, 3)), "n": None, "hidden": gdjax.MaskedNode(), "count": jnp.ones((2, 2), int), "s": 1.0}
    assert gdjax.matrices_by_role()(tree) == {**tree, "w": Matrix(-2, -1), "count": None, "s": None}
    assert gdjax.label_by_role()(tree) == {**tree, "w": "matrix", "count": "other", "s": "other"}
    assert gdjax.matrices_by_role()({}) == {}
    assert len(gdjax.roles({})) == 0


def test_labels_for_partition():
    tree = tree_of({"embed": (9, 8), "w": (8, 8), "head/kernel": (8, 9), "b": (8,), "norm/scale": (8,)})
    labels = gdjax.label_by_role(only=("matrix", "embedding"))(tree)
    assert labels == {
        "embed": "embedding",
        "w": "matrix",
        "head": {"kernel": "rest"},
        "b": "rest",
        "norm": {"scale": "rest"},
    }
    groups = {"matrix": gdjax.muon(0.02), "embedding": gdjax.sgd(0.1), "rest": gdjax.adamw(1e-3)}
    tx = gdjax.partition(groups, gdjax.label_by_role(only=("matrix", "embedding")))
    state = tx.init(tree)
    updates, _ = jax.jit(tx.update)(tree, state, tree)
    assert_close(updates["embed"], -0.1 * tree["embed"])
    table = gdjax.explain(tx, tree)
    assert [group.partition("/")[0] for group in table["group"]] == ["rest", "embedding", "rest", "rest", "matrix"]
    assert not any("takes" in text for text in table.warnings)


@pytest.mark.full
def test_explain_shows_roles():
    tree = tree_of({"embed": (9, 8), "q/kernel": (2, 8, 8), "head/kernel": (8, 9), "qkv/kernel": (8, 24), "b": (8,)})
    by_role = functools.partial(gdjax.muon, 0.1, adam_learning_rate=0.01)
    table = gdjax.explain(by_role(muon_weight_dimension_numbers=gdjax.matrices_by_role()), tree)
    assert table["role"] == ["bias", "embedding", "head", "matrix 2 x 8 x 8", "matrix 3 x 8 x 8"]
    assert table["group"] == ["adam", "adam", "adam", "muon", "muon"] and table.warnings == ()
    assert "matrix 3 x 8 x 8" in repr(table) and "role" not in gdjax.explain(gdjax.adam(0.1), tree).columns
    # What a user says, a user means; what the default takes, is told.
    forced = gdjax.matrices_by_role({"embed": "matrix"})
    assert gdjax.explain(by_role(muon_weight_dimension_numbers=forced), tree).warnings == ()
    for tx in (gdjax.muon(0.1), gdjax.galore(0.1, 2), gdjax.partition({"a": gdjax.galore(0.1, 2)}, "a")):
        told = [w.partition(" looks like ")[2] for w in gdjax.explain(tx, tree).warnings if " looks like " in w]
        assert told == [
            "an embedding; give it to Adam, with matrices_by_role or label_by_role",
            "a head; give it to Adam, with matrices_by_role or label_by_role",
        ]


def test_explain_warns_of_what_is_taken():
    tree = tree_of({"embed": (9, 8), "head/kernel": (8, 9), "w": (8, 8)})
    numbers = {"embed": None, "head": {"kernel": gdjax.GaLoreDimensionNumbers()}, "w": None}
    for given in (numbers, lambda tree: numbers):
        (text,) = gdjax.explain(gdjax.galore(0.1, 2, weight_dimension_numbers=given), tree).warnings
        assert text.startswith("galore takes head/kernel for a matrix")
    assert gdjax.explain(gdjax.galore(0.1, 2, weight_dimension_numbers=gdjax.matrices_by_role()), tree).warnings == ()


def test_a_tree_without_a_last_layer_by_name_is_told():
    text = "no name tells which leaf is the head: if one of the matrices is the last layer, override it"
    tree = tree_of({"first/kernel": (4, 8), "second/kernel": (8, 3)})
    assert gdjax.roles(tree).warnings == (text,)
    assert gdjax.roles(tree, {"second": "head"}).warnings == ()
    assert gdjax.roles({**tree, "conv_init": jnp.ones((3, 3, 3, 8))}).warnings == (text,)
    assert gdjax.roles({**tree, "wte": jnp.ones((9, 8))}).warnings == ()  # the head may be tied to it
    assert gdjax.explain(gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role()), tree).warnings == (
        text,
    )


@pytest.mark.whole
@pytest.mark.parametrize("parts", [1, 2, (3, 5)])
def test_matrices_of_a_leaf_and_back(parts: Any):
    x = jax.random.normal(jax.random.key(0), (3, 8, 4))
    (leaf,) = plan_of("tx", x, Matrix(-1, -2, parts)).leaves
    stacks = leaf.split(x)
    assert [stack.shape for stack in stacks] == leaf.sizes and leaf.is_matrix
    assert_close(leaf.joined(stacks), x, rtol=0)


def test_numbers_that_are_no_plan():
    tree = tree_of({"w": (4, 8), "x": (3, 4, 8)})
    assert [leaf.role for leaf in plan_of("tx", tree).leaves] == ["matrix", "other"]
    with pytest.raises(ValueError, match=r"params\['x'\]: shape \(3, 4, 8\) is no matrix; give its Matrix by roles="):
        plan_of("tx", tree, default=Matrix())
    with pytest.raises(TypeError, match=r"tx: dimension numbers\['w'\] is 'head', neither a gdjax.Matrix nor None"):
        plan_of("tx", tree, {"w": "head", "x": None})
    with pytest.raises(ValueError, match=r"tx: params\['w'\]: the parts \(3, 4\) do not add up to 8 columns"):
        plan_of("tx", tree, {"w": Matrix(0, 1, (3, 4)), "x": None})


def test_the_plan_of_roles():
    leaves = plan_of("tx", tree_of({"embed": (9, 8), "qkv/kernel": (8, 24)}), routing(None)).leaves
    assert [(leaf.role, leaf.sizes) for leaf in leaves] == [("embedding", [(1, 1, 72)]), ("matrix", [(3, 8, 8)])]
    (leaf,) = plan_of("tx", tree_of({"qkv/kernel": (8, 24)}), routing({"qkv": Matrix(0, 1, (12, 6, 6))})).leaves
    assert leaf.sizes == [(1, 8, 12), (1, 8, 6), (1, 8, 6)] and str(leaf) == "8 x 12 + 8 x 6 + 8 x 6"


@pytest.mark.full
@pytest.mark.parametrize("make", [gdjax.normuon, gdjax.soap, gdjax.adam_mini, gdjax.scion])
def test_roles_may_be_a_tree_of_dictionaries(make: Any):
    tree = {"layer": {"kernel": Matrix(1, 0), "bias": None}, "last": None}
    params = tree_of({"layer/kernel": (4, 8), "layer/bias": (8,), "last/kernel": (8, 3)})
    tx, same = make(0.1, roles=tree), make(0.1, roles=lambda _: tree)
    (updates, state), (expected, other) = (x.update(params, x.init(params), params) for x in (tx, same))
    assert_close((updates, state), (expected, other), rtol=0)
    assert tx == make(0.1, roles=dict(tree)) and hash(tx) == hash(make(0.1, roles=dict(tree)))


@pytest.mark.full
def test_a_fused_q_k_v_is_three_matrices():
    """One step of Muon of it equals one of three leaves."""
    fused = tree_of({"attn/qkv/kernel": (8, 24), "attn/qkv/bias": (24,), "norm/scale": (8,)})
    q, k, v = jnp.split(fused["attn"]["qkv"]["kernel"], 3, 1)
    apart = {"q": {"kernel": q}, "k": {"kernel": k}, "v": {"kernel": v}}
    tx = gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role())
    got, _ = tx.update(fused, tx.init(fused), fused)
    want, _ = tx.update(apart, tx.init(apart), apart)
    together = jnp.concatenate([want[name]["kernel"] for name in "qkv"], 1)
    assert_close(got["attn"]["qkv"]["kernel"], together, 1e-5, 1e-6)
    uncut = gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role({"qkv/kernel": Matrix(0, 1)}))
    assert jnp.abs(uncut.update(fused, uncut.init(fused), fused)[0]["attn"]["qkv"]["kernel"] - together).max() > 1e-2
    # With fewer keys than queries.
    grouped = gdjax.matrices_by_role({"qkv/kernel": Matrix(0, 1, parts=(12, 6, 6))})
    tx = gdjax.muon(0.1, muon_weight_dimension_numbers=grouped)
    got, _ = tx.update(fused, tx.init(fused), fused)
    part, alone = {"w": fused["attn"]["qkv"]["kernel"][:, :12]}, gdjax.muon(0.1)
    want, _ = alone.update(part, alone.init(part), part)
    assert_close(got["attn"]["qkv"]["kernel"][:, :12], want["w"], 1e-5, 1e-6)


@pytest.mark.filterwarnings("ignore:gdjax.muon. no leaf is given the role")
def test_the_state_of_a_part_of_the_tree():
    """Under a mask of the user Muon finds the same matrices."""
    tree = tree_of({"embed": (9, 8), "q/kernel": (8, 2, 4), "last/kernel": (8, 9), "b": (8,)})
    by_role = gdjax.muon(0.1, adam_learning_rate=0.01, muon_weight_dimension_numbers=gdjax.matrices_by_role())
    whole, _ = by_role.update(tree, by_role.init(tree), tree)
    tx = gdjax.partition({"a": by_role, "b": gdjax.sgd(0.1)}, gdjax.label_by_path({"kernel": "a", ".*": "b"}))
    part, _ = tx.update(tree, tx.init(tree), tree)
    assert_close(part["q"], whole["q"])
    assert_close(np.asarray(part["embed"]), -0.1 * np.asarray(tree["embed"]))


def test_galore_by_role():
    tree = tree_of({"embed": (9, 8), "c/kernel": (3, 3, 4, 8), "w": (8, 8)})
    tx = gdjax.galore(0.1, 2, weight_dimension_numbers=gdjax.matrices_by_role())
    shapes = jax.tree.map(jnp.shape, gdjax.tree.get(tx.init(tree), "GaLoreState").projector)
    assert shapes == {"embed": gdjax.MaskedNode(), "c": {"kernel": (36, 2)}, "w": (8, 2)}


def test_injected_hyperparameters():
    tree = tree_of({"embed": (9, 8), "w": (8, 8)})
    given = {"adam_learning_rate": 0.01, "muon_weight_dimension_numbers": gdjax.matrices_by_role()}
    tx, plain = gdjax.inject_hyperparams(gdjax.muon)(0.1, **given), gdjax.muon(0.1, **given)
    assert_close(tx.update(tree, tx.init(tree), tree)[0], plain.update(tree, plain.init(tree), tree)[0])
