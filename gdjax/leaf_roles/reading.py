"""What a leaf is by its name and its shape: its role, and which of its axes are the rows and columns of a matrix.

Conventions: arrays called `weight` are (outputs, inputs, window), as in Equinox and PyTorch; all others are
(window, inputs, outputs), as in Flax. Axes before these are stacks of layers or experts.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from gdjax.leaf_roles.names import MLPS, QUERIES, Name, in_words, name_of, role_by_name, stands_for
from gdjax.linalg.matrices import Matrix

LARGEST_WINDOW, LARGEST_PATCH = 7, 32
WIDEST_HEAD = 256  # numbers; the inputs of a layer without an axis of heads are more
Sides = tuple[Any, Any]  # the axes of the inputs and of the outputs, as in a `Matrix`


class Reading(NamedTuple):
    """A leaf, and what it is."""

    path: str
    name: Name
    shape: tuple[int, ...]
    role: Matrix | str
    note: str = ""  # on anything unknown

    @property
    def kind(self) -> str:
        """Its role, "matrix" where that is a `Matrix`."""
        return self.role if isinstance(self.role, str) else "matrix"

    @property
    def as_matrix(self) -> Matrix:
        """How it is a matrix, or would be one."""
        return self.role if isinstance(self.role, Matrix) else matrix_of(self.name, self.shape)[0]

    @property
    def module(self) -> str:
        return module_and_key(self.path)[0]

    @property
    def around(self) -> str:
        """The path around its layer: attn for attn/query/kernel and for attn/query."""
        return module_and_key(self.module)[0] if self.name.is_array else self.module

    @property
    def stack(self) -> str:
        """The path of the stack in which it has all layers; "" for none."""
        keys = self.path.replace(".", "/").split("/")
        ends = (i for i, key in enumerate(keys) if stands_for(in_words(key), "stack"))
        return "/".join(keys[: next(ends, -1) + 1]) if self.name.stacked else ""

    @property
    def leading_axes(self) -> int:
        """The number of axes of a matrix before all of its inputs and outputs; 0 for no matrix."""
        if not (isinstance(self.role, Matrix) and self.shape):
            return 0
        return min(i % len(self.shape) for axes in sides_of(self.role) for i in axes)

    def without_note(self, role: Matrix | str) -> "Reading":
        return self._replace(role=role, note="")

    def with_note(self, unknown: str, choices: Sequence[Sides] = ()) -> "Reading":
        """The same, with a note on what is unknown.

        Args:
          choices: the axes of the inputs and of the outputs that an override may name.
        """
        if not unknown:
            return self
        is_matrix = isinstance(self.role, Matrix)
        is_taken = "taken for one matrix" if is_matrix else f"given the role {self.role!r}"
        if self.leading_axes:
            is_taken = f"taken for {math.prod(self.shape[:-2])} matrices of {self.shape[-2]} x {self.shape[-1]}"
        if is_matrix and not choices:
            arguments = ["-1, -2, parts=..." if self.name.outputs_first else "-2, -1, parts=..."]
        else:  # without choices, one axis of inputs or one of outputs
            choices = choices or list(dict.fromkeys((self.sides(1), self.sides(len(self.shape) - 1))))
            arguments = [f"{rows}, {columns}" for rows, columns in choices]
        how = " or ".join(f"{{{self.path!r}: gdjax.Matrix({x})}}" for x in arguments)
        where = "in the roles of the method and, where label_by_role makes the groups, there too"
        is_read = f"{self.path} of shape {self.shape} is {is_taken}"
        return self._replace(note=f"it cannot be known {unknown}: {is_read}; override it by {how}, {where}")

    def sides(self, inputs: int, first: int = 0) -> Sides:
        """The axes of the inputs, `inputs` many after the first axes, and of the outputs, which follow."""
        axes = list(range(first, len(self.shape)))
        return one_or_all(axes[:inputs]), one_or_all(axes[inputs:])

    def sides_without(self, axis: int) -> Sides:
        """The axes of the inputs and of the outputs, if one axis is of layers."""
        rest = [i for i in range(len(self.shape)) if i != axis]
        matrix, _ = matrix_of(self.name._replace(stacked=False), [self.shape[i] for i in rest])
        rows, columns = (one_or_all([rest[i] for i in axes]) for axes in sides_of(matrix))
        return rows, columns


def one_or_all(axes: Sequence[int]) -> Any:
    return axes[0] if len(axes) == 1 else tuple(axes)


def module_and_key(path: str) -> tuple[str, str]:
    """The path of the layer, and the leaf's own key. A state dict has the whole path in one key, with dots."""
    module, _, key = path.replace(".", "/").rpartition("/")
    return module, key


