"""What has grown between a small model and a large one: the widths of each leaf, and the number of layers."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from gdjax.core import callers, types
from gdjax.core.contexts import WHERE
from gdjax.core.growth import UNITS, Growth
from gdjax.core.paths import is_masked, paths_of
from gdjax.core.structures import few
from gdjax.core.types import ArrayTree, Params, is_skipped
from gdjax.linalg.matrices import Matrix, is_trained
from gdjax.matrices import reading
from gdjax.matrices.plan import are_experts, matrices_by_role

_LAST = re.compile(
    r"(^|_)(o|out|output|down|o_proj|out_proj|output_proj|down_proj)$"
    r"|^(c_proj|proj|fc_?2|w_?[2o]|lin(ear)?_?2|dense_?2|dense_4h_to_h|fc_out|attn_vec_einsum)$"
)
_LOW_RANK = re.compile(r"(^|_)lora(_|$)|^a$")  # LoRA's first matrix, of which only the inputs grow too
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+|(?<=[A-Za-z]{4})\d+")  # of a layer: 3, block_3, layer3; not w1
_EXPERTS = re.compile(r"experts?[/._]?#")  # more of these make no deeper model
_HOW = {
    "fold": "where the last matrix of each residual branch is to take the factor 1 / layers",
    "forward": "where the model itself multiplies each branch by 1 / layers",
}


class Size(NamedTuple):
    """A leaf as one matrix."""

    role: str
    inputs: int  # 1 for what has none: embeddings, biases, norms
    outputs: int
    rows: int  # of each matrix, all of them
    columns: int


class Base:
    """The small model, of which others are said to be larger.

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
            raise ValueError(f"{label}: the base has no leaves")
        if depth not in (None, *_HOW) and not any(re.search(depth, path) for path, _ in leaves):  # type: ignore[arg-type]
            listed = few([path for path, _ in leaves], 6)
            raise ValueError(f"{label}: depth={depth!r} is neither 'fold' nor 'forward', and matches none of {listed}")
        self.shapes = {path: x for path, x in leaves}
        self.read = {x.path: x for x in self.by_role.read(base, label)}
        self.lead = dict(zip(self.read, jax.tree.leaves(self.by_role.layers(base)), strict=True))
        self.numbered = _numbered(self.read)
        self._found = functools.lru_cache(16)(self._growths)  # each number of an optimizer asks

    def check(self, params: Params) -> None:
        """Raises unless parameters are the base grown; warns of what an optimizer cannot change.

        Where a mask hides leaves, as inside of groups, roles cannot be read anew.
        """
        found, shapes = self.growths(params), dict(paths_of(params))
        if is_masked(params):
            return
        for now in self.by_role.read(params, self.label):
            before = self.read[self.like(now.path)]
            if now.path in found and before.kind != now.kind:
                was, is_now = f"{before.kind} of shape {before.shape}", f"{now.kind} of shape {now.shape}"
                raise ValueError(
                    f"{self.label}: {now.path} is a {was} in the base and a {is_now} in params; say which it is by "
                    f"roles={{{now.path!r}: {before.kind!r}}}"
                )
        wider = any(x.role == "matrix" and max(x.inputs, x.outputs) > 1 for x in found.values())
        for path, x in found.items():
            was = self.read[self.like(path)].shape
            if x.role == "head" and wider and x.inputs == 1 and len(was) > 1 and was != shapes[path].shape:
                raise ValueError(
                    f"{self.label}: the model grows, and not the inputs of its head {path}, from {was} to "
                    f"{shapes[path].shape}: if it is an embedding, say so by roles={{{path!r}: 'embedding'}}"
                )
        roles = {x.kind for x in self.read.values()} | {x.role for x in found.values()}
        if "head" not in roles and "matrix" in roles:
            self._ask_for_head(found)
            self._refuse_tied({path: x.outputs for path, x in found.items() if x.role == "embedding"}, shapes)
        self._warn_of_heads(shapes)
        if self.depth == "fold":
            self._check_branches({path: x for path, x in found.items() if x.layers != 1 and x.role == "matrix"})

    def _check(self, path: str, shape: tuple[int, ...], x: Growth) -> None:
        like = self.like(path)
        was = self.read[like].shape
        if min(x.inputs, x.outputs) < 1:
            raise ValueError(f"{self.label}: {path} shrinks from {was} to {shape}: the base is the smaller model")
        if x.layers < 1:
            raise ValueError(f"{self.label}: there are fewer layers like {path} than in the base")
        if x.layers != 1 and self.depth is None:
            how = "; ".join(f"depth={k!r} {text}" for k, text in _HOW.items())
            raise ValueError(
                f"{self.label}: there are {x.layers:g} times the layers of the base with {path}: say {how}"
            )
        if x.role in ("embedding", "head") and self._is_matrix(like, shape):
            table = " a table of more rows, or" if x.role == "embedding" else ""
            raise ValueError(
                f"{self.label}: both axes of {path} grow, from {was} to {shape}, as those of no {x.role} of one "
                f"vocabulary: say what it is by roles={{{path!r}: 'matrix'}}, or {x.role!r} if it is{table} one of a "
                "larger vocabulary"
            )
        if x.role == "other" and len(shape) - self.lead[like] > 1 and x.outputs != 1:
            matrix = reading.matrix_of(self.read[like].name, was)[0]
            if reading.sizes_of(matrix, was)[1] == reading.sizes_of(matrix, shape)[1]:
                raise ValueError(
                    f"{self.label}: say roles={{{path!r}: 'head'}} if {path} is the head: no rule covers it, of which "
                    f"only the inputs grow, from {was} to {shape}; else it is a 'matrix', 'embedding' or 'router'"
                )
            raise ValueError(
                f"{self.label}: no rule covers {path}, which grows from {was} to {shape}: give its role, as "
                f"roles={{{path!r}: 'matrix'}} or 'embedding', 'head', 'router'"
            )

    def _ends(self, path: str, x: Growth) -> bool:
        """Whether a matrix grows as the last of a model does, which no name tells: its inputs alone."""
        if x.role != "matrix" or x.layers != 1 or not x.inputs > 1 == x.outputs:
            return False
        like = self.like(path)
        name = self.read[like].name
        of_heads = self.by_role.per_head and reading.has_heads(name)  # more of one size
        return not (of_heads or name.near(_LOW_RANK) or self.by_role.decides(like, self.shapes[like]))

    def _ask_for_head(self, found: Mapping[str, Growth]) -> None:
        """Raises where several matrices may be the last."""
        _, ends = self._last(found)
        if ends:
            raise ValueError(
                f"{self.label}: say which leaf is the head, by roles={{{ends[-1]!r}: 'head'}}: no name tells it, and "
                f"only the inputs of {few(ends, 6)} grow"
            )

    def _heads(self, found: Mapping[str, Growth]) -> list[str]:
        """The paths of heads that no name tells.

        Beside a head with a name only layers outside of all others are heads too, as of a second loss.
        """
        last, circular = self._last(found)
        top = [path for path in last if self.read[self.like(path)].name.depth <= 1]
        if any(x.kind == "head" for x in self.read.values()):
            return top
        return top or last or (circular if len(circular) == 1 else [])

    def _last(self, found: Mapping[str, Growth]) -> tuple[list[str], list[str]]:
        """The matrices of which only the inputs grow and that none follows, and those that the first may follow.

        Of a model with as many outputs as inputs the first matrix seems to follow the last.
        """
        ends = [path for path, x in found.items() if self._ends(path, x) and not self._in_layer(path, found)]
        after = {path: self._after(path, found) for path in ends}
        circular = [path for path in ends if after[path] and all(found[p].outputs > 1 for p in after[path])]
        return [path for path in ends if not after[path]], circular

    def _in_layer(self, path: str, found: Mapping[str, Growth]) -> bool:
        """Whether a matrix lies in one of several layers alike, and not in the last of a sequence."""
        like = self.like(path)
        alike = [[p for p in self.numbered[form] if p != like and p in found] for form in _forms(like)]
        last = any(others and not any(self._ends(p, found[p]) for p in others) for others in alike)
        return self.read[like].name.in_layer and not last

    def _after(self, path: str, found: Mapping[str, Growth]) -> list[str]:
        """The matrices that may come after one: of as many inputs, which do not grow."""
        columns = self._sides(path)[1]
        others = [p for p, y in found.items() if p != path and y.inputs == 1 and not self._in_layer(p, found)]
        return [p for p in others if self._sides(p)[0] == columns]

    def _sides(self, path: str) -> tuple[int, int]:
        """The inputs and outputs of a matrix or a head in the base; 0 for another leaf."""
        leaf = self.read[self.like(path)]
        if leaf.kind not in ("matrix", "head") or len(leaf.shape) < 2:
            return 0, 0
        matrix = leaf.role if isinstance(leaf.role, Matrix) else reading.matrix_of(leaf.name, leaf.shape)[0]
        return reading.sizes_of(matrix, leaf.shape)

    def _is_matrix(self, like: str, shape: tuple[int, ...]) -> bool:
        """Whether what is called an embedding or a head grows as a hidden matrix does: both of its axes."""
        was, name = self.read[like].shape, self.read[like].name
        grows = len(was) == 2 and all(a < b for a, b in zip(was, shape, strict=True))
        return grows and reading.is_tied(name) and not self.by_role.decides(like, self.shapes[like])

    def _refuse_tied(self, outputs: Mapping[str, float], shapes: Mapping[str, Any]) -> None:
        """Raises where an embedding grows that may be the head too: there is no other."""
        for path, ratio in outputs.items():
            was = self.read[self.like(path)].shape
            tied = reading.is_tied(self.read[self.like(path)].name)
            if ratio != 1 and len(was) == 2 and tied and not self.by_role.decides(path, shapes[path]):
                now = shapes[path].shape
                raise ValueError(
                    f"{self.label}: no leaf is the head, so {path} of shape {was}, now {now}, may be the head too, and "
                    f"its rate right for one use alone. Multiply the logits by {was[-1]} / {now[-1]} in the model, and "
                    f"say so by roles={{{path!r}: 'embedding'}}; or say which other leaf is the head: {{path: 'head'}}"
                )

    def _warn_of_heads(self, shapes: Mapping[str, Any]) -> None:
        for path, x in shapes.items():
            before = self.read[self.like(path)]
            if reading.attention_part(before.name) and isinstance(before.role, Matrix):
                columns = before.role.output_axis
                if not isinstance(columns, int) and x.shape[columns[-1]] > before.shape[columns[-1]]:
                    a, b = before.shape[columns[-1]], x.shape[columns[-1]]
                    callers.warn(
                        f"{self.label}: the heads of {path} grow from {a} to {b} numbers: scores transfer if they are "
                        f"divided by the size of a head, not by its root: here times {a} ** 0.5 / {b}"
                    )
                    return

    def _check_branches(self, found: Mapping[str, Growth]) -> None:
        """Raises where a part of a layer has matrices and none of them is known as its last."""
        parts, seen = defaultdict(list), set[str]()
        for path, x in found.items():
            leaf = self.read[self.like(path)]
            place, own = reading.split(leaf.place if leaf.name.is_array else path)
            if (form := f"{_NUMBER.sub('#', place)}/{own}") not in seen:  # once for all layers
                seen.add(form)
                parts[_NUMBER.sub("#", reading.split(leaf.place)[0])].append((path, x.branch))
        for members in parts.values():
            # Attention and the matrices after it are two branches.
            names = [self.read[self.like(path)].name for path, _ in members]
            queries = [reading.is_qkv(x) or reading.attention_part(x) != "" or x.what in ("v", "v_proj") for x in names]
            branches = 2 if any(queries) and len(members) - sum(queries) > 2 else 1
            if sum(branch == "last" for _, branch in members) < branches:
                listed = few([path for path, _ in members], 6)
                raise ValueError(
                    f"{self.label}: which are the last matrices of the {branches} residual branches with {listed}? Say "
                    "so by depth='a pattern of the paths of all last matrices'"
                )

    def growths(self, tree: ArrayTree) -> dict[str, Growth]:
        """By path what has grown, of the leaves of a tree that no mask hides.

        Raises:
          ValueError: a leaf is none of the base, has other axes, or shrinks; there are more layers and no `depth`.
        """
        shape = lambda x: tuple(x.shape) if not is_skipped(x) and is_trained(x) else None
        return self._found(tuple((path, shape(x)) for path, x in paths_of(tree, is_skipped)), WHERE.get().tried)

    def _growths(self, shapes: tuple[tuple[str, Any], ...], tried: bool) -> dict[str, Growth]:
        numbered, leaves = _numbered(dict(shapes)), {path: shape for path, shape in shapes if shape is not None}
        found = {path: self._growth(path, shape, numbered) for path, shape in leaves.items()}
        others = {path: leaves[path] for path, x in found.items() if x.role == "other"}
        layers = found | {path: self._growth(path, shape, numbered, layer=True) for path, shape in others.items()}
        found |= {path: layers[path]._replace(role="head") for path in self._heads(layers)}
        for path, shape in () if tried else leaves.items():
            self._check(path, shape, found[path])
        return found

    def _growth(self, path: str, shape: tuple[int, ...], numbered: Any, layer: bool = False) -> Growth:
        like = self.like(path)
        before = self.read[like]
        if layer and before.role == "other" and before.name.is_array and len(shape) == len(before.shape) == 2:
            before = before._replace(role=reading.matrix_of(before.name, before.shape)[0])  # a layer of one output
        if len(shape) != len(before.shape):
            raise ValueError(f"{self.label}: {path} has shape {shape}, and {before.shape} in the base: other axes")
        layers = self._layers(path, like, shape, numbered)
        if shape == before.shape and layers == 1:
            return Growth(before.kind)
        leaves = before, before._replace(shape=shape)
        if not self.by_role.decides(like, self.shapes[like]):
            leaves = (self.by_role.by_head(self.label, x) for x in leaves)
        old, new = (_size(x, self.lead[like], before.shape, shape) for x in leaves)
        sides = (old.rows, old.columns), (new.rows, new.columns)
        branch = self._branch(before) if layers != 1 else ""
        return Growth(old.role, new.inputs / old.inputs, new.outputs / old.outputs, layers, branch, sides)

    def like(self, path: str) -> str:
        """The path of the leaf of the base that a leaf is like: the same, or in another layer.

        Raises:
          ValueError: there is none, or several that differ.
        """
        found = self._like(path)
        if found is None:
            raise ValueError(f"{self.label}: params has {path}, the base has {', '.join(self.read)}")
        return found

    def _like(self, path: str) -> str | None:
        if path in self.read:
            return path
        for form in _forms(path):
            if others := self.numbered.get(form):
                kinds = {(self.read[x].role, self.read[x].shape) for x in others}
                if len(kinds) > 1:
                    both = " and ".join(f"{x} of shape {self.read[x].shape}" for x in others[:2])
                    raise ValueError(f"{self.label}: {path} may be like {both} of the base, which differ")
                return others[0]
        return None

    def _layers(self, path: str, like: str, shape: tuple[int, ...], numbered: Any) -> float:
        """How many layers like that of a leaf there are, over those of the base."""
        pairs = zip(_forms(path), _forms(like), strict=True)
        counted = [pair for pair in pairs if not _EXPERTS.search(pair[0])]
        ratio = math.prod(len(numbered[a]) / len(self.numbered[b]) for a, b in counted)
        if self.lead[like] and not are_experts(self.read[like], list(self.read.values())):
            ratio *= shape[0] / self.read[like].shape[0]
        return ratio

    def _branch(self, leaf: reading.Read) -> str:
        """Where a leaf is in its residual branch; a bias goes with its matrix."""
        if self.depth == "forward":
            return "inside"
        if leaf.role == "bias":
            beside = [x for x in self.read.values() if x.place == leaf.place and isinstance(x.role, Matrix)]
            names = re.sub(r"^b(?=\d*$|_)", "w", leaf.name.leaf), re.sub(r"_?bias$", "", leaf.name.leaf)
            own = beside if len(beside) == 1 else [x for x in beside if x.name.leaf in names]
            return self._branch(own[0]) if len(own) == 1 else "inside"
        if not isinstance(leaf.role, Matrix):
            return "inside"
        last = _LAST.search(leaf.name.what) if self.depth == "fold" else re.search(self.depth or "", leaf.path)
        return "last" if last else "inside"


