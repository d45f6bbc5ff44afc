"""Functions of trees: the names of `optax.tree`, `global_norm` and `pairwise_sum`."""

from gdjax.tree.arithmetic import (
    add,
    add_scale,
    batch_shape,
    bias_correction,
    clip,
    conj,
    div,
    full_like,
    mul,
    ones_like,
    real,
    scale,
    sub,
    update_infinity_moment,
    update_moment,
    update_moment_per_elem_norm,
    where,
    zeros_like,
)
from gdjax.tree.casting import cast, cast_like, dtype
from gdjax.tree.euclidean import global_norm
from gdjax.tree.norms import allclose, max, min, norm, size, sum, vdot
from gdjax.tree.random import random_like, split_key_like, unwrap_random_key_data
from gdjax.tree.states import get, get_all_with_path, map_params, set
from gdjax.tree.sums import pairwise_sum

__all__ = [
    "add",
    "add_scale",
    "allclose",
    "batch_shape",
    "bias_correction",
    "cast",
    "cast_like",
    "clip",
    "conj",
    "div",
    "dtype",
    "full_like",
    "get",
    "get_all_with_path",
    "global_norm",
    "map_params",
    "max",
    "min",
    "mul",
    "norm",
    "ones_like",
    "pairwise_sum",
    "random_like",
    "real",
    "scale",
    "set",
    "size",
    "split_key_like",
    "sub",
    "sum",
    "unwrap_random_key_data",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "vdot",
    "where",
    "zeros_like",
]
