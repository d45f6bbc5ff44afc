"""What has grown between a small model and a large one: the widths of each leaf, and the number of layers."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import Any

import jax
import numpy as np

from gdjax.core import callers, types
from gdjax.core.contexts import WHERE
from gdjax.core.paths import is_masked, paths_of
from gdjax.core.structures import few
from gdjax.core.types import ArrayTree, Params, is_skipped
from gdjax.leaf_roles.names import HEADS
from gdjax.leaf_roles.plan import are_experts, matrices_by_role
from gdjax.leaf_roles.reading import Reading, module_and_key, sizes_of
from gdjax.linalg.matrices import Matrix, is_trained
from gdjax.transfer_laws.factors import STARTS, Growth

Shape = tuple[int, ...]
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+|(?<=[A-Za-z]{4})\d+")  # of a layer: 3, block_3, layer3; not w1
_EXPERTS = re.compile(r"experts?[/._]?#")  # more of these make no deeper model
_DEPTHS = {
    "fold": "where the last matrix of each residual branch is to take the factor 1 / layers",
    "forward": "where the model itself multiplies each branch by 1 / layers",
}


class SmallModel:
    """The base, of which other models are said to be larger.

    Args:
      label: what errors begin with.
      base: its parameters or their shapes.
      roles: a dict from patterns to roles, which overrides those found by names and shapes.
      depth: "fold", "forward" or the pattern of the last matrices of residual branches; None where depths are equal.
      per_head: as of `matrices_by_role`, for a method that takes each head as a matrix.
    """

    def __init__(
        self, label: str, base: Params, roles: Any, depth: str | re.Pattern[str] | None, per_head: bool | int = False
    ):
        self.label, self.depth, self.by_role = label, depth, matrices_by_role(roles, per_head=per_head)
        types.check_patterns(f"{label}: depth", [] if depth is None else [depth], functions=False)
        leaves = paths_of(base)
        if not leaves:
            raise self._error("the base has no leaves")
        if depth not in (None, *_DEPTHS) and not any(re.search(depth, path) for path, _ in leaves):  # type: ignore[arg-type]
            paths = few([path for path, _ in leaves], 6)
            raise self._error(f"depth={depth!r} is neither 'fold' nor 'forward', and matches none of {paths}")
        self.leaves = {leaf.path: leaf for leaf in self.by_role.read(base, label)}
        self.trained = {path for path, x in leaves if is_trained(x)}
        self.decided = {path for path, x in leaves if self.by_role.decides(path, x)}  # by the user
        self.layer_axes = dict(zip(self.leaves, jax.tree.leaves(self.by_role.layers(base)), strict=True))
        self.numbered = _numbered(self.leaves)
        self._cached_growths = functools.lru_cache(16)(self._growths)  # each number of an optimizer asks

    def _error(self, text: str) -> ValueError:
        return ValueError(f"{self.label}: {text}")

    def counterpart(self, path: str) -> Reading:
        """The leaf of the base that a leaf is like: the same, or in another layer.

        Raises:
          ValueError: there is none, or several that differ.
        """
        if path in self.leaves:
            return self.leaves[path]
        alike = next((self.numbered[form] for form in _forms(path) if form in self.numbered), [])
        if not alike:
            raise self._error(f"params has {path}, the base has {', '.join(self.leaves)}")
        if len({(self.leaves[x].role, self.leaves[x].shape) for x in alike}) > 1:
            both = " and ".join(f"{x} of shape {self.leaves[x].shape}" for x in alike[:2])
            raise self._error(f"{path} may be like {both} of the base, which differ")
        return self.leaves[alike[0]]

    def growths(self, tree: ArrayTree) -> dict[str, Growth]:
        """By path what has grown, of the leaves of a tree that no mask hides.

        Raises:
          ValueError: a leaf is none of the base, has other axes, or shrinks; there are more layers and no `depth`.
        """
        leaves = [(path, np.shape(x) if is_trained(x) else None) for path, x in paths_of(tree, is_skipped)]
        return self._cached_growths(tuple(leaves), WHERE.get().tried)

    def _growths(self, shapes: tuple[tuple[str, Any], ...], tried: bool) -> dict[str, Growth]:
        numbered, leaves = _numbered(dict(shapes)), {path: shape for path, shape in shapes if shape is not None}
        growths = {path: self._growth(path, shape, numbered) for path, shape in leaves.items()}
        others = [path for path, x in growths.items() if x.role == "other"]
        as_layers = growths | {path: self._growth(path, leaves[path], numbered, as_layer=True) for path in others}
        growths |= {path: as_layers[path]._replace(role="head") for path in self._unnamed_heads(as_layers)}
        for path, shape in () if tried else leaves.items():
            self._check_growth(path, shape, growths[path])
        return growths

    def _growth(self, path: str, shape: Shape, numbered: Any, as_layer: bool = False) -> Growth:
        before = self.counterpart(path)
        if as_layer and before.role == "other" and before.name.is_array and len(shape) == len(before.shape) == 2:
            before = before._replace(role=before.as_matrix)  # a layer of one output
        if len(shape) != len(before.shape):
            raise self._error(f"{path} has shape {shape}, and {before.shape} in the base: other axes")
        layers = self._layers(path, before, shape, numbered)
        if shape == before.shape and layers == 1:
            return Growth(before.kind)
        now = before._replace(shape=shape)
        if before.path not in self.decided:
            before, now = self.by_role.by_head(self.label, before), self.by_role.by_head(self.label, now)
        old, new = (_sizes(x, self.layer_axes[before.path], before.shape, shape) for x in (before, now))
        branch = self._branch(before) if layers != 1 else ""
        return Growth(before.kind, new[0] / old[0], new[1] / old[1], layers, branch, (old[2], new[2]))

    def _layers(self, path: str, before: Reading, shape: Shape, numbered: Any) -> float:
        """How many layers like that of a leaf there are, over those of the base."""
        forms = zip(_forms(path), _forms(before.path), strict=True)
        counts = [(len(numbered[now]), len(self.numbered[was])) for now, was in forms if not _EXPERTS.search(now)]
        ratio = math.prod(now / was for now, was in counts)
        if self.layer_axes[before.path] and not are_experts(self.leaves[before.path], list(self.leaves.values())):
            ratio *= shape[0] / before.shape[0]
        return ratio

    def _branch(self, leaf: Reading) -> str:
        """Where a leaf is in its residual branch; a bias goes with its matrix."""
        if self.depth == "forward":
            return "inside"
        if leaf.role == "bias":
            beside = [x for x in self.leaves.values() if x.module == leaf.module and isinstance(x.role, Matrix)]
            keys = re.sub(r"^b(?=\d*$|_)", "w", leaf.name.leaf), re.sub(r"_?bias$", "", leaf.name.leaf)
            matrices = beside if len(beside) == 1 else [x for x in beside if x.name.leaf in keys]
            return self._branch(matrices[0]) if len(matrices) == 1 else "inside"
        if not isinstance(leaf.role, Matrix):
            return "inside"
        if self.depth == "fold":
            return "last" if leaf.name.layer_is("end_of_branch") else "inside"
        return "last" if re.search(self.depth or "", leaf.path) else "inside"

    def check(self, params: Params) -> None:
        """Raises unless parameters are the base grown; warns of what an optimizer cannot change.

        Where a mask hides leaves, as inside of groups, roles cannot be read anew.
        """
        growths, shapes = self.growths(params), {path: np.shape(x) for path, x in paths_of(params)}
        if is_masked(params):
            return
        for now in self.by_role.read(params, self.label):
            before = self.counterpart(now.path)
            if now.path in growths and before.kind != now.kind:
                raise self._error(
                    f"{now.path} is a {before.kind} of shape {before.shape} in the base and a {now.kind} of shape "
                    f"{now.shape} in params; say which it is by roles={{{now.path!r}: {before.kind!r}}}"
                )
        wider = any(x.role == "matrix" and max(x.inputs, x.outputs) > 1 for x in growths.values())
        for path, x in growths.items():
            was = self.counterpart(path).shape
            if x.role == "head" and wider and x.inputs == 1 and len(was) > 1 and was != shapes[path]:
                raise self._error(
                    f"the model grows, and not the inputs of its head {path}, from {was} to {shapes[path]}: if it is "
                    f"an embedding, say so by roles={{{path!r}: 'embedding'}}"
                )
        roles = {x.kind for x in self.leaves.values()} | {x.role for x in growths.values()}
        if "head" not in roles and "matrix" in roles:
            if ends := self._last(growths)[1]:
                raise self._error(
                    f"say which leaf is the head, by roles={{{ends[-1]!r}: 'head'}}: no name tells it, and only the "
                    f"inputs of {few(ends, 6)} grow"
                )
            self._refuse_tied([path for path, x in growths.items() if x.role == "embedding" and x.outputs != 1], params)
        self._warn_of_heads(shapes)
        if self.depth == "fold":
            self._check_branches({path: x for path, x in growths.items() if x.layers != 1 and x.role == "matrix"})

    def _check_growth(self, path: str, shape: Shape, x: Growth) -> None:
        leaf, was = self.counterpart(path), self.counterpart(path).shape
        if min(x.inputs, x.outputs) < 1:
            raise self._error(f"{path} shrinks from {was} to {shape}: the base is the smaller model")
        if x.layers < 1:
            raise self._error(f"there are fewer layers like {path} than in the base")
        if x.layers != 1 and self.depth is None:
            how = "; ".join(f"depth={k!r} {text}" for k, text in _DEPTHS.items())
            raise self._error(f"there are {x.layers:g} times the layers of the base with {path}: say {how}")
        if x.role in ("embedding", "head") and self._grows_as_matrix(leaf, shape):
            table = " a table of more rows, or" if x.role == "embedding" else ""
            raise self._error(
                f"both axes of {path} grow, from {was} to {shape}, as those of no {x.role} of one vocabulary: say what "
                f"it is by roles={{{path!r}: 'matrix'}}, or {x.role!r} if it is{table} one of a larger vocabulary"
            )
        if x.role == "other" and len(shape) - self.layer_axes[leaf.path] > 1 and x.outputs != 1:
            if sizes_of(leaf.as_matrix, was)[1] == sizes_of(leaf.as_matrix, shape)[1]:
                raise self._error(
                    f"say roles={{{path!r}: 'head'}} if {path} is the head: no rule covers it, of which only the "
                    f"inputs grow, from {was} to {shape}; else it is a 'matrix', 'embedding' or 'router'"
                )
            raise self._error(
                f"no rule covers {path}, which grows from {was} to {shape}: give its role, as "
                f"roles={{{path!r}: 'matrix'}} or 'embedding', 'head', 'router'"
            )

    def _grows_as_matrix(self, leaf: Reading, shape: Shape) -> bool:
        """Whether what is called an embedding or a head grows as a hidden matrix does: both of its axes."""
        grows = len(shape) == 2 and all(a < b for a, b in zip(leaf.shape, shape, strict=True))
        return grows and leaf.path not in self.decided and not leaf.name.layer_is("not_predicted")

    def _refuse_tied(self, embeddings: Iterable[str], params: Params) -> None:
        """Raises where an embedding grows that may be the head too: there is no other."""
        leaves = dict(paths_of(params))
        for path in embeddings:
            before, now = self.counterpart(path), leaves[path].shape
            tied = len(now) == 2 and not before.name.layer_is("not_predicted")
            if tied and not self.by_role.decides(path, leaves[path]):
                raise self._error(
                    f"no leaf is the head, so {path} of shape {before.shape}, now {now}, may be the head too, and its "
                    f"rate right for one use alone. Multiply the logits by {before.shape[-1]} / {now[-1]} in the "
                    f"model, and say so by roles={{{path!r}: 'embedding'}}; or say which other leaf is the head: "
                    "{path: 'head'}"
                )

    def _warn_of_heads(self, shapes: Mapping[str, Shape]) -> None:
        for path, shape in shapes.items():
            before = self.counterpart(path)
            outputs = before.role.output_axis if isinstance(before.role, Matrix) else -1
            if before.name.layer_is("query", "key") and not isinstance(outputs, int):
                old, new = before.shape[outputs[-1]], shape[outputs[-1]]
                if new > old:
                    callers.warn(
                        f"{self.label}: the heads of {path} grow from {old} to {new} numbers: scores transfer if they "
                        f"are divided by the size of a head, not by its root: here times {old} ** 0.5 / {new}"
                    )
                    return

    def _check_branches(self, growths: Mapping[str, Growth]) -> None:
        """Raises where a part of a layer has matrices and none of them is known as its last."""
        parts: dict[str, dict[str, str]] = defaultdict(dict)  # by what all layers share, the first path of each layer
        for path in growths:
            leaf = self.counterpart(path)
            around, key = module_and_key(leaf.module if leaf.name.is_array else path)
            part, form = (_NUMBER.sub("#", place) for place in (module_and_key(leaf.module)[0], around))
            parts[part].setdefault(f"{form}/{key}", path)
        for members in parts.values():
            # Attention and the matrices after it are two branches.
            names = [self.counterpart(path).name for path in members.values()]
            queries = [x.is_qkv or x.layer_is("query", "key") or x.layer in ("v", "v_proj") for x in names]
            branches = 2 if any(queries) and len(names) - sum(queries) > 2 else 1
            if sum(growths[path].branch == "last" for path in members.values()) < branches:
                raise self._error(
                    f"which are the last matrices of the {branches} residual branches with "
                    f"{few(list(members.values()), 6)}? Say so by depth='a pattern of the paths of all last matrices'"
                )

    def _unnamed_heads(self, growths: Mapping[str, Growth]) -> list[str]:
        """The paths of heads that no name tells.

        Beside a head with a name only layers outside of all others are heads too, as of a second loss.
        """
        last, circular = self._last(growths)
        top = [path for path in last if self.counterpart(path).name.depth <= 1]
        if any(x.kind == "head" for x in self.leaves.values()):
            return top
        return top or last or (circular if len(circular) == 1 else [])

    def _last(self, growths: Mapping[str, Growth]) -> tuple[list[str], list[str]]:
        """The matrices of which only the inputs grow and that none follows, and those that the first may follow.

        Of a model with as many outputs as inputs the first matrix seems to follow the last.
        """
        ends = {path for path, x in growths.items() if self._may_be_last(path, x)}
        outside = [path for path in growths if not self._in_layer(path, growths, ends)]
        first = {path: self._sizes_in_base(path)[0] for path in outside if growths[path].inputs == 1}
        last, circular = [], []
        for path in filter(ends.__contains__, outside):
            outputs = self._sizes_in_base(path)[1]
            followers = [other for other, inputs in first.items() if inputs == outputs]
            if not followers:
                last.append(path)
            elif all(growths[follower].outputs > 1 for follower in followers):
                circular.append(path)
        return last, circular

    def _may_be_last(self, path: str, x: Growth) -> bool:
        """Whether a matrix grows as the last of a model does, which no name tells: its inputs alone."""
        if x.role != "matrix" or x.layers != 1 or not x.inputs > 1 == x.outputs:
            return False
        leaf = self.counterpart(path)
        more_heads = self.by_role.per_head and leaf.name.layer_is(*HEADS)  # of one size
        return not (more_heads or leaf.name.near("low_rank") or leaf.path in self.decided)

    def _in_layer(self, path: str, growths: Mapping[str, Growth], ends: Set[str]) -> bool:
        """Whether a matrix lies in one of several layers alike, and not in the last of a sequence."""
        like = self.counterpart(path)
        for form in _forms(like.path):
            others = [other for other in self.numbered[form] if other != like.path and other in growths]
            if others and ends.isdisjoint(others):
                return False
        return like.name.in_layer

    def _sizes_in_base(self, path: str) -> tuple[int, int]:
        """The inputs and outputs of a matrix or a head in the base; 0 for another leaf."""
        leaf = self.counterpart(path)
        is_layer = leaf.kind in ("matrix", "head") and len(leaf.shape) > 1
        return sizes_of(leaf.as_matrix, leaf.shape) if is_layer else (0, 0)


def _numbered(paths: Iterable[str]) -> dict[str, list[str]]:
    """The paths that differ in one number alone, by what they share."""
    by_form = defaultdict(list)
    for path in paths:
        for form in _forms(path):
            by_form[form].append(path)
    return by_form


@functools.lru_cache(maxsize=4096)
def _forms(path: str) -> list[str]:
    """The path with one of its numbers left out, for each number."""
    return [f"{path[: m.start()]}#{path[m.end() :]}" for m in _NUMBER.finditer(path)]


def _sizes(leaf: Reading, layer_axes: int, before: Shape, now: Shape) -> tuple[int, int, tuple[int, int]]:
    """The inputs and outputs of a leaf as one matrix, and the rows and columns of each matrix in it.

    What is no matrix has one input. The leaf is in the base or in the larger model, where it has one shape and the
    other.
    """
    shape, matrix = leaf.shape, leaf.kind in STARTS and len(leaf.shape) > 1 and leaf.as_matrix
    if leaf.kind == "embedding" and len(shape) > 1:
        # Of a linear map or a convolution, or a table of rows: the axis that grows tells.
        first = leaf.name.outputs_first and (len(shape) > 2 or before[0] != now[0] and before[-1] == now[-1])
        outputs = shape[0] if first else shape[-1]
        return 1, outputs, (math.prod(shape) // outputs, outputs)
    if not matrix:
        return 1, math.prod(shape[layer_axes:]), (1, 1)
    rows, columns = sizes_of(matrix, shape)
    columns = columns // matrix.parts if isinstance(matrix.parts, int) else columns
    return rows, 1 if leaf.kind == "head" else columns, (rows, columns)
