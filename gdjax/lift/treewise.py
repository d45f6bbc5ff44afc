"""Makes a transform of a rule of the whole tree, which is called once with lists of all leaves."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.types import OptState, Params, Updates
from gdjax.lift import rule_checks
from gdjax.lift.all_leaves import check
from gdjax.lift.leafwise import maker_of
from gdjax.lift.one_leaf import promotion, stored
from gdjax.lift.rule import Leafwise
from gdjax.lift.running import leaves_of, opened
from gdjax.lift.signatures import Special


class Treewise(Leafwise):
    """A rule `(gs, s, tree, t, ...) -> (us, s)` with its hyperparameters.

    Where a rule of `leafwise` gets one array, it gets a list with an entry for each leaf that has a gradient: the
    gradients, and the slots as fields of `s`, in their own dtypes. `tree` is the `Tree` behind them. Arguments that are
    no numbers come as `settings`.
    """

    def steps(self, state: OptState) -> None:
        """It does not join a pass over the leaves."""

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        leaves = leaves_of([self], updates, params)
        running = opened(0, self, state, None, leaves, updates)
        running.count = None if running.count is None else numerics.safe_increment(running.count)
        check([running], leaves)
        tree = leaves.tree(self.label, extra_args)
        gs, of_leaves = tree.chosen(leaves.gs), tree.chosen(running.slots)
        olds = {f: [mine[j] for mine in of_leaves] for j, f in enumerate(self.slots)} | running.shared
        fields = olds | {f: [codec.decode(x) for x in olds[f]] for f, codec in self.codecs.items()}
        real = numerics.widest_real(gs)
        numbers = {name: x.astype(real) for name, x in running.scalars.items()}
        if "count" in self.State._fields:
            fields.setdefault("count", running.count)
        t = None if running.count is None else running.count.astype(real)
        with jax.named_scope(self.label.removeprefix("gdjax.")), promotion(*gs):
            us, new = self.rule(gs, self.State(**fields), tree, t, **{**self.hyper, **self.settings, **numbers})
        news = {f: getattr(new, f) for f in olds}
        news |= {f: [codec.encode(jnp.asarray(x)) for x in news[f]] for f, codec in self.codecs.items()}
        kept = {f: jax.tree.map(lambda old, new: stored(new, old), old, news[f]) for f, old in olds.items()}
        if self.slots:
            running.slots = tree.filled(zip(*(kept[f] for f in self.slots), strict=True), running.slots)
        running.shared = {f: kept[f] for f in running.shared}
        where = [leaves.where(i) for i, own in enumerate(leaves.trained) if own]
        us = [self._update(*of_leaf) for of_leaf in zip(where, us, gs, strict=True)]
        return tree.unflattened(us), running.new_state(leaves.structure)

    def _update(self, where: str, u: Any, g: jax.Array) -> jax.Array:
        """An update with the dtype and the sharding of its gradient."""
        try:
            u = rule_checks.as_update(u, g)
        except (ValueError, TypeError) as e:
            raise type(e)(f"{self.label}: {where}: {e}") from None
        return meshes.placed(u, g) if meshes.division(g) else u


def treewise(State: Any, settings: Sequence[str] = (), domains: Any = None, **slots: Any) -> Any:  # noqa: N803
    """Makes a rule of the whole tree, see `Treewise`, a factory of transforms; the rest is as in `leafwise`.

    Args:
      settings: the arguments that are no numbers, beside those that slots read.
    """
    return maker_of("leafwise", State, slots, None, Special(settings=settings), domains, kind=Treewise)
