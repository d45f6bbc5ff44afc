"""Which leaves of a tree are which matrices: their roles, and a plan with a row for each leaf."""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import callers, checks, types
from gdjax.core.paths import check_prefix, is_masked, matches, path_of, paths_of, shown, warn_of_idle
from gdjax.core.types import ArrayTree, is_skipped
from gdjax.core.values import value
from gdjax.leaf_roles.names import HEADS
from gdjax.leaf_roles.neighbours import Neighbours
from gdjax.leaf_roles.reading import Reading, module_and_key, read, sizes_of
from gdjax.lift.rule import OfLeaf
from gdjax.lift.slots import Tree
from gdjax.linalg.matrices import Axes, Matrix, can_be_matrix, is_numbers, is_trained, matrix_axes
from gdjax.numerics import Array

__all__ = ["label_by_role", "matrices_by_role"]

ROLES = "matrix embedding head norm bias router other".split()
LABEL = "gdjax.matrices_by_role"
NO_HEAD = "no name tells which leaf is the head: if one of the matrices is the last layer, override it"


@dataclass(frozen=True, repr=False)
class ByRole:
    """Routing by role: a function from a tree to a tree of `Matrix`, with None for any leaf but a hidden matrix."""

    overrides: tuple[tuple[Any, Any], ...] = ()  # (pattern of paths, role or `Matrix`), the first that matches wins
    also: tuple[str, ...] = ()  # the roles whose leaves are matrices too
    per_head: bool | int = False  # whether queries, keys and values are a matrix for each head; the size of a head

    def __repr__(self) -> str:
        texts = repr(dict(self.overrides)), f"also={self.also!r}", f"per_head={self.per_head}"
        arguments = zip(texts, (self.overrides, self.also, self.per_head), strict=True)
        return f"matrices_by_role({', '.join(text for text, argument in arguments if argument)})"

    def __call__(self, tree: ArrayTree) -> Any:
        matrices = [role if isinstance(role, Matrix) else None for role in self.roles(LABEL, tree)]
        return jax.tree.structure(tree).unflatten(matrices)

    def roles(self, label: str, tree: ArrayTree, quiet: bool = False) -> list[Matrix | str]:
        """For each leaf how it is a matrix, or its role if it is none.

        Axes come from the path and the shape of a leaf, for the output of attention also from the query, key and value
        beside it. Otherwise other leaves only show that a leaf is no matrix. So the axes are the same where a mask
        hides those leaves, as from a method that gets only the matrices.

        Args:
          quiet: whether not to warn, since another call for this tree does.

        Warns:
          UserWarning: it cannot be known where a leaf is cut, as q, k, v; an override decides for no leaf. Not where a
            mask hides leaves.
        """
        items, leaves = paths_of(tree), self.read(tree, label)
        for i, (item, leaf) in enumerate(zip(items, leaves, strict=True)):
            if not ((self.also or self.per_head) and self.decides(*item)):
                also = leaf.role in self.also and len(leaf.shape) > 1  # a vector stays what it is
                leaves[i] = self.by_head(label, leaf._replace(role=leaf.as_matrix) if also else leaf)
        for item in items:
            self._check_axes(label, *item)
        if leaves and not (quiet or is_masked(tree)):
            for leaf in leaves:
                if leaf.note:
                    callers.warn(f"{label}: {leaf.note}")
            rules = dict(self.overrides)
            of_leaves = [[k for k, pattern in enumerate(rules) if matches(label, pattern, *item)] for item in items]
            warn_of_idle(label, "given the role", rules, tree, [path for path, _ in items], of_leaves)
        return [leaf.role for leaf in leaves]

    def by_head(self, label: str, leaf: Reading) -> Reading:
        """A query, key or value, or all of them, with a matrix for each head, where `per_head` asks for that."""
        role, size = leaf.role, self.per_head
        if not (size and isinstance(role, Matrix) and leaf.name.layer_is(*HEADS)):
            return leaf
        if not isinstance(role.output_axis, int):  # heads and their width
            return leaf.without_note(role._replace(output_axis=role.output_axis[-1]))
        outputs = sizes_of(role, leaf.shape)[1]
        if size is True or outputs % size or leaf.name.layer_is("latent"):
            how = f"{{{leaf.path!r}: gdjax.Matrix({role.reduction_axis}, {role.output_axis}, parts=...)}}"
            why = f"it cannot be known where the {outputs} outputs of {leaf.path} are cut into heads"
            raise ValueError(f"{label}: {why}; give the size of a head, or override it by {how}")
        return leaf.without_note(role._replace(parts=outputs // size))

    def override_of(self, label: str, path: str, x: Any) -> tuple[Any, Any]:
        """The first pattern that matches a leaf and its role; (None, None) for none."""
        return next((rule for rule in self.overrides if matches(label, rule[0], path, x)), (None, None))

    def decides(self, path: str, x: Any) -> bool:
        """Whether an override decides for a leaf."""
        return self.override_of(LABEL, path, x)[1] is not None

    def _check_axes(self, label: str, path: str, x: Any) -> None:
        pattern, role = self.override_of(label, path, x)
        if not (isinstance(role, Matrix) and is_trained(x)):
            return
        try:
            matrix_axes(label, np.shape(x), role)
        except ValueError as e:
            why = str(e).removeprefix(f"{label}: ")
            narrower = f"({pattern}).*kernel$" if isinstance(pattern, str) else "...kernel$"
            slip = f"if the pattern matches biases too, let it end in the name of the matrices: {narrower!r}"
            where = f"{shown(pattern)} makes {path} of shape {np.shape(x)} a {role}"
            raise ValueError(f"{label}: {where}: {why}; {slip}") from None

    def notes(self, tree: ArrayTree) -> list[str]:
        """Sentences about anything unknown in a tree."""
        leaves = self.read(tree)
        notes = [leaf.note for leaf in leaves if leaf.note]
        return [*notes, NO_HEAD] if is_headless(leaves) and not is_masked(tree) else notes

    def layers(self, tree: ArrayTree) -> Any:
        """A tree with the number of leading axes of each leaf that are layers or experts.

        In a matrix these are the axes before its rows and columns. In another leaf they are the axes that it shares
        with the matrices beside it; or the first axis, if stacked matrices have as many layers.
        """
        leaves = self.read(tree)
        stacks = [leaf for leaf in leaves if leaf.leading_axes]
        axes = [_layers_of(leaf, stacks, leaves) for leaf in leaves]
        return jax.tree.structure(tree).unflatten(axes)

    def read(self, tree: ArrayTree, label: str = LABEL) -> list[Reading]:
        keys: dict[str, set[str]] = defaultdict(set)  # of each layer
        seen, items = paths_of(tree), paths_of(tree, is_skipped)  # the items hidden by a mask, too
        for path, _ in items:
            module, key = module_and_key(path)
            keys[module].add(key.lower())
        leaves = []
        overrides = [self.override_of(label, path, x)[1] for path, x in seen]
        for (path, x), role in zip(seen, overrides, strict=True):
            siblings = frozenset(keys[module_and_key(path)[0]])
            leaves.append(read(path, tuple(np.shape(x)), is_trained(x), role, siblings))
        neighbours = Neighbours(leaves, [path for path, x in items if is_skipped(x)])
        return [x if role else neighbours.corrected(x) for x, role in zip(leaves, overrides, strict=True)]


def _layers_of(leaf: Reading, stacks: Sequence[Reading], leaves: Sequence[Reading]) -> int:
    """The number of leading axes of a leaf that are layers or experts."""
    if isinstance(leaf.role, Matrix):
        return leaf.leading_axes
    beside = [
        x for x in stacks if x.module == leaf.module and x.shape[: x.leading_axes] == leaf.shape[: x.leading_axes]
    ]
    named = [x for x in stacks if x.shape[:1] == leaf.shape[:1] and _is_of_the_stack(leaf, x, leaves)]
    return max([*(x.leading_axes for x in beside), min(len(named), 1)])


def are_experts(stack: Reading, leaves: Sequence[Reading]) -> bool:
    """Whether the matrices along one leading axis are experts: by a name or a router, if no name tells of layers."""
    if stack.name.stacked or stack.leading_axes > 1:
        return False
    path = stack.path.replace(".", "/")
    beside_router = any(x.role == "router" and x.around and path.startswith(f"{x.around}/") for x in leaves)
    return beside_router or stack.name.within("expert", "moe")


def _is_of_the_stack(leaf: Reading, stack: Reading, leaves: Sequence[Reading]) -> bool:
    """Whether a leaf of as many layers is stacked as a matrix is: both names say so, or it is one of vectors."""
    if stack.name.stacked or leaf.name.stacked:
        return stack.name.stacked and leaf.name.stacked
    of_vectors = leaf.role in ("norm", "bias", "other") and len(leaf.shape) > 1
    return of_vectors and not are_experts(stack, leaves)


def is_headless(leaves: Sequence[Reading]) -> bool:
    """Whether a matrix may be the head: no leaf is known as the head, and none is tied to an embedding."""
    tied = any(leaf.role == "embedding" and len(leaf.shape) == 2 for leaf in leaves)
    matrices = [leaf for leaf in leaves if isinstance(leaf.role, Matrix)]
    return len(matrices) > 1 and not (tied or any(leaf.role == "head" for leaf in leaves))


def matrices_by_role(
    overrides: Mapping[Any, Any] | None = None, *, also: Sequence[str] = (), per_head: bool | int = False
) -> ByRole:
    """Which leaves are hidden matrices, and how, by their paths and shapes.

    Embeddings, heads, norms, biases, routers and depthwise convolutions are none. It reads the names of Flax (nnx and
    linen), Equinox, PyTorch and plain dictionaries: arrays called `weight` are (outputs, inputs, window), all others
    (window, inputs, outputs). A fused q, k, v is three matrices, a convolution one with the window among its inputs;
    along the axes before them lie layers or experts. `gdjax.roles` shows what is found.

    Args:
      overrides: from pattern to role or `Matrix`, the first that matches wins. A pattern is a regular expression,
        searched for anywhere in the path, or a predicate of `(path, leaf)`. A role is "matrix",
        "embedding", "head", "norm", "bias", "router" or "other".
      also: roles whose leaves are matrices too: "router", "head" or "embedding".
      per_head: whether each head of a query, key or value is a matrix by itself, in multi-head latent attention too
        (`q_b_proj`, `wkv_b`), where no override decides. Give the size of a head, such as 128, where heads have no
        axis of their own.

    Returns:
      A function from a tree to a tree of `Matrix` and None, for the arguments of dimension numbers. It is equal, hashed
      and pickled by the arguments. As `layer_axes`, of LAMB or Adafactor, it tells how many axes lie before those of a
      matrix. A norm or bias has those that it shares with the matrices beside it, or the first, where its path tells of
      a stack (`layers`, `blocks`, `stages`, `stack`, `h`) with such matrices, or where it has two axes and stacked
      matrices have as many layers.

    Raises:
      ValueError: an unknown role; a pattern is no regular expression; (when used) a leaf of a pattern has not the axes
        of its `Matrix`; heads have no axis and no known size, or not one that divides the outputs.
      TypeError: the overrides are no mapping; a pattern is neither text nor a function.

    Warns:
      UserWarning: (when used) it cannot be known where a leaf is cut; a pattern decides for no leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.ones((4, 8))}}
      >>> numbers = gdjax.matrices_by_role({"embed": "matrix"})(params)
      >>> [x.reduction_axis for x in (numbers["embed"], numbers["mlp"]["kernel"])]
      [-2, -2]
      >>> gdjax.matrices_by_role()(params)["embed"] is None
      True
    """
    if unknown := [role for role in also if role not in ("router", "head", "embedding")]:
        raise ValueError(f"{LABEL}: also: {unknown}: only a router, a head or an embedding may be a matrix too")
    if per_head is not False and per_head is not True:
        checks.structural(LABEL, "per_head", per_head, 1)
    return ByRole(_checked_overrides(LABEL, overrides), tuple(also), per_head)


@value
def label_by_role(
    overrides: Mapping[Any, Any] | None = None, *, only: Sequence[str] = tuple(ROLES), rest: Any = "rest"
) -> Callable[[Any], Any]:
    """Labels for `partition`: the roles that `matrices_by_role` finds.

    Args:
      overrides: from pattern to role or `Matrix`, the first that matches wins. A pattern is a regular expression,
        searched for anywhere in the path, or a predicate of `(path, leaf)`. A role is "matrix", "embedding", "head",
        "norm", "bias", "router" or "other".
      only: the roles that are labels, by default all of them.
      rest: the label of the others.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> mlp = {"bias": jnp.ones(8), "kernel": jnp.ones((4, 8))}
      >>> labels = gdjax.label_by_role(only=["matrix"], rest="adamw")
      >>> labels({"embed": jnp.ones((9, 4)), "mlp": mlp})
      {'embed': 'adamw', 'mlp': {'bias': 'adamw', 'kernel': 'matrix'}}
      >>> tx = gdjax.partition({"matrix": gdjax.muon(0.1), "adamw": gdjax.adamw(0.1)}, labels)
    """
    label = "gdjax.label_by_role"
    by_role = ByRole(_checked_overrides(label, overrides))
    if unknown := [role for role in only if role not in ROLES]:
        raise ValueError(f"{label}: only: unknown roles {unknown}; there are {', '.join(ROLES)}")

    def labels(tree: ArrayTree) -> Any:
        roles = ["matrix" if isinstance(role, Matrix) else role for role in by_role.roles(label, tree)]
        return jax.tree.structure(tree).unflatten([role if role in only else rest for role in roles])

    return labels


def _checked_overrides(label: str, overrides: Any) -> tuple[tuple[Any, Any], ...]:
    if not isinstance(overrides, Mapping | None):
        raise TypeError(f"{label}: overrides is {type(overrides).__name__}, not a mapping from patterns to roles")
    types.check_patterns(label, overrides or ())
    rules = dict(overrides or {})
    for pattern, role in rules.items():
        if not (is_numbers(role) or isinstance(role, str) and role in ROLES):
            raise ValueError(
                f"{label}: {pattern!r}: unknown role {role!r}; there are {', '.join(ROLES)}, or a gdjax.Matrix"
            )
    return tuple((pattern, x if isinstance(x, str) else as_matrix(x)) for pattern, x in rules.items())


def as_matrix(numbers: Any) -> Matrix:
    """Dimension numbers, of Optax too, as a `Matrix` that can be hashed."""
    parts = getattr(numbers, "parts", 1)
    return Matrix(*(x if isinstance(x, int) else tuple(x) for x in (*numbers[:2], parts)))


_BY_DEFAULT = Matrix(0, 1)
NUMBERS = "dimension numbers"


class Leaf(NamedTuple):
    """A leaf of the plan. A leaf that is no matrix is one row."""

    path: str  # as in errors: params['layer']['kernel']
    shape: tuple[int, ...]
    role: str  # "matrix", or another one of `ROLES`
    axes: Axes
    batch: int
    rows: int
    columns: int
    parts: tuple[int, ...] = ()  # the columns of each matrix if the columns are cut, as in q, k, v; else ()

    def __str__(self) -> str:
        """The matrices, number x rows x columns."""
        several = [f"{number} x {rows} x {columns}".removeprefix("1 x ") for number, rows, columns in self.sizes]
        return " + ".join(several) if self.is_matrix else ""

    @property
    def is_matrix(self) -> bool:
        return self.role == "matrix"

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """The shapes of the results of `split`."""
        if len(set(self.parts)) > 1:
            return [(self.batch, self.rows, n) for n in self.parts]
        number = len(self.parts) or 1
        return [(self.batch * number, self.rows, self.columns // number)]

    def split(self, x: Array) -> list[Array]:
        """x as stacks of matrices, each (number, rows, columns): one stack, or one for each part if these differ.

        The axes of its rows may be of length 1.
        """
        whole = self.axes.to_matrices(x)
        if len(set(self.parts)) > 1:
            ends = [sum(self.parts[: i + 1]) for i in range(len(self.parts))]
            return [whole[..., end - n : end] for end, n in zip(ends, self.parts, strict=True)]
        if not self.parts:
            return [whole]
        rows = whole.shape[1]
        apart = whole.reshape(self.batch, rows, len(self.parts), self.parts[0])
        return [apart.swapaxes(1, 2).reshape(self.batch * len(self.parts), rows, self.parts[0])]

    def joined(self, stacks: Sequence[Array], shape: tuple[int, ...] | None = None) -> Array:
        """The inverse of `split`, in the shape of the leaf or another."""
        if len(set(self.parts)) > 1:
            whole = jnp.concatenate(stacks, -1)
        elif not self.parts:
            (whole,) = stacks
        else:
            rows = stacks[0].shape[1]
            apart = stacks[0].reshape(self.batch, len(self.parts), rows, self.parts[0])
            whole = apart.swapaxes(1, 2).reshape(self.batch, rows, self.columns)
        return self.axes.from_matrices(whole, self.shape if shape is None else shape)


class MatrixPlan(NamedTuple):
    """The leaves in the order of the tree, without those that are None or hidden by a mask."""

    leaves: tuple[Leaf, ...]


def plan_of(
    label: str, tree: ArrayTree, numbers: Any = None, default: Any = None, quiet: bool = False, argument: str = NUMBERS
) -> MatrixPlan:
    """The plan of a tree of parameters or gradients, made once for each tree of shapes and axes.

    Args:
      label: the start of errors.
      numbers: which leaves are matrices and how: `ByRole`; a `Matrix`, or dimension numbers, for all; a tree of them
        and None that is a prefix of `tree`; or a function from `tree` to one. By default the floating leaves of two
        axes are matrices.
      default: the `Matrix` of a leaf that has none of its own; without this it is no matrix.
      quiet: whether `ByRole` does not warn, since another call for this tree does.
      argument: the name of `numbers` in errors.

    Raises:
      TypeError: the function of the tree cannot be called with it, or returned None; an entry is no dimension numbers.
      ValueError: the function raised an error; no prefix; axes that are not there or named twice; parts that do not
        fit the columns; with `default`, a leaf that has neither two axes nor dimension numbers.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    by_role = isinstance(numbers, ByRole)
    given = numbers.roles(label, tree, quiet) if by_role else numbers_of(label, argument, numbers, tree)
    key = []
    for (path, x), n in zip(leaves, given, strict=True):
        where, shape = f"params{jax.tree_util.keystr(path)}", np.shape(x)
        if numbers is None and default is None:
            n = _BY_DEFAULT if can_be_matrix(x) else None
        elif (n is None or isinstance(n, str)) and default is not None:
            if len(shape) != 2:
                kind = type(default).__name__
                one = f"{{{path_of(path)!r}: gdjax.Matrix(-2, -1)}}" if len(shape) > 2 else "..."
                how = f"roles={one}" if kind == "Matrix" else "weight_dimension_numbers=..."
                raise ValueError(f"{label}: {where}: shape {shape} is no matrix; give its {kind} by {how}")
            n = default
        if n is not None and not isinstance(n, str):
            n = as_matrix(n)
        key.append((where, shape, n, is_trained(x)))
    return _plan(label, tuple(key))


def routing(roles: Any) -> Any:
    """The argument `roles` of an optimizer as the `numbers` of `plan_of`: None and a dict of patterns are by role.

    A dict in which something is neither a role nor a `Matrix`, as None or a dict, is a tree.
    """
    patterns = isinstance(roles, Mapping) and all(isinstance(x, str) or is_numbers(x) for x in roles.values())
    return matrices_by_role(roles) if roles is None or patterns else roles


def of_leaf(numbers: Callable[[Any], Any], default: Any = None) -> OfLeaf:
    """How each leaf is matrices, for a rule: `static={"roles": of_leaf(routing, Matrix())}`.

    `numbers` makes the argument of `plan_of` from that of the rule.
    """

    def of_each(tree: Tree, argument: Any) -> list[Leaf]:
        plan = plan_of(tree.label, tree.structure.unflatten(tree.entries), numbers(argument), default)
        return tree.of_each([leaf._replace(path="") for leaf in plan.leaves])  # equal leaves share one trace

    return of_each


MATRICES = of_leaf(routing, Matrix())  # by the argument `roles`; each leaf must be a matrix


def numbers_of(label: str, name: str, numbers: Any, tree: ArrayTree) -> list[Any]:
    """For each leaf of `tree` its dimension numbers, or None; errors call `numbers`, as in `plan_of`, by `name`."""
    if not jax.tree.leaves(tree):
        return []
    if callable(numbers):
        numbers = callers.of_tree(label, name, numbers, tree)
        if not jax.tree_util.all_leaves([tree]):  # for one array None is an answer: it is no matrix
            checks.returned(label, f"the function of {name}", numbers)
    is_entry = lambda x: x is None or is_numbers(x)
    for path, x in jax.tree_util.tree_flatten_with_path(numbers, is_leaf=is_entry)[0]:
        if not is_entry(x):
            slip = "; roles by their names are for gdjax.matrices_by_role" if isinstance(x, str) else ""
            got = f"{name}{jax.tree_util.keystr(path)} is {x!r}"
            raise TypeError(f"{label}: {got}, neither a gdjax.Matrix nor None for what is no matrix{slip}")
    check_prefix(label, name, jax.tree.map(is_entry, numbers, is_leaf=is_entry), tree)
    found: list[Any] = []
    jax.tree.map(lambda x, part: found.extend([x] * len(jax.tree.leaves(part))), numbers, tree, is_leaf=is_entry)
    return found


@functools.lru_cache(maxsize=1024)
def _plan(label: str, leaves: tuple[tuple[str, tuple[int, ...], Any, bool], ...]) -> MatrixPlan:
    made = []
    for where, shape, given, trained in leaves:
        is_matrix = isinstance(given, Matrix) and trained
        axes = matrix_axes(f"{label}: {where}", shape, given) if is_matrix else Axes((), (), tuple(range(len(shape))))
        sizes = axes.sizes(shape)
        parts = _parts(f"{label}: {where}", given.parts, sizes[-1]) if is_matrix else ()
        role = "matrix" if is_matrix else given if isinstance(given, str) else "other"
        made.append(Leaf(where, shape, role, axes, *sizes, parts))
    return MatrixPlan(tuple(made))


def _parts(where: str, parts: Any, columns: int) -> tuple[int, ...]:
    """The columns of each part; () for one matrix."""
    if isinstance(parts, int):
        if parts < 1 or columns % parts:
            raise ValueError(f"{where}: {columns} columns are no {parts} parts of one size")
        parts = (columns // parts,) * parts
    if sum(parts) != columns or any(n < 1 for n in parts) and len(parts) > 1:
        raise ValueError(f"{where}: the parts {parts} do not add up to {columns} columns")
    return parts if len(parts) > 1 else ()
