"""What a leaf is by the leaves around it: the heads of an output of attention, the gates of a cell, the vocabulary."""

import math
import re
from collections.abc import Sequence
from typing import Any

from gdjax.linalg.matrices import Matrix
from gdjax.matrices import reading
from gdjax.matrices.reading import Read

_MATRIX = re.compile(r"^w(_|\d|[qkvoi]|$)|proj|kernel|weight|dense|linear|lora|^(up|down|gate|out|fc\d*|c_\w+|[qkvo])$")
_OF_BIAS, _OF_MATRIX = re.compile(r"_?b(ias)?$"), re.compile(r"_?(w|weight|kernel)$")  # what stands after one name
_OF_INPUTS = re.compile(r"(?<=weight_)i(?=h(_l\d+(_reverse)?)?$)|(?<=dense_)i(?=(/kernel)?$)")  # the gates' weights


class Context:
    """Facts about a leaf from other leaves: it is no matrix; or, for an output of attention, it has an axis of heads.

    It asks only whether leaves are present, never whether they are absent, since a mask may hide them. The axes of an
    output follow from query, key and value, hidden matrices like it, so a group of the hidden matrices has them all.
    So it has the recurrent weights, whose shape shows the gates of the input weights. In a group of outputs alone, only
    the shape of an output can show heads.

    Args:
      hidden: the paths of the leaves that a mask hides.
    """

    def __init__(self, leaves: Sequence[Read], hidden: Sequence[str] = ()):
        self.leaves = leaves
        unseen = [Read(path, reading.name_of(path), (), "other") for path in hidden]
        self.queries = {x.around for x in unseen if reading.is_query(x.name)}
        self.shapes = {leaf.path: leaf.shape for leaf in leaves} | dict.fromkeys(hidden, ())
        self.beside: dict[str, list[Read]] = {}
        for leaf in leaves:
            self.beside.setdefault(leaf.place, []).append(leaf)
        self.tied = {leaf.shape for leaf in leaves if leaf.role == "embedding" and reading.is_tied(leaf.name)}
        if any(reading.is_named_head(leaf.name) for leaf in [*leaves, *unseen]):
            self.tied = set()
        self.heads = {(x.around, len(x.shape), x.shape[-2:]) for x in leaves if _has_heads(x)}

        self.across = _across(leaves)

    def corrected(self, leaf: Read) -> Read:
        if not isinstance(leaf.role, Matrix):
            return leaf
        if (stack := leaf.stack) in self.across and len(leaf.shape) > 2:
            why = f"along which axis its layers lie, as all of {stack} have {leaf.shape[1]} along their second axis"
            return leaf.but(why, [leaf.axes_without(1)])
        if reading.is_out(leaf.name) and (leaf.around, len(leaf.shape), leaf.shape[-3:-1]) in self.heads:
            return self._of(leaf._replace(unknown=""), Matrix((-3, -2), -1))  # from the heads and their width
        if reading.is_out(leaf.name) and leaf.around in self.queries and _may_be_heads(leaf):
            first = len(leaf.shape) - 3
            why = "whether it has an axis of heads, as a mask hides the query"
            return self._of(leaf.but(why, [leaf.cut(2, first)]), leaf.role)
        state = _OF_INPUTS.sub("h", leaf.path)
        if state != leaf.path and state in self.shapes:
            return self._of_gates(leaf, leaf.role, state, self.shapes[state])
        return self._of(leaf, leaf.role)

    def _of_gates(self, leaf: Read, role: Matrix, state: str, hidden: Sequence[int]) -> Read:
        """The gates of a recurrent cell, whose size the weights for the hidden state show."""
        if not hidden:
            _, outputs = reading.sizes_of(role, leaf.shape)
            return self._of(leaf.but(f"where its {outputs} outputs are cut, as a mask hides {state}"), role)
        if len(hidden) == len(leaf.shape):
            size, outputs = reading.sizes_of(role, hidden)
            role = role._replace(parts=outputs // size) if outputs in (size, 3 * size, 4 * size) else role
        return self._of(leaf, role)

    def _of(self, leaf: Read, role: Matrix) -> Read:
        leaf = leaf._replace(role=role)
        inputs, outputs = reading.sizes_of(role, leaf.shape)
        others = [x for x in self.beside[leaf.place] if x is not leaf]
        biases = [x.shape for x in others if x.role == "bias" and x.name.leaf in ("bias", "b") and leaf.name.is_array]
        if leaf.shape in biases:
            return leaf._replace(role="norm", unknown="")  # stacked: a linear map has an axis more than its biases
        if any(math.prod(shape) != math.prod(leaf.shape) // inputs for shape in biases):
            misfit = f"which of its axes are inputs, as its bias has the shape {biases[0]}"
            return leaf._replace(role="other").but(misfit, _fitting(leaf, biases[0]))
        if reading.is_gate(leaf.name) and self._are_experts(leaf, outputs):
            return leaf._replace(role="router", unknown="")
        alone = len(leaf.shape) == 2 and not leaf.name.in_layer
        if alone and inputs != outputs and (outputs, inputs) in self.tied:
            return leaf._replace(role="head", unknown="")  # from the width to the vocabulary
        stacks = [x for x in others if x.is_stack and x.shape[0] == leaf.shape[0]] if len(leaf.shape) == 2 else []
        own = _OF_BIAS.sub("", leaf.name.leaf)
        if own != leaf.name.leaf and any(_OF_MATRIX.sub("", x.name.leaf) == own for x in stacks):
            return leaf._replace(role="bias", unknown="")  # proj_b beside proj_w
        if stacks and not _MATRIX.search(leaf.name.leaf):
            return leaf._replace(role="other", unknown="")  # a vector for each matrix of a stack
        if reading.is_query(leaf.name) and leaf.is_stack and _may_have_heads(leaf):
            first = len(leaf.shape) - 3
            return leaf.but("whether its first axis is the inputs or a stack of layers", [leaf.cut(1, first)])
        return leaf

    def _are_experts(self, gate: Read, outputs: int) -> bool:
        """Whether beside the layer of a gate are experts, or as many matrices as the gate has outputs."""
        start = (place := gate.around) and f"{place}/"
        paths = [(x, x.path.replace(".", "/")) for x in self.leaves if x is not gate]
        below = [(x, path.removeprefix(start).lower()) for x, path in paths if path.startswith(start)]
        return any("expert" in path or x.is_stack and outputs in x.shape[:-2] for x, path in below)


def _across(leaves: Sequence[Read]) -> set[str]:
    """The stacks whose layers may lie along the second axis, as in MaxText: vectors and matrices agree there alone."""
    stacks: dict[str, list[Read]] = {}
    for leaf in leaves:
        if leaf.stack and len(leaf.shape) > 1:
            stacks.setdefault(leaf.stack, []).append(leaf)
    axis = lambda of, i: {leaf.shape[i] for leaf in of}
    vectors = lambda of: any(len(leaf.shape) == 2 and leaf.role in ("norm", "bias") for leaf in of)
    return {x for x, of in stacks.items() if len(axis(of, 1)) == 1 < len(axis(of, 0)) and vectors(of)}


def _has_heads(leaf: Read) -> bool:
    """Whether it is a query, key or value from one axis to the heads and their width, the last two axes."""
    if not (reading.is_query(leaf.name) and isinstance(leaf.role, Matrix)):
        return False
    n, outputs = len(leaf.shape), leaf.role.output_axis
    return not isinstance(outputs, int) and [i % n for i in outputs] == [n - 2, n - 1]


def _may_have_heads(leaf: Read) -> bool:
    """Whether a query read as a stack may be one matrix, for instance with as many heads as inputs."""
    a, b, c = leaf.shape[-3:]
    return a == b and c <= 16 and not (leaf.name.stacked and len(leaf.shape) == 3)


def _may_be_heads(leaf: Read) -> bool:
    """Whether an output read as a stack may have heads and their width as the two axes of its inputs."""
    stacked = leaf.name.stacked and len(leaf.shape) == 3
    of_one_axis = isinstance(leaf.role, Matrix) and isinstance(leaf.role.reduction_axis, int)
    return of_one_axis and len(leaf.shape) > 2 and leaf.shape[-2] <= reading.WIDEST_HEAD and not stacked


def _fitting(leaf: Read, bias: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """The axes with which a leaf fits its bias: the outputs are like it, all others are inputs."""
    first = int(leaf.name.stacked and len(bias) > 1 and bias[0] == leaf.shape[0])
    outputs, n = bias[first:], len(leaf.shape)
    starts = [i for i in range(first, n) if leaf.shape[i : i + len(outputs)] == outputs]
    runs = [range(i, i + len(outputs)) for i in starts if outputs]
    rest = lambda run: reading.one_or_all([i for i in range(first, n) if i not in run])
    return [(rest(run), reading.one_or_all(run)) for run in runs if n - first > len(run)]