@functools.lru_cache(maxsize=4096)  # all slots of an optimizer ask
def read(path: str, shape: tuple[int, ...], trained: bool, override: Any, siblings: frozenset[str]) -> Reading:
    """The reading of one leaf.

    Args:
      trained: whether its numbers are floating.
      override: its role or `Matrix` where the user says it; else None.
      siblings: the last keys of the leaves beside it, also of those that a mask hides.
    """
    name, role, unknown = name_of(path), override, ""
    if not trained:
        role = "other"
    elif override is None:
        role, unknown = role_of(name, shape, siblings)
    elif override == "matrix":
        role = matrix_of(name, shape)[0] if len(shape) > 1 else Matrix()  # the plan says that it is none
    return Reading(path, name, shape, role).with_note(unknown)


def role_of(name: Name, shape: tuple[int, ...], siblings: frozenset[str]) -> tuple[Matrix | str, str]:
    """How a leaf is a matrix, or its role if it is none; and a note on anything unknown about that."""
    if role := role_by_name(name, len(shape), siblings):
        return role, ""
    if len(shape) < 2:
        return "norm" if name.is_array else "other", ""
    if name.near("general") and len(shape) > 2:
        return "other", f"which axes of shape {shape} are inputs"
    if window := window_axes(name, shape):
        channels = shape[-window - 1] if name.outputs_first else shape[-2]
        if channels == 1:
            return "other", ""  # depthwise, or of grey pictures: no channels are mixed
        # A patch of a coloured picture is embedded.
        return "embedding" if channels == 3 and window == 2 else matrix_of_convolution(name, window), ""
    matrix, unknown = matrix_of(name, shape)
    inputs, outputs = sizes_of(matrix, shape)
    if min(inputs, outputs) <= 1:
        return "other", ""  # a vector
    return ("router", "") if name.is_gate and 4 * outputs <= inputs else (matrix, unknown)


