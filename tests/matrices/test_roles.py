"""Which leaf is what: names, shapes, other leaves, overrides."""

import functools
import pickle
import re
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import Matrix
from gdjax.matrices.plan import plan_of, routing
from gdjax.matrices.reading import name_of
from tests.trees import assert_close


def tree_of(shapes: dict[str, tuple[int, ...]]) -> Any:
    """A nested dict of normal arrays."""
    tree: Any = {}
    for i, (path, shape) in enumerate(shapes.items()):
        *places, last = path.split("/")
        part = tree
        for key in places:
            part = part.setdefault(key, {})
        part[last] = jax.random.normal(jax.random.key(i), shape)
    return tree


def roles(shapes: dict[str, tuple[int, ...]], overrides: Any = None) -> dict[str, str]:
    return {row.path: f"{row.role} {row.matrices}".rstrip() for row in gdjax.roles(tree_of(shapes), overrides)}


@pytest.mark.parametrize(
    ("path", "keys", "what"),
    [
        ("params/MultiHeadAttention_0/query/kernel", "multi_head_attention query kernel", "query"),
        ("LlamaRMSNorm_1/scale", "llamarms_norm scale", "scale"),
        ("model.layers.0.self_attn.q_proj.weight", "layers self_attn q_proj weight", "q_proj"),
        ("attn/in_proj_weight", "attn in_proj_weight", "in_proj"),
        ("mlp/~/linear_0/w", "mlp linear w", "linear"),
        ("A_log", "a_log", "a_log"),
        ("0/1", "", ""),
    ],
)
def test_names(path: str, keys: str, what: str):
    name = name_of(path)
    assert " ".join(name.keys) == keys and name.what == what


