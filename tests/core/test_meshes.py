"""Owners, divided arrays and loops on meshes; and code for one kind of device, no trace of which serves another."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gdjax.core import meshes
from gdjax.core.meshes import branches, by_platform, jitted, may_be

typed = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
X = jnp.arange(3.0)
MANY = {"cpu": lambda x: x + 1, "cuda": lambda x: x + 2}


def inner(x: jax.Array) -> jax.Array:
    return by_platform(x, **MANY, default=lambda x: x + 3)


def outer(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """By f in each branch: two traces for the CPU and a TPU, none of which has a condition."""
    return branches(x, cpu=functools.partial(f), tpu=functools.partial(f), default=lambda x: f(x) + 0)


def conditions(f: Callable[..., jax.Array]) -> int:
    return str(jax.make_jaxpr(f)(X)).count(" cond[")


@pytest.mark.parametrize("f", [inner, jitted(inner)])
def test_inside_of_a_branch_nothing_is_chosen_again(f: Callable[[jax.Array], jax.Array]):
    assert conditions(f) == 1
    # One that is outermost, and one in the branch for the devices that are not named, a GPU among them.
    assert conditions(functools.partial(outer, f)) == 2
    assert conditions(f) == 1  # what was traced in a branch is not taken for this
    assert jnp.array_equal(outer(f, X), X + 1)


@pytest.mark.skipif(jax.__version_info__ < (0, 6), reason="this JAX lowers what is for other platforms too")
@pytest.mark.parametrize(("platform", "more"), [("cpu", 1), ("cuda", 2), ("tpu", 3)])
def test_lowered_for_a_device_it_is_that_devices(platform: str, more: int):
    text = jax.jit(functools.partial(outer, jitted(inner))).trace(X).lower(lowering_platforms=(platform,)).as_text()
    constants = {n for n in (1, 2, 3) if f"dense<{n}.000000e+00>" in text}
    assert constants == {more}


def test_an_error_ends_the_branch():
    def fails(_: jax.Array) -> jax.Array:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        branches(X, cpu=fails, default=fails, tpu=inner)
    assert conditions(inner) == 1


def test_what_a_branch_may_run_on():
    seen: list[list[bool]] = []

    def note(x: jax.Array) -> jax.Array:
        seen.append([may_be(kind) for kind in ("cpu", "tpu", "other")])
        return x

    jax.make_jaxpr(lambda x: branches(x, cpu=functools.partial(note), default=functools.partial(note)))(X)
    assert sorted(seen) == [[False, True, True], [True, False, False]]
    assert may_be("cpu")
    assert may_be("tpu")


def mesh_of(*sizes: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[: math.prod(sizes)]).reshape(sizes), tuple("abc"[: len(sizes)]))


def explicit_mesh(*sizes: int) -> Mesh:
    mesh = mesh_of(*sizes)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(sizes))


def test_owners_are_those_of_the_context():
    assert meshes.mesh() is None and meshes.dealt(5) == (5,)
    with meshes.owned_by(mesh_of(4), [((2, 3), ())]):
        assert meshes.mesh().size == 4 and meshes.owners() == (meshes.mesh(), (((2, 3), ()),))
        with meshes.owned_by(None):
            assert meshes.mesh() is None
    with meshes.owned_by(mesh_of(1)):  # one device owns all
        assert meshes.mesh() is None


def test_a_stack_is_dealt_to_all_owners():
    with meshes.owned_by(mesh_of(4)):
        assert [meshes.dealt(n) for n in (1, 4, 5, 8)] == [(1, 4), (1, 4), (2, 4), (2, 4)]
    there = jnp.arange(8).reshape(2, 4)
    assert meshes.undealt(there, 5).tolist() == [0, 1, 2, 3, 4] and meshes.undealt(there).tolist() == [*range(8)]
    assert meshes.undealt(jnp.zeros((2, 4, 0, 3)), 7).shape == (7, 0, 3)


@typed
def test_how_an_array_is_divided():
    mesh = explicit_mesh(2, 2)
    x = jax.device_put(jnp.ones((4, 6)), NamedSharding(mesh, P("a", None)))
    assert meshes.division(x).spec == P("a", None) and meshes.division(jnp.ones(3)) is None
    assert not meshes.divided_otherwise({"x": x, "y": jnp.ones((4, 6))}, x)
    other = jax.device_put(jnp.ones((4, 6)), NamedSharding(mesh, P("b", None)))
    assert meshes.divided_otherwise([x, other], x)
    assert meshes.divided_otherwise([jax.device_put(jnp.ones(4), NamedSharding(mesh, P("a")))], x)
    assert meshes.division(meshes.replicated(x)) is None and meshes.replicated(jnp.ones(3)).shape == (3,)
    assert meshes.division(meshes.placed(other, x)) == meshes.division(x)


@typed
def test_slots_are_divided_along_the_axes_they_follow():
    p = jax.device_put(jnp.ones((4, 6)), NamedSharding(explicit_mesh(2, 2), P("a", "b")))
    rows, last = meshes.zeros_along(p, (1, 0), jnp.float32), meshes.zeros_along(p, (1,), jnp.bfloat16, lead=(3,))
    assert (rows.shape, meshes.division(rows).spec) == ((6, 4), P("b", "a"))
    assert (last.shape, last.dtype, meshes.division(last).spec) == ((3, 6), jnp.bfloat16, P(None, "b"))
    assert meshes.division(meshes.along(jnp.ones((4, 4)), p, (0, None))).spec == P("a", None)


@typed
def test_axes_that_are_not_automatic():
    mixed = Mesh(mesh_of(2, 2).devices, ("a", "b"), axis_types=(AxisType.Auto, AxisType.Explicit))
    assert meshes.not_automatic(mixed) == meshes.typed_axes(NamedSharding(mixed, P())) == ("b",)
    assert meshes.not_automatic(meshes.automatic(mixed)) == () == meshes.typed_axes(None)
    assert meshes.automatic(mesh_of(4)) == mesh_of(4)
    one = meshes.on_one_device(mixed)
    assert (one.devices.shape, one.axis_names, one.axis_types) == ((1, 1), ("a", "b"), mixed.axis_types)


@typed
@pytest.mark.whole
@pytest.mark.parametrize("loop", ["cond", "while", "fori"])
def test_loops_whose_results_vary_more_than_their_start(loop: str):
    """Each device adds its own number to a sum that begins as one for all."""

    def run(x: jax.Array) -> jax.Array:
        total, own = jnp.zeros(()), x[0]
        if loop == "cond":
            return meshes.cond(own > 1, lambda t: t + own, lambda t: t, total)[None]
        if loop == "while":
            return meshes.while_loop(lambda t: jnp.max(t) < 3, lambda t: t + own, total)[None]
        return meshes.fori_loop(3, lambda i, t: t + own, total)[None]

    found = jax.shard_map(run, mesh=mesh_of(2), in_specs=P("a"), out_specs=P("a"))(jnp.array([1.0, 2.0]))
    assert found.tolist() == {"cond": [0, 2], "while": [3, 4], "fori": [3, 6]}[loop]


@typed
def test_arrays_that_vary_over_the_same_axes():
    def run(x: jax.Array) -> jax.Array:
        zero, one = meshes.alike(jnp.zeros(()), x[0])
        assert meshes.varying_axes(zero) == meshes.varying_axes(one) == {"a"}
        assert meshes.varying_axes(jnp.ones(())) == frozenset()
        return (zero + one)[None]

    jax.make_jaxpr(jax.shard_map(run, mesh=mesh_of(2), in_specs=P("a"), out_specs=P("a")))(jnp.ones(2))