def sides_of(matrix: Matrix) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of the rows and of the columns, as they are named."""
    rows, columns = ((axes,) if isinstance(axes, int) else tuple(axes) for axes in matrix[:2])
    return rows, columns


def sizes_of(matrix: Matrix, shape: Sequence[int]) -> tuple[int, int]:
    """The inputs and outputs of a matrix."""
    rows, columns = (math.prod(shape[i] for i in axes) for axes in sides_of(matrix))
    return rows, columns


def matrix_of(name: Name, shape: Sequence[int]) -> tuple[Matrix, str]:
    """How an array of two axes or more is a matrix; and a note on anything unknown about that."""
    if window := window_axes(name, shape):
        return matrix_of_convolution(name, window), ""
    if heads := _heads_of_outputs_first(name, shape) if name.outputs_first else _heads(name, shape):
        return heads, ""
    rows, columns = (-1, -2) if name.outputs_first else (-2, -1)
    inputs, outputs = shape[rows], shape[columns]
    if name.is_qkv and inputs == 3 * outputs:  # GPT-2's weights of PyTorch are (inputs, outputs)
        return Matrix(columns, rows, 3), ""
    parts = _parts(name, inputs, outputs)
    if outputs == 3 * inputs if name.is_qkv else outputs % parts == 0 and not name.layer_is("qkv_by_head"):
        return Matrix(rows, columns, parts), ""
    return Matrix(rows, columns), f"where its {outputs} outputs are cut"


def _parts(name: Name, inputs: int, outputs: int) -> int:
    """The number of matrices side by side, by the name."""
    if name.is_qkv:
        return 3
    if name.layer_is("gates_of_state") and outputs in (3 * inputs, 4 * inputs):
        return outputs // inputs
    if name.layer_is("gates_of_inputs", "gates_of_state"):
        keys = " ".join(name.keys)
        return 4 if "lstm" in keys else 3 if "gru" in keys else 1
    return 2 if name.layer_is("kv", "gate_up") else 1


def _heads(name: Name, shape: Sequence[int]) -> Matrix | None:
    """The axes of attention whose heads have an axis of their own."""
    if len(shape) < 3:
        return None
    a, b, c = shape[-3:]
    if name.layer_is("heads_first"):
        return Matrix(-2, (-3, -1))
    if fused := 3 if name.layer_is("qkv") else 2 if name.layer_is("kv") else 0:
        if len(shape) > 3 and shape[-4] == fused:  # before the heads, or before the inputs
            return Matrix(-3, (-2, -1)) if a == b * c else Matrix(-2, (-3, -1))
        if len(shape) > 3 and a == fused:
            return Matrix(-4, (-2, -1))
        if b == fused:
            return Matrix(-4, (-3, -1)) if len(shape) > 3 else Matrix(-3, -1)
        return Matrix(-3, (-2, -1)) if len(shape) > 3 and a > b else None
    latent = name.layer_is("latent")
    if latent or name.layer_is(*QUERIES):  # not a stack, of which the first axis is the shortest
        most = 2 if name.stacked and len(shape) == 3 else 16  # outputs for each input; in a stack b inputs
        return Matrix(-3, (-2, -1)) if a > b and (b * c <= most * a or latent) else None
    if name.layer_is("output") and not name.within(*MLPS):
        return Matrix((-3, -2), -1) if b < c and a * b <= 4 * c else None
    return None


def _heads_of_outputs_first(name: Name, shape: Sequence[int]) -> Matrix | None:
    """The axes of attention in arrays of outputs first: (heads, size, inputs), or (outputs, heads, size)."""
    axes = list(range(int(name.stacked) - len(shape), 0))
    query, output = name.layer_is(*QUERIES), name.layer_is("output")
    if len(axes) < 3 or not (query or output and not name.within(*MLPS)):
        return None
    width, heads = (axes[-1], axes[:-1]) if query else (axes[0], axes[1:])
    if shape[heads[-1]] > WIDEST_HEAD or shape[heads[-1]] >= shape[width]:
        return None
    if shape[width] % math.prod(shape[i] for i in heads):
        return None
    return Matrix(width, tuple(heads)) if query else Matrix(tuple(heads), width)


def window_axes(name: Name, shape: Sequence[int]) -> int:
    """The number of axes of a convolution's window; 0 for no convolution."""
    ndim, by_name = len(shape), name.window_axes
    if ndim < 3 or name.layer_is(*QUERIES, "output", "heads_first", "qkv", "kv"):
        return 0
    if by_name:
        return by_name if ndim >= by_name + 2 else 0
    if by_name == 0:
        ends = shape[-3:] if name.outputs_first else shape[:3]
        return 2 if ndim == 5 and (name.stacked or max(ends) > LARGEST_WINDOW) else min(ndim - 2, 3)
    window = shape[2:] if name.outputs_first else shape[:2]
    largest = LARGEST_PATCH if name.outputs_first else LARGEST_WINDOW
    square = ndim == 4 and max(window) <= largest and window[0] == window[1]
    return 2 if square and not name.within(*MLPS) else 0


def matrix_of_convolution(name: Name, window: int) -> Matrix:
    if name.outputs_first:
        return Matrix(tuple(range(-window - 1, 0)), -window - 2)
    return Matrix(tuple(range(-window - 2, -1)), -1)
