"""What a leaf is found to be, from its name and shape and from the leaves beside it."""

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gdjax.linalg.matrices import Matrix, is_trained
from gdjax.linalg.names import Name, is_gate, matrix_of, name_of, role_of, sizes_of

_MATRIX = re.compile(r"^w(_|\d|[qkvoi]|$)|proj|kernel|weight|dense|linear|lora|^(up|down|gate|out|fc\d*|c_\w+|[qkvo])$")


class Read(NamedTuple):
    """A leaf and what it was found to be."""

    path: str
    name: Name
    shape: tuple[int, ...]
    role: Matrix | str
    unknown: str = ""  # what could not be known

    @property
    def place(self) -> str:
        return split(self.path)[0]

    def but(self, unknown: str) -> "Read":
        """The same, with a sentence about what could not be known."""
        if not unknown:
            return self
        taken = "taken for one matrix" if isinstance(self.role, Matrix) else f"given the role {self.role!r}"
        rows, columns = (-1, -2) if self.name.outputs_first else (-2, -1)
        known = f"{rows}, {columns}, parts=..." if isinstance(self.role, Matrix) else "reduction_axis, output_axis"
        how = f"{{{self.path!r}: gdjax.Matrix({known})}}"
        text = f"it cannot be known {unknown}: {self.path} of shape {self.shape} is {taken}; override it by {how}"
        return self._replace(unknown=text)

    @property
    def is_stack(self) -> bool:
        """Whether matrices lie along its first axis."""
        if not isinstance(self.role, Matrix):
            return False
        named = [(x,) if isinstance(x, int) else x for x in self.role[:2]]
        return 0 not in {i % len(self.shape) for axes in named for i in axes}


def split(path: str) -> tuple[str, str]:
    """Where a leaf lies, and its own key. A state dict has all of a path in one key, with dots."""
    place, _, last = path.replace(".", "/").rpartition("/")
    return place, last


def read(path: str, x: Any, given: Any, siblings: frozenset[str]) -> Read:
    return _read(path, tuple(np.shape(x)), is_trained(x), given, siblings)


@functools.lru_cache(maxsize=4096)  # all slots of an optimizer ask
def _read(path: str, shape: tuple[int, ...], trained: bool, given: Any, siblings: frozenset[str]) -> Read:
    name, unknown = name_of(path), ""
    if not trained:
        role: Any = "other"
    elif given is None:
        role, unknown = role_of(name, shape, siblings)
    elif given == "matrix":
        role = matrix_of(name, shape)[0] if len(shape) > 1 else Matrix()  # of which the plan says that it is none
    else:
        role = given
    return Read(path, name, shape, role).but(unknown)


class Context:
    """What other leaves say of a leaf: that it is no matrix.

    It asks whether leaves are there, never whether they are not: a mask hides them.
    """

    def __init__(self, leaves: Sequence[Read]):
        self.leaves = leaves
        self.beside: dict[str, list[Read]] = {}
        for leaf in leaves:
            self.beside.setdefault(leaf.place, []).append(leaf)
        self.embeddings = {leaf.shape for leaf in leaves if leaf.role == "embedding"}

    def of(self, leaf: Read) -> Read:
        if not isinstance(leaf.role, Matrix):
            return leaf
        inputs, outputs = sizes_of(leaf.role, leaf.shape)
        others = [x for x in self.beside[leaf.place] if x is not leaf]
        biases = [x.shape for x in others if x.role == "bias" and x.name.leaf in ("bias", "b") and leaf.name.is_array]
        if leaf.shape in biases:
            return leaf._replace(role="norm", unknown="")  # stacked: a linear map has an axis more than its biases
        if any(math.prod(shape) != math.prod(leaf.shape) // inputs for shape in biases):
            misfit = f"which of its axes are inputs, as its bias has the shape {biases[0]}"
            return leaf._replace(role="other").but(misfit)
        if is_gate(leaf.name) and self._are_experts(leaf, outputs):
            return leaf._replace(role="router", unknown="")
        if not leaf.name.in_layer and inputs != outputs and (outputs, inputs) in self.embeddings:
            return leaf._replace(role="head", unknown="")  # from the width to the vocabulary
        nameless = len(leaf.shape) == 2 and not _MATRIX.search(leaf.name.leaf)
        if nameless and any(x.is_stack and x.shape[0] == leaf.shape[0] for x in others):
            return leaf._replace(role="other", unknown="")  # a vector for each matrix of a stack
        return leaf

    def _are_experts(self, gate: Read, outputs: int) -> bool:
        """Whether there are experts, or as many matrices as the gate has outputs, beside the layer of a gate."""
        place = split(gate.place)[0] if gate.name.is_array else gate.place
        for x in self.leaves:
            path = x.path.replace(".", "/")
            if x is not gate and path.startswith(f"{place}/" if place else ""):
                if "expert" in path[len(place) :].lower() or x.is_stack and outputs in x.shape[:-2]:
                    return True
        return False