@pytest.mark.parametrize(
    ("path", "shape", "role"),
    [
        ("b", (4,), "bias"), ("b", (3, 4), "bias"), ("b1", (3, 4), "bias"), ("bq", (4,), "bias"),
        ("beta", (4,), "bias"),
        ("cell/bias_ih_l0", (4,), "bias"), ("rel/position_bias_table", (9, 4), "embedding"),
        ("g", (4,), "norm"), ("gamma", (2, 4), "norm"), ("ln1/w", (3, 4), "norm"), ("seq/1/weight", (4,), "norm"),
        ("norm/kernel", (4, 8), "matrix 4 x 8"), ("prenorm/fn/kernel", (4, 8), "matrix 4 x 8"),
        ("normal/kernel", (4, 8), "matrix 4 x 8"), ("temperature", (), "other"), ("x", (4,), "other"),
        ("tok/weight", (9, 4), "embedding"), ("token_mixer/kernel", (9, 4), "matrix 9 x 4"),
        ("member/kernel", (9, 4), "matrix 9 x 4"), ("embedder/layers/0/up/kernel", (4, 9), "matrix 4 x 9"),
        ("patch_embed/proj/kernel", (16, 16, 3, 8), "embedding"), ("patch_merging/kernel", (8, 4), "matrix 8 x 4"),
        ("conv_init/kernel", (7, 7, 4, 8), "embedding"), ("logitdense/kernel", (4, 9), "head"),
        ("unembed/kernel", (4, 9), "head"), ("policy_head/kernel", (4, 9), "head"), ("out/kernel", (4, 9), "head"),
        ("blocks/0/out/kernel", (4, 9), "matrix 4 x 9"), ("MultiHead_0/query/kernel", (4, 8), "matrix 4 x 8"),
        ("block/gate/kernel", (32, 4), "router"), ("block/gate/kernel", (32, 64), "matrix 32 x 64"),
        ("mlp/experts/gate", (4, 32, 8), "matrix 4 x 32 x 8"), ("value/kernel", (32, 1), "other"),
        ("cls", (1, 1, 8), "embedding"), ("cls", (1, 8), "embedding"), ("cls_token", (1, 1, 8), "embedding"),
        ("cls/kernel", (8, 10), "head"), ("cls/weight", (10, 8), "head"), ("cls/bias", (10,), "bias"),
        ("w", (2, 3), "matrix 2 x 3"), ("weight", (2, 3), "matrix 3 x 2"),
        ("router/router_weights/w/kernel", (32, 4), "router"), ("MAPHead_0/probe", (1, 1, 8), "embedding"),
        ("resampler/latents", (4, 8), "embedding"), ("resampler/latents/kernel", (4, 8), "matrix 4 x 8"),
        ("lora_A/weight", (4, 32), "matrix 32 x 4"), ("lora_b", (4, 32), "matrix 4 x 32"),
        # Heads with an axis of their own, and stacks of layers.
        ("attn/q_proj/kernel", (32, 4, 8), "matrix 32 x 32"), ("attn/k_proj/kernel", (32, 2, 8), "matrix 32 x 16"),
        ("attn/q_proj/kernel", (4, 32, 32), "matrix 4 x 32 x 32"), ("attn/wo", (4, 8, 32), "matrix 32 x 32"),
        ("attn/q_proj/kernel", (64, 32, 64), "matrix 64 x 32 x 64"), ("q/kernel", (4, 4, 8), "matrix 4 x 4 x 8"),
        ("attn/wo", (32, 24, 32), "matrix 32 x 24 x 32"),
        ("attn/wo", (4, 32, 32), "matrix 4 x 32 x 32"), ("mlp/wo", (4, 64, 32), "matrix 4 x 64 x 32"),
        ("attn/q_einsum/w", (4, 32, 8), "matrix 32 x 32"), ("attn/kv_einsum/w", (2, 1, 32, 8), "matrix 2 x 32 x 8"),
        ("attn/kv_einsum/w", (2, 2, 32, 8), "matrix 2 x 32 x 16"),
        ("attn/kv_proj/kernel", (2, 2, 32, 8), "matrix 2 x 32 x 16"),
        ("attn/qkv_einsum/w", (3, 3, 32, 8), "matrix 3 x 32 x 24"),
        ("attn/qkv/kernel", (3, 3, 32, 8), "matrix 3 x 32 x 24"),
        ("layers/feed_forward/w1", (4, 4, 8, 32), "matrix 16 x 8 x 32"),
        ("blocks/q/kernel", (64, 32, 32), "matrix 64 x 32 x 32"), ("layers/wq", (24, 16, 16), "matrix 24 x 16 x 16"),
        ("layers/attn/q_proj/kernel", (32, 4, 8), "matrix 32 x 32"),
        ("attn/q_proj/weight", (4, 8, 32), "matrix 32 x 32"), ("attn/o_proj/weight", (32, 4, 8), "matrix 32 x 32"),
        ("attn/q_proj/weight", (2, 2, 8, 32), "matrix 32 x 32"), ("attn/k_proj/weight", (2, 8, 32), "matrix 32 x 16"),
        ("layers/attn/k_proj/weight", (3, 2, 8, 32), "matrix 3 x 32 x 16"),
        ("layers/attn/o_proj/weight", (3, 32, 4, 8), "matrix 3 x 32 x 32"),
        ("attn/q_proj/weight", (4, 32, 32), "matrix 4 x 32 x 32"),
        ("attn/k_proj/weight", (12, 8, 32), "matrix 12 x 32 x 8"),
        ("mlp/o/weight", (32, 4, 8), "matrix 32 x 8 x 4"),
        ("attn/attn_vec_einsum/w", (4, 8, 32), "matrix 32 x 32"), ("moe/wo", (2, 4, 8, 32), "matrix 8 x 8 x 32"),
        # Fused matrices.
        ("attn/qkv/kernel", (8, 24), "matrix 3 x 8 x 8"), ("attn/Wqkv/weight", (24, 8), "matrix 3 x 8 x 8"),
        ("attn/in_proj_weight", (24, 8), "matrix 3 x 8 x 8"), ("attn/in_proj/kernel", (8, 24), "matrix 3 x 8 x 8"),
        ("mixer/in_proj/kernel", (8, 24), "matrix 8 x 24"), ("h/c_attn/weight", (8, 24), "matrix 3 x 8 x 8"),
        ("attn/qkv_w", (5, 8, 24), "matrix 15 x 8 x 8"), ("attn/qkv/kernel", (3, 32, 4, 8), "matrix 3 x 32 x 32"),
        ("attn/qkv/kernel", (5, 8, 24), "matrix 15 x 8 x 8"), ("attn/qkv/kernel", (8, 3, 2, 4), "matrix 3 x 8 x 8"),
        ("attn/qkv/kernel", (5, 8, 3, 2, 4), "matrix 15 x 8 x 8"), ("attn/qkv/kernel", (8, 3, 8), "matrix 3 x 8 x 8"),
        ("attn/qkv/kernel", (8, 2, 3, 4), "matrix 3 x 8 x 8"), ("attn/kv/kernel", (8, 6), "matrix 2 x 8 x 3"),
        ("mlp/gate_up_proj/kernel", (8, 24), "matrix 2 x 8 x 12"), ("mlp/w12/weight", (24, 8), "matrix 2 x 8 x 12"),
        # Convolutions.
        ("c1/kernel", (3, 3, 8, 16), "matrix 72 x 16"), ("c1/weight", (16, 8, 3, 3), "matrix 72 x 16"),
        ("conv/kernel", (3, 8, 16), "matrix 24 x 16"), ("dense/kernel", (3, 8, 16), "matrix 3 x 8 x 16"),
        ("conv/kernel", (3, 3, 3, 8, 16), "matrix 216 x 16"), ("conv/kernel", (9, 3, 3, 8, 16), "matrix 9 x 72 x 16"),
        ("layers/conv/kernel", (2, 3, 3, 8, 16), "matrix 2 x 72 x 16"),
        ("conv2d/weight", (2, 16, 8, 3, 3), "matrix 2 x 72 x 16"),
        ("conv/kernel", (3, 3, 1, 16), "other"), ("conv/weight", (16, 3, 7, 7), "embedding"),
        ("converter/kernel", (3, 8, 16), "matrix 3 x 8 x 16"), ("conv/kernel", (8, 16), "matrix 8 x 16"),
    ],
)  # fmt: skip
def test_of_one_leaf(path: str, shape: tuple[int, ...], role: str):
    assert roles({path: shape}) == {path: role}


