"""Matrices of equal shapes together: several inputs and outputs, what is no array, batches, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.leaf_roles import plan
from gdjax.linalg import stacks
from gdjax.linalg.stacks import in_stacks

RNG = np.random.default_rng(0)


def arrays(*shapes):
    return [jnp.asarray(RNG.normal(size=n), "float32") for n in shapes]


def factors(g, left):
    return left @ g, g @ g.mT, jnp.sum(g, (-2, -1))


@pytest.mark.parametrize("most, together", [
    (5, {(2, 3), (4, 2, 3), (3, 2), (0, 3)}),  # of at least 5 elements a matrix counts as large, and is done by itself
    (10**6, {(7, 2, 3), (3, 2), (0, 3)}),
])  # fmt: skip
def test_several_inputs_and_outputs(most, together):
    gs = arrays((2, 3), (4, 2, 3), (3, 2), (2, 3), (1, 2, 3), (0, 3))
    lefts = arrays((2, 2), (4, 2, 2), (3, 3), (2, 2), (1, 2, 2), (0, 0))
    seen = []

    def f(g, left):
        seen.append(g.shape)
        return factors(g, left)

    for place, g, left in zip(stacks.in_turn(jax.jit(f), most, gs, lefts), gs, lefts, strict=True):
        for got, want in zip(place, factors(g, left), strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert len(seen) == len(set(seen)) and set(seen) == together  # one trace for each shape


def test_what_is_no_array_stays():
    one, three = arrays((2, 2), (3, 3))
    trees = [one, None, three, gdjax.MaskedNode()], [one, one, three, one]
    left, right = in_stacks(lambda x, y: (x @ y, x - y), *trees)
    assert left[1] is None is right[1] and left[3] == right[3] == gdjax.MaskedNode()
    np.testing.assert_allclose(left[2], three @ three, rtol=1e-5)
    np.testing.assert_array_equal(right[0], np.zeros((2, 2)))
    assert in_stacks(lambda x: x.mT, [None, None]) == [None, None]
    assert in_stacks(lambda x: (x, x), [None]) == ([None], [None])
    assert in_stacks(lambda x: x, []) == []


def test_a_refusal():
    with pytest.raises(
        ValueError, match=r"^gdjax.in_stacks: shapes \(2, 3\), \(4, 2, 3\) are no batches of matrices alike"
    ):
        in_stacks(jnp.add, arrays((2, 3)), arrays((4, 2, 3)))
    with pytest.raises(ValueError, match="no batches of matrices"):
        in_stacks(jnp.abs, arrays((2,)))


def axes_of(x):
    return None if x.ndim < 2 else gdjax.MuonDimensionNumbers((0, 1), -1)


def test_a_plan():
    tree = {"a": jnp.ones((2, 3)), "b": jnp.ones(4), "c": jnp.ones((2, 5, 3)), "d": jnp.ones((2, 3), int), "e": None}
    tree |= {"f": np.ones((2, 3), "float32")}
    made = plan.plan_of("tx", tree)
    assert [leaf.role for leaf in made.leaves] == ["matrix", "other", "other", "other", "matrix"]
    assert made.leaves[0][:2] == ("params['a']", (2, 3)) and made.leaves[0][4:] == (1, 2, 3, ())
    assert plan.plan_of("tx", jax.tree.map(jnp.zeros_like, tree)) is made  # once for each tree of shapes
    numbers = {**dict.fromkeys(tree), "c": gdjax.MuonDimensionNumbers([2], (1,))}
    cube = plan.plan_of("tx", tree, numbers).leaves[2]
    assert (cube.batch, cube.rows, cube.columns, cube.axes) == (2, 3, 5, ((0,), (2,), (1,)))
    (whole,) = plan.plan_of("tx", {"c": tree["c"]}, lambda tree: jax.tree.map(axes_of, tree)).leaves
    assert (whole.batch, whole.rows, whole.columns) == (1, 10, 3)


@pytest.mark.parametrize("numbers, message", [
    (None, r"tx: params\['b'\]: shape \(4,\) is no matrix; give its MuonDimensionNumbers"),
    ({"z": gdjax.MuonDimensionNumbers()}, "tx: the dimension numbers are not a prefix of the tree"),
    (gdjax.MuonDimensionNumbers(0, 3), r"tx: params\['a'\]: output_axis 3 does not name"),
])  # fmt: skip
def test_plans_that_fail(numbers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plan.plan_of("tx", {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}, numbers, gdjax.MuonDimensionNumbers())


@pytest.mark.parametrize("numbers, message", [
    (lambda tree: None, "tx: the function of dimension numbers returned None"),
    ({"a": "matrix"}, r"tx: dimension numbers\['a'\] is 'matrix', neither .* by their names are for gdjax.matr"),
    (lambda tree: {"a": True}, r"tx: dimension numbers\['a'\] is True, neither a gdjax.Matrix nor None"),
])  # fmt: skip
def test_entries_that_are_no_dimension_numbers(numbers, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        plan.plan_of("tx", {"a": jnp.ones((2, 3))}, numbers)


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="no explicit axes")
def test_explicit_axes():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    divided = jax.NamedSharding(mesh, jax.P("x", None))
    gs, lefts = arrays((4, 2), (4, 2)), arrays((4, 4), (4, 4))
    with jax.set_mesh(mesh):
        put = functools.partial(jax.device_put, device=divided)
        got = jax.jit(lambda *xs: in_stacks(factors, *xs))([*map(put, gs)], [*map(put, lefts)])
    assert [x.sharding.spec for x in (got[0][0], got[1][0])] == [jax.P("x", None), jax.P(None, None)]
    np.testing.assert_allclose(got[0][1], lefts[1] @ gs[1], rtol=1e-5)