def _numbered(paths: Mapping[str, Any]) -> dict[str, list[str]]:
    """The paths that differ in one number alone, by what they share."""
    found = defaultdict(list)
    for path in paths:
        for form in _forms(path):
            found[form].append(path)
    return found


@functools.lru_cache(maxsize=4096)
def _forms(path: str) -> list[str]:
    """The path with one of its numbers left out, for each number."""
    return [f"{path[: m.start()]}#{path[m.end() :]}" for m in _NUMBER.finditer(path)]


def _size(leaf: reading.Read, lead: int, before: tuple[int, ...], now: tuple[int, ...]) -> Size:
    """The sizes of a leaf in the base or in the larger model, where it has one shape and the other."""
    role, shape = leaf.kind, leaf.shape
    if role == "embedding" and len(shape) > 1:
        outputs = shape[-1]
        if leaf.name.outputs_first:  # of a linear map or a convolution, or a table of rows: the axis that grows tells
            first = len(shape) > 2 or before[0] != now[0] and before[-1] == now[-1]
            outputs = shape[0] if first else outputs
        return Size(role, 1, outputs, math.prod(shape) // outputs, outputs)
    if role not in UNITS or len(shape) < 2:
        return Size(role, 1, math.prod(shape[lead:]), 1, 1)
    numbers = leaf.role if isinstance(leaf.role, Matrix) else reading.matrix_of(leaf.name, shape)[0]
    rows, columns = reading.sizes_of(numbers, shape)
    columns = columns // numbers.parts if isinstance(numbers.parts, int) else columns
    return Size(role, rows, 1 if role == "head" else columns, rows, columns)