def test_axes():
    tree = tree_of({"c/kernel": (3, 3, 8, 16), "d/weight": (16, 8, 3, 3), "q/kernel": (5, 32, 4, 8), "k": (9, 3, 4)})
    found = gdjax.matrices_by_role()(tree)
    assert found["c"]["kernel"] == Matrix((-4, -3, -2), -1) and found["d"]["weight"] == Matrix((-3, -2, -1), -4)
    assert found["q"]["kernel"] == Matrix(-3, (-2, -1)) and found["k"] == Matrix(-3, (-2, -1))


def test_other_leaves_tell_that_one_is_no_matrix():
    # Stacks of norms without a telling name: a linear map has an axis more than its biases.
    assert roles({"a/weight": (3, 4), "a/bias": (3, 4)})["a/weight"] == "norm"
    assert roles({"a/weight": (3, 4), "a/bias": (3,)})["a/weight"] == "matrix 4 x 3"
    # A vector for each matrix of a stack, but not a matrix beside heads.
    assert roles({"x/w": (3, 4, 8), "x/tau": (3, 8)})["x/tau"] == "other"
    assert roles({"x/wq": (32, 4, 8), "x/mix": (32, 64)})["x/mix"] == "matrix 32 x 64"
    assert roles({"x/proj_w": (3, 4, 8), "x/proj_b": (3, 8)})["x/proj_b"] == "bias"
    assert roles({"x/projw": (3, 8, 8), "x/projb": (3, 8)})["x/projb"] == "bias"
    assert roles({"x/lora_a": (3, 8, 2), "x/lora_b": (3, 8)})["x/lora_b"] == "matrix 3 x 8"  # no bias of another
    # A state-space model, whose eigenvalues are beside; elsewhere C is any matrix.
    assert set(roles({"s/Lambda_re": (4,), "s/B": (4, 8, 2), "s/C": (8, 4, 2)}).values()) == {"other"}
    assert roles({"s/c": (8, 4)})["s/c"] == "matrix 8 x 4"
    # Experts.
    assert roles({"m/gate/kernel": (8, 4), "m/experts/w1": (4, 8, 16)})["m/gate/kernel"] == "router"
    assert roles({"m/gate/kernel": (8, 4), "m/w1": (4, 8, 16)})["m/gate/kernel"] == "router"
    assert roles({"m/gate/kernel": (8, 4), "n/experts/w1": (4, 8, 16)})["m/gate/kernel"] == "matrix 8 x 4"
    # The vocabulary.
    assert roles({"tok": (50, 8), "last/kernel": (8, 50)})["last/kernel"] == "head"
    assert roles({"tok": (50, 8), "cls/predictions/decoder/w": (8, 50)})["cls/predictions/decoder/w"] == "head"
    assert roles({"tok": (50, 8), "layers/up/kernel": (8, 50)})["layers/up/kernel"] == "matrix 8 x 50"
    assert roles({"tok": (50, 8), "block_0/up/kernel": (8, 50)})["block_0/up/kernel"] == "matrix 8 x 50"
    assert roles({"tok": (50, 8), "block/up/kernel": (6, 8, 50)})["block/up/kernel"] == "matrix 6 x 8 x 50"
    assert roles({"wpe": (50, 8), "up/kernel": (8, 50)})["up/kernel"] == "matrix 8 x 50"
    named = {"tok": (50, 8), "up/kernel": (8, 50), "lm_head/kernel": (8, 50)}
    assert roles(named)["up/kernel"] == "matrix 8 x 50"
    hidden = tree_of(named) | {"lm_head": gdjax.MaskedNode()}
    assert gdjax.matrices_by_role()(hidden)["up"]["kernel"] == Matrix(-2, -1)  # as where the head is seen
    assert roles({"tok": (8, 8), "first/kernel": (8, 8)})["first/kernel"] == "matrix 8 x 8"
    # a and b are two arrays.
    assert roles({"a": (3, 4), "b": (4, 3)}) == {"a": "matrix 3 x 4", "b": "matrix 4 x 3"}
    assert gdjax.matrices_by_role()({"a": gdjax.MaskedNode(), "b": jnp.ones((4, 3))})["b"] == Matrix(-2, -1)


