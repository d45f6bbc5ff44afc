"""What a leaf is by the leaves around it: the heads of an output of attention, the gates of a cell, the vocabulary."""

import math
import re
from collections.abc import Iterator, Sequence

from gdjax.leaf_roles.names import QUERIES, name_of, stands_for
from gdjax.leaf_roles.reading import WIDEST_HEAD, Reading, Sides, one_or_all, sides_of, sizes_of
from gdjax.linalg.matrices import Matrix

_BIAS_ENDING, _MATRIX_ENDING = re.compile(r"_?b(ias)?$"), re.compile(r"_?(w|weight|kernel)$")
_OF_INPUTS = re.compile(r"(?<=weight_)i(?=h(_l\d+(_reverse)?)?$)|(?<=dense_)i(?=(/kernel)?$)")  # the gates' weights


class Neighbours:
    """Facts about a leaf from other leaves: it is no matrix; or, for an output of attention, it has an axis of heads.

    It asks only whether leaves are present, never whether they are absent, since a mask may hide them. The axes of an
    output follow from query, key and value, hidden matrices like it, so a group of the hidden matrices has them all.
    So it has the recurrent weights, whose shape shows the gates of the input weights. In a group of outputs alone, only
    the shape of an output can show heads.

    Args:
      hidden: the paths of the leaves that a mask hides.
    """

    def __init__(self, leaves: Sequence[Reading], hidden: Sequence[str] = ()):
        self.leaves = leaves
        unseen = [Reading(path, name_of(path), (), "other") for path in hidden]
        self.hidden_queries = {x.around for x in unseen if _is_query(x)}
        self.shapes = {leaf.path: leaf.shape for leaf in leaves} | dict.fromkeys(hidden, ())
        self.modules: dict[str, list[Reading]] = {}
        for leaf in leaves:
            self.modules.setdefault(leaf.module, []).append(leaf)
        has_head = any(leaf.name.near("head") for leaf in [*leaves, *unseen])
        tables = () if has_head else [leaf for leaf in leaves if leaf.role == "embedding"]
        self.vocabularies = {leaf.shape for leaf in tables if not leaf.name.layer_is("not_predicted")}
        self.heads = {(x.around, len(x.shape), x.shape[-2:]) for x in leaves if _has_heads(x)}
        self.crosswise = set(_crosswise_stacks(leaves))

    def corrected(self, leaf: Reading) -> Reading:
        if not isinstance(leaf.role, Matrix):
            return leaf
        if leaf.stack in self.crosswise and len(leaf.shape) > 2:
            size = leaf.shape[1]
            why = f"along which axis its layers lie, as all of {leaf.stack} have {size} along their second axis"
            return leaf.with_note(why, [leaf.sides_without(1)])
        if leaf.name.layer_is("output") and not leaf.name.outputs_first:
            if (leaf.around, len(leaf.shape), leaf.shape[-3:-1]) in self.heads:
                return self._by_module(leaf.without_note(Matrix((-3, -2), -1)))  # from the heads and their width
            if leaf.around in self.hidden_queries and _may_be_heads(leaf):
                why, sides = (
                    "whether it has an axis of heads, as a mask hides the query",
                    leaf.sides(2, len(leaf.shape) - 3),
                )
                return self._by_module(leaf.with_note(why, [sides]))
        recurrent = _OF_INPUTS.sub("h", leaf.path)
        if recurrent != leaf.path and recurrent in self.shapes:
            leaf = self._with_gates(leaf, leaf.role, recurrent)
        return self._by_module(leaf)

    def _with_gates(self, leaf: Reading, matrix: Matrix, recurrent: str) -> Reading:
        """The gates of a recurrent cell, whose size the weights for the hidden state show."""
        shape = self.shapes[recurrent]
        if not shape:
            _, outputs = sizes_of(matrix, leaf.shape)
            return leaf.with_note(f"where its {outputs} outputs are cut, as a mask hides {recurrent}")
        if len(shape) != len(leaf.shape):
            return leaf
        size, outputs = sizes_of(matrix, shape)
        parts = outputs // size if outputs in (size, 3 * size, 4 * size) else matrix.parts
        return leaf._replace(role=matrix._replace(parts=parts))

    def _by_module(self, leaf: Reading) -> Reading:
        """A matrix by the leaves of its layer: their biases, stacks and experts."""
        inputs, outputs = sizes_of(leaf.as_matrix, leaf.shape)
        members, key = self.modules[leaf.module], leaf.name.leaf
        biases = [x.shape for x in members if x.role == "bias" and x.name.leaf in ("bias", "b") and leaf.name.is_array]
        if leaf.shape in biases:
            return leaf.without_note("norm")  # stacked: a linear map has an axis more than its biases
        if any(math.prod(shape) != math.prod(leaf.shape) // inputs for shape in biases):
            misfit = f"which of its axes are inputs, as its bias has the shape {biases[0]}"
            return leaf._replace(role="other").with_note(misfit, list(_sides_of_fit(leaf, biases[0])))
        if leaf.name.is_gate and self._are_experts_beside(leaf, outputs):
            return leaf.without_note("router")
        if len(leaf.shape) == 2:
            if not leaf.name.in_layer and inputs != outputs and (outputs, inputs) in self.vocabularies:
                return leaf.without_note("head")  # from the width to the vocabulary
            stacks = [x.name.leaf for x in members if x.leading_axes and x.shape[0] == leaf.shape[0]]
            stem = _BIAS_ENDING.sub("", key)
            if stem != key and stem in [_MATRIX_ENDING.sub("", x) for x in stacks]:
                return leaf.without_note("bias")  # proj_b beside proj_w
            if stacks and not stands_for(key, "linear"):
                return leaf.without_note("other")  # a vector for each matrix of a stack
        if _is_query(leaf) and leaf.leading_axes and _may_have_heads(leaf):
            sides = leaf.sides(1, len(leaf.shape) - 3)
            return leaf.with_note("whether its first axis is the inputs or a stack of layers", [sides])
        return leaf

    def _are_experts_beside(self, gate: Reading, outputs: int) -> bool:
        """Whether beside the layer of a gate are experts, or as many matrices as the gate has outputs."""
        start = f"{gate.around}/" if gate.around else ""
        paths = [(leaf, leaf.path.replace(".", "/")) for leaf in self.leaves]
        below = [(leaf, path.removeprefix(start).lower()) for leaf, path in paths if path.startswith(start)]
        return any("expert" in path or leaf.leading_axes and outputs in leaf.shape[:-2] for leaf, path in below)


def _crosswise_stacks(leaves: Sequence[Reading]) -> Iterator[str]:
    """The stacks whose layers may lie along the second axis, as in MaxText: vectors and matrices agree there alone."""
    matrices_and_vectors = [leaf for leaf in leaves if leaf.stack and len(leaf.shape) > 1]
    for stack in dict.fromkeys(leaf.stack for leaf in matrices_and_vectors):
        members = [leaf for leaf in matrices_and_vectors if leaf.stack == stack]
        first, second = ({leaf.shape[axis] for leaf in members} for axis in (0, 1))
        has_vectors = any(len(leaf.shape) == 2 and leaf.role in ("norm", "bias") for leaf in members)
        if len(second) == 1 < len(first) and has_vectors:
            yield stack


def _is_query(leaf: Reading) -> bool:
    """Whether it is a query, key or value whose outputs come last."""
    return leaf.name.layer_is(*QUERIES) and not leaf.name.outputs_first


def _has_heads(leaf: Reading) -> bool:
    """Whether it is a query, key or value from one axis to the heads and their width, the last two axes."""
    n = len(leaf.shape)
    outputs = sides_of(leaf.role)[1] if isinstance(leaf.role, Matrix) and leaf.shape else ()
    return _is_query(leaf) and [i % n for i in outputs] == [n - 2, n - 1]


def _may_have_heads(leaf: Reading) -> bool:
    """Whether a query read as a stack may be one matrix, for instance with as many heads as inputs."""
    a, b, c = leaf.shape[-3:]
    return a == b and c <= 16 and not (leaf.name.stacked and len(leaf.shape) == 3)


def _may_be_heads(leaf: Reading) -> bool:
    """Whether an output read as a stack may have heads and their width as the two axes of its inputs."""
    if len(leaf.shape) < 3 or leaf.name.stacked and len(leaf.shape) == 3:
        return False
    return isinstance(leaf.as_matrix.reduction_axis, int) and leaf.shape[-2] <= WIDEST_HEAD


def _sides_of_fit(leaf: Reading, bias: tuple[int, ...]) -> Iterator[Sides]:
    """The axes with which a leaf fits its bias: the outputs are like it, all others are inputs."""
    first = int(leaf.name.stacked and len(bias) > 1 and bias[0] == leaf.shape[0])
    outputs, axes = bias[first:], range(first, len(leaf.shape))
    for start in axes if outputs else ():
        run = range(start, start + len(outputs))
        if leaf.shape[start : run.stop] == outputs and len(run) < len(axes):
            yield one_or_all([i for i in axes if i not in run]), one_or_all(run)
