"""Functions of trees under the names of `optax.tree_utils`: `tree_add` is `gdjax.tree.add`, and so on.

Optax's older names are here too: `tree_scalar_mul`, `tree_add_scalar_mul`, `tree_l1_norm`, `tree_l2_norm` and
`tree_linf_norm`.
"""

from functools import partial

from gdjax.tree import (
    add as tree_add,
)
from gdjax.tree import (
    add_scale as tree_add_scale,
)
from gdjax.tree import (
    allclose as tree_allclose,
)
from gdjax.tree import (
    batch_shape as tree_batch_shape,
)
from gdjax.tree import (
    bias_correction as tree_bias_correction,
)
from gdjax.tree import (
    cast as tree_cast,
)
from gdjax.tree import (
    cast_like as tree_cast_like,
)
from gdjax.tree import (
    clip as tree_clip,
)
from gdjax.tree import (
    conj as tree_conj,
)
from gdjax.tree import (
    div as tree_div,
)
from gdjax.tree import (
    dtype as tree_dtype,
)
from gdjax.tree import (
    full_like as tree_full_like,
)
from gdjax.tree import (
    get as tree_get,
)
from gdjax.tree import (
    get_all_with_path as tree_get_all_with_path,
)
from gdjax.tree import (
    map_params as tree_map_params,
)
from gdjax.tree import (
    max as tree_max,
)
from gdjax.tree import (
    min as tree_min,
)
from gdjax.tree import (
    mul as tree_mul,
)
from gdjax.tree import (
    norm as tree_norm,
)
from gdjax.tree import (
    ones_like as tree_ones_like,
)
from gdjax.tree import (
    random_like as tree_random_like,
)
from gdjax.tree import (
    real as tree_real,
)
from gdjax.tree import (
    scale as tree_scale,
)
from gdjax.tree import (
    set as tree_set,
)
from gdjax.tree import (
    size as tree_size,
)
from gdjax.tree import (
    split_key_like as tree_split_key_like,
)
from gdjax.tree import (
    sub as tree_sub,
)
from gdjax.tree import (
    sum as tree_sum,
)
from gdjax.tree import (
    unwrap_random_key_data as tree_unwrap_random_key_data,
)
from gdjax.tree import (
    update_infinity_moment as tree_update_infinity_moment,
)
from gdjax.tree import (
    update_moment as tree_update_moment,
)
from gdjax.tree import (
    update_moment_per_elem_norm as tree_update_moment_per_elem_norm,
)
from gdjax.tree import (
    vdot as tree_vdot,
)
from gdjax.tree import (
    where as tree_where,
)
from gdjax.tree import (
    zeros_like as tree_zeros_like,
)
from gdjax.tree.states import NamedTupleKey

tree_scalar_mul, tree_add_scalar_mul = tree_scale, tree_add_scale
tree_l1_norm, tree_l2_norm, tree_linf_norm = (partial(tree_norm, ord=ord) for ord in (1, 2, "inf"))

__all__ = [
    "NamedTupleKey",
    "tree_add",
    "tree_add_scalar_mul",
    "tree_add_scale",
    "tree_allclose",
    "tree_batch_shape",
    "tree_bias_correction",
    "tree_cast",
    "tree_cast_like",
    "tree_clip",
    "tree_conj",
    "tree_div",
    "tree_dtype",
    "tree_full_like",
    "tree_get",
    "tree_get_all_with_path",
    "tree_l1_norm",
    "tree_l2_norm",
    "tree_linf_norm",
    "tree_map_params",
    "tree_max",
    "tree_min",
    "tree_mul",
    "tree_norm",
    "tree_ones_like",
    "tree_random_like",
    "tree_real",
    "tree_scalar_mul",
    "tree_scale",
    "tree_set",
    "tree_size",
    "tree_split_key_like",
    "tree_sub",
    "tree_sum",
    "tree_unwrap_random_key_data",
    "tree_update_infinity_moment",
    "tree_update_moment",
    "tree_update_moment_per_elem_norm",
    "tree_vdot",
    "tree_where",
    "tree_zeros_like",
]