@pytest.mark.parametrize(("gates", "cell"), [(3, eqx.nn.GRUCell), (4, eqx.nn.LSTMCell)])
@pytest.mark.parametrize("inputs", [16, 32, 96, 128])
def test_the_gates_of_a_recurrent_cell(gates: int, cell: Any, inputs: int):
    made = cell(inputs, 32, key=jax.random.key(0))
    found = {row.path: row.matrices for row in gdjax.roles(eqx.filter(made, eqx.is_inexact_array))}
    assert found["weight_ih"] == f"{gates} x {inputs} x 32" and found["weight_hh"] == f"{gates} x 32 x 32"


def test_gates_under_other_names():
    of_torch = {"weight_ih_l0_reverse": (96, 16), "weight_hh_l0_reverse": (96, 32), "weight_hh_l0": (96, 24)}
    assert roles(of_torch)["weight_ih_l0_reverse"] == "matrix 3 x 16 x 32"
    of_flax = {"cell/dense_i/kernel": (16, 128), "cell/dense_h/kernel": (32, 128)}
    assert roles(of_flax)["cell/dense_i/kernel"] == "matrix 4 x 16 x 32"
    assert roles({"weight_ih": (3, 96, 16), "weight_hh": (3, 96, 32)})["weight_ih"] == "matrix 9 x 16 x 32"
    assert roles({"weight_ih": (32, 16), "weight_hh": (32, 32)})["weight_ih"] == "matrix 16 x 32"  # a cell without
    hidden = {"weight_ih": jnp.ones((96, 16)), "weight_hh": gdjax.MaskedNode()}
    (told,) = gdjax.matrices_by_role().notes(hidden)
    assert told.startswith("it cannot be known where its 96 outputs are cut, as a mask hides weight_hh")


