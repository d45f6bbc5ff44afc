"""Replicas on an axis of a mesh: which fragment of the parameters they exchange when, and what comes of it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.core import base, checks
from gdjax.core.base import MaskedNode
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.tree.norms import wide
from gdjax.tree.updates import apply_updates

LABEL = "gdjax.diloco_step"


class ReplicaLayout(NamedTuple):
    """Where parameters lie on the mesh, with a replica at each place of an axis."""

    mesh: Mesh
    axis: str
    shardings: Any  # like the parameters of a replica, their shardings
    shares: Any  # the same, where each device of a replica has its share

    def of_replicas(self, how: NamedSharding) -> NamedSharding:
        """The sharding of an array with a leading axis of replicas."""
        return NamedSharding(self.mesh, PartitionSpec(self.axis, *how.spec), memory_kind=how.memory_kind)

    def copies(self, tree: ArrayTree) -> Any:
        """The tree, once for each replica."""
        n = self.mesh.shape[self.axis]
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *jnp.shape(x))), tree)

    def each(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """f, of what one replica has."""
        one = frozenset({self.axis})
        return jax.shard_map(f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, axis_names=one)


class Rounds:
    """The exchanges between the replicas: which fragment when, and what they do with it."""

    def __init__(
        self, outer: Transform, layout: ReplicaLayout, params: Params, fragments: Any, every: int, delay: int,
        alpha: float,
    ):  # fmt: skip
        self.outer, self.layout = outer, layout
        self.every = checks.structural(LABEL, "every", every, 1)
        self.delay = checks.structural(LABEL, "delay", delay, 0)
        if delay >= every:
            raise ValueError(f"{LABEL}: delay must be less than every={every}, got {delay}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"{LABEL}: alpha must be in [0, 1], got {alpha}")
        self.alpha = float(alpha)
        self.of = fragments_of(params, fragments, every)  # for each leaf
        self.number = max(self.of) + 1
        self.fragments = jax.tree.structure(params).unflatten(self.of)

    def part(self, tree: ArrayTree, p: int) -> Any:
        """Fragment p of a tree like the parameters, which has no leaves elsewhere."""
        return jax.tree.map(lambda n, x: x if n == p else MaskedNode(), self.fragments, tree)

    def joined(self, tree: ArrayTree, part: ArrayTree, p: int) -> Any:
        """The tree with its fragment p from `part`."""
        return jax.tree.map(lambda n, x, new: new if n == p else x, self.fragments, tree, part)

    def init(self, params: Params) -> tuple[OptState, ...]:
        return tuple(self.outer.init(self.part(params, p)) for p in range(self.number))

    def __call__(self, t: Array, params: Params, theta: Params, states: tuple[OptState, ...]) -> Any:
        if self.delay == 0:
            return self.at(t, lambda p, *x: self.take(p, *self.meet(p, *x)), params, theta, states)
        met = self.at(t, self.meet, params, theta, states)
        return self.at(t - self.delay, self.take, *met)

    def at(self, t: Array, f: Callable[..., Any], *operands: Any) -> Any:
        """f(p, *operands) in the steps of fragment p; else the operands, of which nothing is copied."""
        turns = [(p + 1) * self.every // self.number % self.every for p in range(self.number)]
        which = sum((p + 1) * ((t > 0) & (t % self.every == turn)).astype(jnp.int32) for p, turn in enumerate(turns))
        unchanged = lambda *operands: operands
        return jax.lax.switch(which, [unchanged, *(functools.partial(f, p) for p in range(self.number))], *operands)

    def meet(self, p: int, params: Params, theta: Params, states: tuple[OptState, ...]) -> Any:
        """Delta, and the outer step with it."""
        fragment, shares = self.part(theta, p), self.part(self.layout.shares, p)
        delta = self.delta(self.part(params, p), fragment, shares)
        updates, state = base.call_update(self.outer, delta, states[p], fragment, {})
        fragment = jax.lax.with_sharding_constraint(apply_updates(fragment, updates), shares)
        return params, self.joined(theta, fragment, p), (*states[:p], state, *states[p + 1 :])

    def delta(self, params: Params, theta: Params, shares: Any) -> Any:
        """The mean over the replicas of theta - theta_m, of which each device of a replica exchanges its share."""

        def exchanged(params: Params, theta: Params) -> Any:
            share = jax.lax.with_sharding_constraint(jax.tree.map(lambda x: x[0], params), specs)
            # Wide: on CPU the compiler of JAX 0.10 crashes on a sum of bfloat16 over some of the axes of a mesh.
            ways = jax.lax.psum(jax.tree.map(lambda old, x: wide(old) - wide(x), theta, share), self.layout.axis)
            return jax.tree.map(lambda x: x / n, ways)

        n = self.layout.mesh.shape[self.layout.axis]
        specs = jax.tree.map(lambda how: how.spec, shares)
        places = PartitionSpec(self.layout.axis), PartitionSpec()
        return self.layout.each(exchanged, places, PartitionSpec())(params, theta)

    def take(self, p: int, params: Params, theta: Params, states: tuple[OptState, ...]) -> Any:
        """theta_m = alpha theta_m + (1 - alpha) theta."""
        new = jax.lax.with_sharding_constraint(self.part(theta, p), self.part(self.layout.shardings, p))
        new = self.layout.copies(new)
        if self.alpha:
            new = jax.tree.map(self.mixed, self.part(params, p), new)
        return self.joined(params, new, p), theta, states

    def mixed(self, x: Array, new: Array) -> Array:
        return (self.alpha * wide(x) + (1 - self.alpha) * wide(new)).astype(x.dtype)


def fragments_of(params: Params, fragments: Any, every: int) -> list[int]:
    """For each leaf the number of its fragment."""
    leaves, structure = jax.tree.flatten(params)
    if jax.tree.structure(fragments) == jax.tree.structure(0):
        number = checks.structural(LABEL, "fragments", fragments, 1)
        if number > len(leaves):
            raise ValueError(f"{LABEL}: fragments must be at most the number of leaves, {len(leaves)}, got {number}")
        of, load = [0] * len(leaves), [(0, 0, p) for p in range(number)]
        for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):  # the largest first, where least is
            size, count, p = min(load)
            of[i], load[p] = p, (size + leaves[i].size, count + 1, p)
    else:
        try:
            tree = jax.tree.map(lambda n, x: jax.tree.map(lambda _: n, x), fragments, params)
        except ValueError as e:
            raise ValueError(f"{LABEL}: fragments is no prefix of params, {structure}: {e}") from None
        of = [checks.structural(LABEL, "each number in fragments", n, 0) for n in jax.tree.leaves(tree)]
        number = max(of) + 1
        if missing := set(range(number)) - set(of):
            raise ValueError(f"{LABEL}: fragments has a {number - 1}, and no {min(missing)}")
    if number > every:
        raise ValueError(f"{LABEL}: every={every} is too short for {number} fragments, one in a step")
    return of
