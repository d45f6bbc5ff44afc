"""What a leaf is by its name and its shape, and which of its axes are those of a matrix."""

from typing import Any

import pytest

import gdjax
from gdjax import Matrix
from gdjax.leaf_roles.names import name_of
from gdjax.leaf_roles.reading import Reading, matrix_of, read, sides_of, sizes_of
from tests.leaf_roles.leaves import roles, tree_of


def reading(path: str, shape: tuple[int, ...], override: Any = None, trained: bool = True) -> Reading:
    return read(path, shape, trained, override, frozenset())


def test_an_override_goes_before_the_name():
    assert reading("embed", (9, 4)).role == "embedding" and reading("embed", (9, 4), "head").role == "head"
    assert reading("embed", (9, 4), "matrix").role == Matrix(-2, -1) == reading("embed", (9, 4), Matrix(-2, -1)).role
    assert reading("embed", (9, 4), "matrix", trained=False).role == "other"
    assert reading("embed", (9, 4)).as_matrix == Matrix(-2, -1) and reading("embed", (9, 4)).kind == "embedding"


def test_places():
    leaf, alone = reading("enc/layers/attn/q/kernel", (3, 8, 8)), reading("enc/layers/0/attn/q", (8, 8))
    assert (leaf.module, leaf.around, leaf.stack) == ("enc/layers/attn/q", "enc/layers/attn", "enc/layers")
    assert (alone.module, alone.around, alone.stack) == ("enc/layers/0/attn", "enc/layers/0/attn", "")
    assert (leaf.leading_axes, alone.leading_axes, reading("b", (8,)).leading_axes) == (1, 0, 0)


def test_sides():
    leaf = reading("attn/q/kernel", (32, 4, 8))
    assert leaf.sides(1) == (0, (1, 2)) and leaf.sides(2) == ((0, 1), 2) and leaf.sides(1, 1) == (1, 2)
    assert reading("layers/q/kernel", (32, 3, 4, 8)).sides_without(1) == (0, (2, 3))


def test_a_note_says_what_to_write():
    leaf = reading("x/kernel", (4, 8, 16))._replace(role="other")
    assert leaf.with_note("") == leaf and not leaf.note
    assert leaf.with_note("why").note == (
        "it cannot be known why: x/kernel of shape (4, 8, 16) is given the role 'other'; override it by "
        "{'x/kernel': gdjax.Matrix(0, (1, 2))} or {'x/kernel': gdjax.Matrix((0, 1), 2)}, in the roles of the method "
        "and, where label_by_role makes the groups, there too"
    )
    assert "taken for 4 matrices of 8 x 16; override it by {'x/kernel': gdjax.Matrix(0, 1)}, in" in (
        reading("x/kernel", (4, 8, 16)).with_note("why", [(0, 1)]).note
    )


@pytest.mark.whole
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


AXES_BY_NAME_AND_SHAPE = [
    ("up/kernel", (4, 8), Matrix(-2, -1)), ("up/weight", (4, 8), Matrix(-1, -2)),
    ("up/w", (3, 4, 8), Matrix(-2, -1)),
    ("qkv/kernel", (8, 24), Matrix(-2, -1, 3)), ("c_attn/weight", (8, 24), Matrix(-2, -1, 3)),
    ("gate_up/kernel", (4, 8), Matrix(-2, -1, 2)), ("lstm/weight_ih", (32, 4), Matrix(-1, -2, 4)),
    ("gru/weight_hh", (24, 8), Matrix(-1, -2, 3)), ("q/kernel", (32, 4, 8), Matrix(-3, (-2, -1))),
    ("out/kernel", (4, 8, 32), Matrix((-3, -2), -1)), ("mlp/out/kernel", (4, 8, 32), Matrix(-2, -1)),
    ("q/weight", (4, 8, 32), Matrix(-1, (-3, -2))), ("out/weight", (32, 4, 8), Matrix((-2, -1), -3)),
    ("q_einsum/w", (4, 32, 8), Matrix(-2, (-3, -1))), ("qkv/kernel", (3, 32, 4, 8), Matrix(-3, (-2, -1))),
    ("kv_b/kernel", (16, 4, 80), Matrix(-3, (-2, -1))), ("conv/kernel", (3, 3, 4, 8), Matrix((-4, -3, -2), -1)),
    ("conv/weight", (8, 4, 3, 3), Matrix((-3, -2, -1), -4)),
]  # fmt: skip


def test_axes_by_name_and_shape():
    for path, shape, matrix in AXES_BY_NAME_AND_SHAPE:
        assert matrix_of(name_of(path), shape) == (matrix, ""), path


def test_columns_that_are_no_three_parts():
    found = matrix_of(name_of("qkv/kernel"), (8, 16))
    assert found == (Matrix(-2, -1), "where its 16 outputs are cut")


def test_sizes():
    assert sizes_of(Matrix(-3, (-2, -1)), (5, 32, 4, 8)) == (32, 32) and sizes_of(Matrix(), (4, 8)) == (4, 8)
    assert sides_of(Matrix(0, (1, 2))) == ((0,), (1, 2))


def test_axes():
    tree = tree_of({"c/kernel": (3, 3, 8, 16), "d/weight": (16, 8, 3, 3), "q/kernel": (5, 32, 4, 8), "k": (9, 3, 4)})
    found = gdjax.matrices_by_role()(tree)
    assert found["c"]["kernel"] == Matrix((-4, -3, -2), -1) and found["d"]["weight"] == Matrix((-3, -2, -1), -4)
    assert found["q"]["kernel"] == Matrix(-3, (-2, -1)) and found["k"] == Matrix(-3, (-2, -1))
