"""Blocks of one shape in one stack: what the layout of the state must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import stacks
from gdjax.matrices import matrixwise

FEW = "soap shampoo psgd_kron".split()  # the others go the same ways
NAMES = [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in "kl_soap kl_shampoo soap_muon".split())]


def direction(name, **given):
    few = {"preconditioner_update_probability": 0.5} if name == "psgd_kron" else {"precondition_frequency": 2}
    return getattr(gdjax, f"scale_by_{name}")(**{**few, **given})


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), "float32")


def run(tx, gradients, params=None):
    state, step = tx.init(gradients[0] if params is None else params), jax.jit(tx.update)
    found = []
    for g in gradients:
        u, state = step(g, state, params)
        found.append(u)
    return found, state


@pytest.mark.parametrize("name", NAMES)
def test_a_tall_matrix_is_a_wide_one_on_its_side(name):
    gradients = [normal(i, 3, 5) for i in range(6)]
    wide, _ = run(direction(name), gradients)
    tall, state = run(direction(name), [g.T for g in gradients])
    np.testing.assert_array_equal([u.T for u in tall], wide)
    assert [x.shape for x in jax.tree.leaves(state) if x.ndim == 3][0][1:] in ((3, 5), (3, 3), (1, 2))


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_large_matrices_in_a_loop_are_as_small_ones_at_once(name, monkeypatch):
    gradients = [{str(i): normal(10 * t + i, 4, 6) for i in range(5)} for t in range(7)]
    at_once, _ = run(direction(name), gradients)
    monkeypatch.setattr(stacks, "LARGE", 1)
    monkeypatch.setattr(matrixwise, "LARGE", 1)
    jax.clear_caches()
    one_by_one, _ = run(direction(name), gradients)
    jax.clear_caches()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4), at_once, one_by_one)


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_without_a_gradient_keeps_its_place(name):
    params = {"a": jnp.zeros((3, 4)), "b": jnp.zeros((3, 4)), "c": jnp.zeros((4, 3))}
    gradients = [{k: normal(10 * t + i, *p.shape) for i, (k, p) in enumerate(params.items())} for t in range(3)]
    tx = direction(name, **({} if name == "psgd_kron" else {"precondition_frequency": lambda count: 10}))
    _, state = run(tx, gradients, params)
    missing = {**gradients[0], "b": None}
    u, new = tx.update(missing, state, params)
    whole, other = tx.update(gradients[0], state, params)
    assert u["b"] is None
    np.testing.assert_allclose(u["a"], whole["a"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(u["c"], whole["c"], rtol=1e-5, atol=1e-7)
    fields = ("Q", "L") if name == "psgd_kron" else ("mu", "L")
    for field in fields:
        old, kept, moved = (jax.tree.leaves(getattr(s, field)["3x4"])[0] for s in (state, new, other))
        np.testing.assert_array_equal(kept[1], old[1])
        np.testing.assert_allclose(kept[0], moved[0], rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match=rf"scale_by_{name}: the state has 3 blocks of 3x4, the gradients are 2"):
        tx.update(missing, state)


@pytest.mark.parametrize("name", NAMES)
def test_another_tree_than_the_states(name):
    tx = direction(name)
    state = tx.init({"a": jnp.zeros((3, 4))})
    said = "1 blocks of 3x4, the gradients are 1 blocks of 3x5"
    with pytest.raises(ValueError, match=rf"scale_by_{name}: .*{said}.*; init\(params\) anew"):
        tx.update({"a": jnp.zeros((3, 5))}, state)


@pytest.mark.full
def test_complex_blocks_have_a_stack_of_their_own():
    tree = {"a": normal(0, 3, 4), "b": jax.lax.complex(normal(1, 3, 4), normal(2, 3, 4))}
    tx = direction("soap", precondition_frequency=lambda count: 2)
    (*_, u), state = run(tx, [tree] * 4)
    assert {k: x.dtype for k, x in state.mu.items()} == {"3x4": "float32", "3x4 complex": "complex64"}
    assert u["a"].dtype == "float32" and u["b"].dtype == "complex64"
    (*_, alone), _ = run(tx, [tree["a"]] * 4)
    np.testing.assert_allclose(u["a"], alone, rtol=1e-4, atol=1e-5)


def test_reset_warns_of_what_it_leaves():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones(3)}
    tx = gdjax.soap(0.1, roles={"a": "matrix"})
    _, state = tx.update(params, tx.init(params), params)
    with pytest.warns(UserWarning, match="soap/mu.* keeps matrices of one shape together"):
        new = gdjax.reset(tx, state, params, where="b|a")
    np.testing.assert_array_equal(
        gdjax.tree.get(new, "SoapState").L["3x4"], gdjax.tree.get(state, "SoapState").L["3x4"]
    )
    new = gdjax.reset(tx, state, params, fields="L")
    assert not gdjax.tree.get(new, "SoapState").L["3x4"].any()


@pytest.mark.parametrize("name", NAMES)
def test_equal_leaves_add_few_equations(name):
    def equations(number):
        tree = {str(i): jnp.zeros((4, 3)) for i in range(number)}
        tx = direction(name)
        traced = jax.make_jaxpr(lambda g, s: tx.update(g, s))(tree, jax.eval_shape(tx.init, tree))
        return sum(map(len, bodies(traced.jaxpr, {}).values()))

    # The momentum of psgd_kron is put into a stack as well, and cut out again.
    assert (equations(24) - equations(12)) / 12 <= {"psgd_kron": 10, "soap_muon": 18, "shampoo": 8}.get(name, 6)


def bodies(jaxpr, seen):
    """The equations of a trace and of all that it calls, each once."""
    if id(jaxpr) not in seen:
        seen[id(jaxpr)] = jaxpr.eqns
        for equation in jaxpr.eqns:
            for x in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                inner = getattr(x, "jaxpr", x)
                if hasattr(inner, "eqns"):
                    bodies(inner, seen)
    return seen


@pytest.mark.parametrize("name", FEW)
def test_a_period_that_no_run_is_as_long_as(name):
    """It has no table of its steps. All factors have their first turn in step 1, PSGD's when so many have passed."""
    rare = {"preconditioner_update_probability": 1e-9} if name == "psgd_kron" else {"precondition_frequency": 10**9}
    _, state = run(direction(name, **rare), [{"a": normal(0, 3, 4), "b": normal(1, 3, 4)}] * 3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key))
    if name == "soap":
        assert not any(np.array_equal(basis, jnp.eye(3)) for basis in state.QL["3x4"])
