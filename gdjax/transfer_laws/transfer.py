"""Tune small, train big: an optimizer tuned on a small model, for a larger one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.combine.sites import Place, sites
from gdjax.core import argument_kinds as kinds
from gdjax.core import base as core
from gdjax.core.arrays import shape_of
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.contexts import WHERE
from gdjax.core.growth import LAWS, Law
from gdjax.core.paths import paths_of
from gdjax.core.types import ArrayTree, OptState, Params, PerLeaf, Transform, boxed_like, is_skipped, unboxed
from gdjax.leaf_roles.plan import ByRole
from gdjax.lift import factors as leaf_factors
from gdjax.lift.rule import Leafwise
from gdjax.transfer_laws.edits import Edited, TunedNumber, edited, tuned_numbers
from gdjax.transfer_laws.factors import Growth, gradient_factor, rate_factor, start_factor
from gdjax.transfer_laws.small_model import SmallModel

__all__ = ["transfer", "transfer_init"]

LABEL = "gdjax.transfer"


@dataclass(frozen=True, eq=False)
class Factors:
    """The factors of one number: a function from a tree, in which masks may hide leaves, to a tree."""

    base: SmallModel
    numbers: Mapping[str, TunedNumber]  # by the path of a leaf of the base; 1 for the others

    def __call__(self, tree: ArrayTree) -> Any:
        growths = self.base.growths(tree)
        numbers = {path: self.numbers.get(self.base.counterpart(path).path) for path in growths}
        paths = [path for path, _ in paths_of(tree, is_skipped)]
        each = [factor_of(numbers[path], growths[path]) if path in growths else 1.0 for path in paths]
        return jax.tree.structure(tree, is_leaf=is_skipped).unflatten(each)

    def edit(self, rule: Leafwise, name: str) -> Leafwise:
        """The rule with a number multiplied by these factors."""
        if name in rule.settings:  # read by the start of a slot alone
            return replace(rule, settings={**rule.settings, name: PerLeaf(rule.settings[name], None, self)})
        number = PerLeaf(rule.per_leaf.get(name, rule.hyper[name]), None, self)
        _, factors = leaf_factors.split(rule.label, {name: number}, rule.initial, rule.of_tree)
        return replace(rule, per_leaf={**rule.per_leaf, **factors})


def factor_of(number: TunedNumber | None, x: Growth) -> float:
    """The factor of a number for a leaf that has grown; 1 for none."""
    if number is None:
        return 1.0
    if number.kind in ("eps", "start"):
        return gradient_factor(x) ** number.power
    rate = rate_factor(x, number.law)
    return rate if number.kind == "rate" else 1 / rate


class Row(NamedTuple):
    """The factors of one leaf."""

    path: str
    shape: tuple[int, ...]
    role: str
    grown: str  # the axes that grew: "inputs x 4, outputs x 4, layers x 2"
    rate: float
    decay: float
    eps: float
    start: float  # of the scale at which the weights start
    why: str


@dataclass(frozen=True, eq=False)
class Transferred(Edited):
    """A transform with the numbers of a larger model."""

    base: SmallModel
    numbers: Mapping[str, tuple[list[TunedNumber], Law | None]]  # by the path of a leaf of the base
    is_transferred = True

    def init(self, params: Params) -> OptState:
        if not WHERE.get().tried:
            self.base.check(params)
        return self.tx.init(params)

    def _factors(self, params: Params) -> Iterator[tuple[str, Growth, dict[str, float], Law | None]]:
        """For each leaf its growth, the factor of each kind of number, and how its update grows."""
        for path, x in self.base.growths(params).items():
            numbers, law = self.numbers[self.base.counterpart(path).path]
            yield path, x, {y.kind: factor_of(y, x) for y in numbers if y.power == 1 and y.kind != "slow"}, law

    def rates(self, params: Params) -> dict[str, float]:
        """By the path of a leaf the factor of its rate; no leaf that is frozen."""
        return {path: factors["rate"] for path, _, factors, _ in self._factors(params) if "rate" in factors}

    def rows(self, params: Params) -> Iterator[Row]:
        """The factors of each leaf of the larger model."""
        self.base.check(params)
        shapes = dict(paths_of(params))
        for path, x, factors, law in self._factors(params):
            ratios = {"inputs": x.inputs, "outputs": x.outputs, "layers": x.layers}
            grown = ", ".join(f"{name} x {ratio:g}" for name, ratio in ratios.items() if ratio != 1)
            rate, decay, eps = (factors.get(kind, 1.0) for kind in ("rate", "decay", "eps"))
            yield Row(path, shapes[path].shape, x.role, grown, rate, decay, eps, start_factor(x), _why(x, law))


def _why(x: Growth, law: Law | None) -> str:
    """What the factors of a leaf follow from, in words."""
    if law is None:
        return "frozen"
    powers = f"as inputs^{law.inputs:g} outputs^{law.outputs:g}" + ", and by its shape" * (law.scale is not None)
    name = next((name for name, known in LAWS.items() if known == law), powers)
    kind = "relative to the weights" if law.start else name
    return f"{kind}; {x.branch} of a residual branch" if x.branch else kind


def transferred(label: str, tx: Transform, base: Params, roles: Any, depth: Any) -> Transferred:
    """The part behind `transfer`."""
    core.check_transform(label, 0, tx)
    parts = list(sites(tx, base))
    settings = [x for part in parts if part.rule for x in part.rule.settings.values()]
    sizes = {x.per_head for x in settings if isinstance(x, ByRole) and x.per_head} or {False}
    if len(sizes) > 1:
        raise ValueError(f"{label}: heads are matrices of several sizes, per_head={sorted(sizes)}: use one")
    model = SmallModel(label, base, roles, depth, *sizes)
    of_leaves = {}
    by_number: dict[tuple[Place, str], dict[str, TunedNumber]] = {}
    for path, leaf in model.leaves.items():
        if path in model.trained:
            way = [part for part in parts if path in (part.paths or ())]
            of_leaves[path] = tuned_numbers(label, way, leaf.kind, path)
            for number in of_leaves[path][0]:
                if number.kind != "slow":
                    by_number.setdefault((number.place, number.name), {})[path] = number
    edits = {at: Factors(model, numbers).edit for at, numbers in by_number.items()}
    return Transferred(label, edited(tx, edits), model, of_leaves)


def shapes_of_base(label: str, base: Params) -> Any:
    """The shapes of a base, without boxes."""
    if base is None:
        raise ValueError(f"{label}: base is None; pass the parameters of the small model, or their shapes")
    return jax.tree.map(shape_of, unboxed(base))


@transform
def transfer(
    tx: Transform, base: Params, *, roles: Mapping[Any, Any] | None = None, depth: str | re.Pattern[str] | None = None
) -> GradientTransformation:
    """An optimizer tuned on a small model, for a larger model of the same kind: the same numbers, scaled leaf by leaf.

    A rate that is best for a small model is too large for a wide one, by a factor that differs from leaf to leaf. It
    follows from three things: the role of the leaf, by how much each of its axes has grown since `base`, and how the
    updates of the method grow with a matrix. With m the quotient of the widths, at a fixed aspect:

        role            start     Adam and the like: rate, eps    SGD's rate    Muon's rate    decay, under Adam
        embedding       1         1         1/m                   m             1              1
        hidden matrix   m^-1/2    1/m       1/m                   1             1              m
        head, router    1/m       1/m       1                     1/m           1              m
        norm, bias      1         1         1/m                   m             -              1

    What a rate times a decay takes from a weight stays as it is. Methods with a norm of the weights in their update
    (LAMB, Adafactor with its parameter scale) take m^-1/2 for a hidden matrix, and so does Muon with `consistent_rms`;
    NorMuon takes what Adam takes. `transfer_table` shows the factors, and `explain` the
    rates. They are those of the tree that `init` and `update` get: where that is `base`, all are 1 and the program is
    that of `tx`.

    `tx` may be any chain, partition, mask, wrapper, accumulation, coded state or injection of this library's parts.
    Factors stand at its learning rates, decays and eps as `per_leaf` would put them: the state is that of `tx`. PSGD's
    `precond_init_scale` takes the root of the growth of the outputs, by which gradients shrink.

    A last matrix without the name of a head, such as `fc` or `Dense_2`, is one if only its inputs grow.

    The start of a model is its own affair: `transfer_init` scales it. So is its forward pass. Two things there do not
    transfer: attention scores over the root of a growing head size, of which it warns, and a head that is the
    embedding, which is an error that says what to change.

    Args:
      tx: the optimizer as it was tuned.
      base: the parameters that it was tuned on, or their shapes. Along axes of layers and experts nothing is scaled.
      roles: from pattern to role or `Matrix`, as in `matrices_by_role`, for leaves that names and shapes do not tell.
      depth: for a model with more layers than the base, in a list or stacked along an axis: "fold" gives the last
        matrix of each residual branch the factor 1 / layers, which stands for a factor 1 / layers of the branch; a
        regular expression says which these matrices are; "forward" where the model has that factor itself.

    Raises:
      ValueError: a rule does not say how its updates grow, or is of another library: the message has two remedies;
        leaves without a learning rate; (in init) another structure, an axis that shrinks, a leaf that no rule covers, a
        role that differs, a tied head, several matrices that may be the head, more layers and no `depth`.
      TypeError: `tx` is no transform; a method has one rate for the whole tree, as Prodigy.

    Warns:
      UserWarning: (in init) the heads of attention grow.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def model(n):
      ...     return {"embed": jnp.ones((9, n)), "head": jnp.ones((n, 9))}
      >>> tx, params = gdjax.transfer(gdjax.adamw(1e-2), base=model(4)), model(16)
      >>> u, _ = tx.update(params, tx.init(params), params)
      >>> print([round(float(u[name][0, 0]), 4) for name in params])
      [-0.01, -0.0025]

    Reference:
      Yang et al. 2022, Tensor programs V, Tables 3 and 8, https://arxiv.org/abs/2203.03466;
      Yang, Simon & Bernstein 2023, https://arxiv.org/abs/2310.17813 (by the largest singular value);
      Dey et al. 2025, CompleteP, https://arxiv.org/abs/2505.01618 (`depth`)
    """
    made: Any = transferred(LABEL, tx, shapes_of_base(LABEL, base), roles, depth)
    return made


def transfer_init(
    params: Params, base: Params, *, roles: Mapping[Any, Any] | None = None,
    depth: str | re.Pattern[str] | None = None, law: Literal["fan_in", "constant", "measured"] = "fan_in",
) -> Any:  # fmt: skip
    """The start of a large model, scaled so that it transfers with the start of `base`.

    A hidden matrix is to start with a standard deviation that falls as 1 / sqrt(inputs), a head or a router as
    1 / inputs, and the last matrix of a residual branch with 1 / layers beside; embeddings, gains and biases stay as
    they are, zeros stay zeros. What the model did itself is not done again:

    Args:
      params: as the model initialised them.
      base: the parameters of the small model, or their shapes.
      roles: from pattern to role or `Matrix`, as in `matrices_by_role`, for leaves that names and shapes do not tell.
      depth: for more layers than in the base: "fold" scales the last matrix of each residual branch by 1 / layers; or
        a regular expression for these; "forward" leaves it to the model. The same as of `transfer`.
      law: "fan_in" for a model whose matrices start as 1 / sqrt(inputs), as is common: heads alone are scaled, and ends
        of branches. "constant" for one with a standard deviation for all widths, as GPT-2's 0.02. "measured" compares
        the root mean square of each leaf with that of the base, whose arrays it needs, and sets it.

    Raises:
      ValueError: as in `transfer`; law="measured" with shapes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> def model(n):
      ...     return {"mlp": jnp.ones((n, n)), "head": jnp.ones((n, 9))}
      >>> params = gdjax.transfer_init(model(16), base=model(4))
      >>> print(params["mlp"][0, 0], params["head"][0, 0])
      1.0 0.5

    Reference:
      Yang et al. 2022, Table 8, https://arxiv.org/abs/2203.03466
    """
    label = "gdjax.transfer_init"
    kinds.choice(("fan_in", "constant", "measured"), label, "law", law)
    model = SmallModel(label, shapes_of_base(label, base), roles, depth)
    shapes = jax.tree.map(shape_of, unboxed(params))
    model.check(shapes)
    growths, before = model.growths(shapes), dict(paths_of(base))

    def scaled(path: str, x: Any) -> Any:
        if path not in growths:
            return x
        factor: Any = start_factor(growths[path], done=-0.5 if law == "fan_in" else 0.0)
        if law == "measured":
            small = before[model.counterpart(path).path]
            if isinstance(small, jax.ShapeDtypeStruct):
                raise ValueError(
                    f"{label}: law='measured' compares with the arrays of base, and {path} is a shape there"
                )
            size = _rms(x)
            factor = factor * _rms(small) / jnp.where(size == 0, 1, size)
        return x if isinstance(factor, float) and factor == 1 else x * jnp.asarray(factor, x.dtype)

    leaves = [scaled(path, x) for path, x in paths_of(params)]
    return boxed_like(params, jax.tree.structure(unboxed(params)).unflatten(leaves))


def _rms(x: Any) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(jnp.abs(jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))))))