@pytest.mark.parametrize(
    ("shapes", "leaf", "role", "unknown"),
    [
        ({"attn/qkv/kernel": (8, 16)}, "attn/qkv/kernel", "matrix 8 x 16", "where its 16 outputs are cut"),
        ({"query_key_value/w": (8, 24)}, "query_key_value/w", "matrix 8 x 24", "where its 24 outputs are cut"),
        ({"Conv_0/kernel": (2, 3, 3, 4, 8), "Conv_0/bias": (2, 8)}, "Conv_0/kernel", "other", "its bias has"),
        ({"x/kernel": (4, 8, 32), "x/bias": (32,)}, "x/kernel", "other", "its bias has the shape (32,)"),
        ({"layers/up/kernel": (8, 3, 16), "layers/ln/scale": (8, 3), "layers/down/kernel": (16, 3, 8)},
         "layers/up/kernel", "matrix 8 x 3 x 16", "along which axis its layers lie"),
        ({"DenseGeneral_0/kernel": (4, 8, 32)}, "DenseGeneral_0/kernel", "other", "which axes of shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_known(shapes: dict[str, tuple[int, ...]], leaf: str, role: str, unknown: str):
    tree = tree_of(shapes)
    table = gdjax.roles(tree)
    assert roles(shapes)[leaf] == role
    (text,) = [w for w in table.warnings if w.startswith("it cannot be known") and f"{leaf} of shape" in w]
    assert unknown in text and f"{leaf!r}: gdjax.Matrix(" in text
    with pytest.warns(UserWarning, match=re.escape(unknown)):
        gdjax.matrices_by_role()(tree)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gdjax.matrices_by_role()({**tree, "hidden": gdjax.MaskedNode()})
        gdjax.matrices_by_role({leaf: Matrix(-2, -1)})(tree)
    tx = gdjax.muon(0.1, muon_weight_dimension_numbers=gdjax.matrices_by_role())
    with pytest.warns(UserWarning, match=re.escape(f"gdjax.muon: {text}")):
        tx.init(tree)
    assert text in gdjax.explain(tx, tree).warnings


@pytest.mark.parametrize("name", ["{}/kernel", "{}"])
@pytest.mark.parametrize("layers", [(), (3,)])
def test_query_key_and_value_tell_the_axes_of_the_output(layers: tuple[int, ...], name: str):
    """Where a head is as wide as the model, the shape of the output alone looks like a stack."""
    place = "layers/attn" if layers else "attn"
    shapes = {f"{place}/{name.format(k)}": (*layers, 8, 2, 8) for k in ("query", "key", "value")}
    out = f"{place}/{name.format('out')}"
    number = "3 x " if layers else ""
    for bias in ({}, {f"{place}/out/bias": (*layers, 8)} if "/" in name else {}):
        assert roles({**shapes, out: (*layers, 2, 8, 8), **bias})[out] == f"matrix {number}16 x 8"
    stack = {path: (2, 4, 4) for path in (f"attn/{k}/kernel" for k in ("query", "key", "out"))}
    assert set(roles(stack).values()) == {"matrix 2 x 4 x 4"}
    assert gdjax.roles(tree_of({**stack, "head": (4, 3)})).warnings == ()


@pytest.mark.parametrize(
    ("shapes", "axes"),
    [
        ({"c_fc/kernel": (32, 8), "c_fc/bias": (32,)}, {"c_fc/kernel": "1, 0"}),  # Hugging Face's Conv1D
        ({"up/weight": (8, 4, 2, 2), "up/bias": (4,)}, {"up/weight": "(0, 2, 3), 1"}),  # a transposed convolution
        ({  # MaxText's layers, along the second axis
            "layers/mlp/wi/kernel": (64, 3, 96), "layers/norm/scale": (64, 3), "layers/mlp/wo/kernel": (96, 3, 64),
            "layers/attn/query/kernel": (64, 3, 4, 16), "layers/attn/out/kernel": (4, 3, 16, 64),
        }, {
            "layers/mlp/wi/kernel": "0, 2", "layers/mlp/wo/kernel": "0, 2", "layers/attn/query/kernel": "0, (2, 3)",
            "layers/attn/out/kernel": "(0, 2), 3",
        }),
    ],
)  # fmt: skip
def test_the_axes_that_a_warning_tells_are_right(shapes: dict[str, tuple[int, ...]], axes: dict[str, str]):
    tree = tree_of(shapes)
    told = [text for text in gdjax.roles(tree).warnings if text.startswith("it cannot be known")]
    assert len(told) == len(axes)
    for path, expected in axes.items():
        assert any(f"override it by {{{path!r}: gdjax.Matrix({expected})}}, in the roles" in text for text in told)
    overrides = {f"^{path}$": eval(f"Matrix({expected})") for path, expected in axes.items()}
    assert not [text for text in gdjax.roles(tree, overrides).warnings if "cannot be known" in text]


def test_layers_along_the_first_axis_are_not_told():
    shapes = {"layers/up/kernel": (3, 8, 16), "layers/ln/scale": (3, 8), "layers/down/kernel": (3, 16, 8)}
    two = {"enc/layers/q/kernel": (2, 8, 2, 4), "enc/layers/ln/scale": (2, 8), "dec/layers/q/kernel": (4, 8, 2, 4)}
    for of in (shapes, {**two, "dec/layers/ln/scale": (4, 8)}):
        assert not [text for text in gdjax.roles(tree_of(of)).warnings if "cannot be known" in text]


def test_as_many_heads_as_inputs_are_told():
    shapes = {f"attn/{k}/kernel": (8, 8, 8) for k in ("query", "key", "value", "out")}
    tree = tree_of({**shapes, "attn/query/bias": (8, 8), "attn/out/bias": (8,), "head": (8, 3)})
    table = gdjax.roles(tree)
    for text, path, axes in zip(
        table.warnings, sorted(shapes), ("0, (1, 2)", "(0, 1), 2", "0, (1, 2)", "0, (1, 2)"), strict=True
    ):
        assert f"{{{path!r}: gdjax.Matrix({axes})}}, in the roles of the method and, where label_by_role" in text
    overrides = {"(query|key|value)/kernel": Matrix(0, (1, 2)), "out/kernel": Matrix((0, 1), 2)}
    table = gdjax.roles(tree, overrides)
    assert table.warnings == () and {x for x in table["matrices"] if x} == {"8 x 64", "64 x 8"}
    stacked = {f"layers/{path}": shape for path, shape in shapes.items()}
    assert not [text for text in gdjax.roles(tree_of(stacked)).warnings if "cannot be known" in text]


SHAPES = {"layer/kernel": (8, 4), "layer/bias": (4,), "last/kernel": (4, 3)}


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


def axes_of(shapes: dict[str, tuple[int, ...]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """For each path the axes of the matrix, None for no matrix."""
    found = gdjax.matrices_by_role(*args, **kwargs)(tree_of(shapes))
    return {path: functools.reduce(dict.__getitem__, path.split("/"), found) for path in shapes}


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


@pytest.mark.parametrize("make", [gdjax.normuon, gdjax.soap, gdjax.adam_mini, gdjax.scion])
def test_roles_may_be_a_tree_of_dictionaries(make: Any):
    tree = {"layer": {"kernel": Matrix(1, 0), "bias": None}, "last": None}
    params = tree_of({"layer/kernel": (4, 8), "layer/bias": (8,), "last/kernel": (8, 3)})
    tx, same = make(0.1, roles=tree), make(0.1, roles=lambda _: tree)
    (updates, state), (expected, other) = (x.update(params, x.init(params), params) for x in (tx, same))
    assert_close((updates, state), (expected, other), rtol=0)
    assert tx == make(0.1, roles=dict(tree)) and hash(tx) == hash(make(0.1, roles=dict(tree)))


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


def test_galore_by_role():
    tree = tree_of({"embed": (9, 8), "c/kernel": (3, 3, 4, 8), "w": (8, 8)})
    tx = gdjax.galore(0.1, 2, weight_dimension_numbers=gdjax.matrices_by_role())
    shapes = jax.tree.map(jnp.shape, gdjax.tree.get(tx.init(tree), "GaLoreState").projector)
    assert shapes == {"embed": gdjax.MaskedNode(), "c": {"kernel": (36, 2)}, "w": (8, 2)}


def test_the_plan_of_roles():
    leaves = plan_of("tx", tree_of({"embed": (9, 8), "qkv/kernel": (8, 24)}), routing(None)).leaves
    assert [(leaf.role, leaf.sizes) for leaf in leaves] == [("embedding", [(1, 1, 72)]), ("matrix", [(3, 8, 8)])]
    (leaf,) = plan_of("tx", tree_of({"qkv/kernel": (8, 24)}), routing({"qkv": Matrix(0, 1, (12, 6, 6))})).leaves
    assert leaf.sizes == [(1, 8, 12), (1, 8, 6), (1, 8, 6)] and str(leaf) == "8 x 12 + 8 x 6 + 8 x 6"


def test_injected_hyperparameters():
    tree = tree_of({"embed": (9, 8), "w": (8, 8)})
    given = {"adam_learning_rate": 0.01, "muon_weight_dimension_numbers": gdjax.matrices_by_role()}
    tx, plain = gdjax.inject_hyperparams(gdjax.muon)(0.1, **given), gdjax.muon(0.1, **given)
    assert_close(tx.update(tree, tx.init(tree), tree)[0], plain.update(tree, plain.init(tree), tree)[0])
