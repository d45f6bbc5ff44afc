"""What a leaf is by the leaves around it."""

import re
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import Matrix
from tests.leaf_roles.leaves import roles, tree_of


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
        ({"layers/up/kernel": (8, 3, 16), "layers/ln/scale": (16, 3)},
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
