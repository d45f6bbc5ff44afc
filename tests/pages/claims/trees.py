"""The tables of trees, numbers and linear algebra, and of line searches and L-BFGS."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.pages.claims.claim import claim, dtypes, finite, is_nan, near, told

P = jnp.ones(3)
HALF = jnp.ones(4096, "bfloat16")


# XLA of the oldest JAX keeps the NaN.
@claim("maxima of thousands of numbers", theirs=1.0 if hasattr(jax.lax, "pcast") else is_nan, ours=is_nan)
def the_largest_of_many(o: Any) -> float:
    return float(o.tree.max(jnp.ones(100_000).at[777].set(jnp.nan)))


@claim("`tree.set`", theirs=[1, 1, 2], ours=[2, 2, 2])
def replaced_everywhere(o: Any) -> Any:
    return jax.tree.leaves(o.tree.set({"a": ({"x": 1}, {"x": 1}), "x": 1}, x=2))


@claim("`tree.get` with several matches", theirs=lambda n: n > 1000, ours=lambda n: n < 600)
def the_error_of_several_matches(o: Any) -> int:
    try:
        o.tree.get(o.chain(o.scale_by_adam(), o.scale_by_adam()).init(jnp.linspace(0, 1, 400)), "count")
    except KeyError as e:
        return len(str(e))
    return 0


@claim("`tree.map_params` under masks", theirs=ValueError, ours=True)
def mapped_under_a_mask(o: Any) -> bool:
    tx, p = o.masked(o.scale_by_adam(), {"a": True, "b": False}), {"a": P, "b": P}
    got = o.tree.map_params(tx, lambda x, name: name, tx.init(p), {"a": "A", "b": "B"})
    return got.inner_state.mu["a"] == "A"


@claim("`tree.sum`, `vdot`, `norm`, 16 bits", theirs={"bfloat16"}, ours={"float32"})
def sums(o: Any) -> Any:
    return dtypes([o.tree.sum(HALF), o.tree.vdot(HALF, HALF), o.tree.norm(HALF)])


@claim("`tree.norm` of whole numbers", theirs=lambda x: not near(1e5)(x), ours=near(1e5))
def norm_of_integers(o: Any) -> Any:
    return float(o.tree.norm(jnp.array([100_000])))


@claim("`tree.norm(ord=inf)` of an empty tree", theirs=-jnp.inf, ours=0.0)
def norm_of_nothing(o: Any) -> float:
    return float(o.tree.norm({}, ord=jnp.inf))


@claim("`tree.max`, `min` of integers", theirs=2**24, ours=2**24 + 1)
def largest_integer(o: Any) -> int:
    return int(o.tree.max(jnp.array([2**24 + 1])))


@claim("`tree.update_moment*`", theirs=False, ours=True)
def a_product_in_16_bits(o: Any) -> bool:
    """Whether it is the product in float32, rounded once."""
    m = jnp.linspace(1, 100, 500, dtype="bfloat16")
    return bool(jnp.all(o.tree.scale(0.997, m) == (0.997 * m.astype("float32")).astype("bfloat16")))


@claim("`update_moment_per_elem_norm`, odd order", theirs=-8.0, ours=8.0)
def odd_order(o: Any) -> float:
    return float(o.tree.update_moment_per_elem_norm(jnp.array(-2.0), jnp.array(0.0), 0.0, 3))


@claim("`random_like`, 16 bits", theirs=lambda n: n < 300, ours=lambda n: n > 300)
def random_numbers(o: Any) -> int:
    """How many of them there are in [1, 2)."""
    x = o.tree.random_like(jax.random.key(0), jnp.zeros(2**16, "bfloat16"), jax.random.normal)
    return len(np.unique(np.asarray(x, np.float32)))


@claim("`safe_norm`, `safe_root_mean_squares`", theirs=[False, False], ours=[True, True])
def norms_of_large_numbers(o: Any) -> Any:
    large = [float(f(jnp.full(4, 1e25), 0.0)) for f in (o.safe_norm, o.safe_root_mean_squares)]
    return [near(x)(y) for x, y in zip([2e25, 1e25], large, strict=True)]


@claim("`scale_gradient`", theirs=jax.errors.ConcretizationTypeError, ours=near(1.0))
def scale_of_a_gradient(o: Any) -> Any:
    return jax.jit(lambda s: jax.grad(lambda x: o.scale_gradient(x, s) ** 2)(1.0))(0.5)


@claim("`apply_updates` with an update of None", theirs=Exception, ours=near([1.0, 1.0, 1.0]))
def an_update_of_none(o: Any) -> Any:
    return o.apply_updates({"a": P, "b": P}, {"a": None, "b": P})["a"]


@claim("`periodic_update`", theirs=TypeError, ours="bfloat16")
def a_target_network(o: Any) -> str:
    return str(o.periodic_update(P, P.astype("bfloat16"), jnp.int32(4), 2).dtype)


@claim("`power_iteration` where M v = 0", theirs=is_nan, ours=finite)
def a_matrix_of_zeros(o: Any) -> Any:
    return o.power_iteration(jnp.zeros((3, 3)), num_iters=5)[1]


@claim("`matrix_inverse_pth_root`", theirs=lambda e: e > 1e-3, ours=lambda e: e < 1e-4)
def third_root(o: Any) -> float:
    root = o.matrix_inverse_pth_root(8.0 * jnp.eye(3), 3)[0]
    return float(jnp.max(jnp.abs(root - 0.5 * jnp.eye(3))))


@claim("`nnls`", theirs=lambda e: e > 1e-3, ours=lambda e: e < 5e-4)
def least_squares(o: Any) -> float:
    a = jax.random.normal(jax.random.key(0), (12, 6)) @ jnp.diag(10.0 ** -jnp.arange(0, 3, 0.5))
    x = jnp.abs(jax.random.normal(jax.random.key(1), (6,)))
    return float(jnp.max(jnp.abs(o.nnls(a, a @ x, 2000) - x)))


@claim("`hungarian_algorithm`", theirs=False, ours=True)
def pairs_of_a_rectangle(o: Any) -> bool:
    """Whether the rows ascend."""
    costs = jax.random.uniform(jax.random.key(3), (6, 4))
    rows, _ = o.assignment.hungarian_algorithm(costs)
    return bool(jnp.all(jnp.diff(rows) > 0))


@claim("`microbatch`, 16 bits", theirs="bfloat16", ours="float32")
def a_sum_in_16_bits(o: Any) -> str:
    """The dtype in which 512 ones make more than 256."""
    f = o.microbatching.microbatch(
        lambda x: jnp.sum(x).astype(x.dtype),
        argnums=0,
        microbatch_size=1,
        accumulator=o.microbatching.AccumulationType.SUM,
    )
    return "float32" if float(f(jnp.ones(512, "bfloat16"))) == 512 else "bfloat16"


@claim("`micro_vmap(in_axes=0)` with several arguments", theirs=Exception, ours=near([2.0, 2.0]))
def mapped_over_both(o: Any) -> Any:
    return o.microbatching.micro_vmap(lambda x, y: x + y, in_axes=0, microbatch_size=1)(jnp.ones(2), jnp.ones(2))


@claim("`second_order.*`", theirs=True, ours=False)
def a_diagonal(o: Any) -> bool:
    """Whether it warns."""
    loss = lambda p, x, y: jnp.sum((p * x - y) ** 2)
    return bool(told(lambda: o.second_order.hessian_diag(loss, P, P, P)))


def quadratic(tx: Any, hessian: Any, x: Any, steps: int) -> Any:
    state, f = tx.init(x), lambda x: 0.5 * x @ hessian @ x
    for _ in range(steps):
        u, state = tx.update(jax.grad(f)(x), state, x, value=f(x), grad=jax.grad(f)(x), value_fn=f)
        x = optax.apply_updates(x, u)
    return x, state


@claim("L-BFGS, a pair with <s, y>", theirs=False, ours=True)
def descends_after_negative_curvature(o: Any) -> bool:
    """Of -x^2: the pair has <s, y> < 0, and the direction should be one of descent all the same."""
    tx = o.scale_by_lbfgs(scale_init_precond=True)
    state = tx.init(P)
    for x in (P, 2 * P):
        u, state = tx.update(-x, state, x)
    return bool(jnp.vdot(u, -2 * P) > 0)


def search(o: Any, name: str) -> Any:
    return {
        "backtracking": lambda: o.scale_by_backtracking_linesearch(max_backtracking_steps=5),
        "zoom": lambda: o.scale_by_zoom_linesearch(max_linesearch_steps=5),
    }[name]()


@claim("a search that finds no finite step", theirs=False, ours=True)
def a_search_recovers(o: Any) -> bool:
    """One search in which all values are NaN, then an ordinary one."""
    tx, x = o.chain(o.sgd(1.0), search(o, "backtracking")), jnp.array(3.0)
    state, f = tx.init(x), lambda x: x**2
    bad = lambda x: jnp.nan * x
    for value_fn in (bad, f, f):
        u, state = tx.update(jax.grad(f)(x), state, x, value=f(x), grad=jax.grad(f)(x), value_fn=value_fn)
    return bool(finite(u) and u != 0)


@claim("a search whose trials run out", theirs=True, ours=False)
def uphill(o: Any) -> bool:
    tx, x, f = o.chain(o.sgd(1.0), o.scale_by_backtracking_linesearch(2)), jnp.array(1.0), lambda x: 1e4 * x**2
    u, _ = tx.update(jax.grad(f)(x), tx.init(x), x, value=f(x), grad=jax.grad(f)(x), value_fn=f)
    return bool(f(x + u) > f(x))


@claim("value -inf, or a gradient that is not finite", theirs=True, ours=False)
def a_value_of_minus_infinity(o: Any) -> bool:
    """Whether a step to it is taken."""
    tx, x = o.chain(o.sgd(1.0), search(o, "backtracking")), jnp.array(3.0)
    f = lambda x: jnp.where(x < -2, -jnp.inf, x**2)
    g = jnp.array(6.0)
    u, _ = tx.update(g, tx.init(x), x, value=jnp.array(9.0), grad=g, value_fn=f)
    return bool(x + u < -2)


@claim("backtracking's `rtol`", theirs=False, ours=True)
def tolerance_below_zero(o: Any) -> bool:
    """Whether a step that raises f from -1 to -0.95 is within 10 %."""
    tx, x = o.chain(o.sgd(1.0), o.scale_by_backtracking_linesearch(20, rtol=0.1, slope_rtol=0.0)), jnp.array(0.0)
    f = lambda x: jnp.where(x < -0.5, -0.95, -1.0)
    u, _ = tx.update(jnp.array(1.0), tx.init(x), x, value=f(x), grad=jnp.array(1.0), value_fn=f)
    return bool(u == -1.0)


@claim("`grad=` of complex parameters", theirs=True, ours=False)
def the_gradient_of_jax(o: Any) -> bool:
    """Whether backtracking descends with what `jax.grad` gives, not its conjugate."""
    f, z = lambda z: jnp.abs(z) ** 2, jnp.array(1 + 2j)
    tx, g = o.chain(o.sgd(1.0), search(o, "backtracking")), jax.grad(f)(jnp.array(1 + 2j))
    u, _ = tx.update(jnp.conj(g), tx.init(z), z, value=f(z), grad=g, value_fn=f)
    return bool(f(z + u) < f(z) / 2)


@claim("extra arguments that `value_fn` does not take", theirs=TypeError, ours=finite)
def extra_arguments_of_a_search(o: Any) -> Any:
    f = lambda x: jnp.sum(x**2)
    tx = o.chain(o.sgd(1.0), search(o, "backtracking"))
    return tx.update(2 * P, tx.init(P), P, value=f(P), grad=2 * P, value_fn=f, other=1.0)[0]


@claim("`value_and_grad_from_state`, no gradient stored", theirs=Exception, ours=near(3.0))
def no_gradient_stored(o: Any) -> Any:
    f = lambda x: jnp.sum(x**2)
    return o.value_and_grad_from_state(f)(P, state=o.chain(o.sgd(1.0), search(o, "backtracking")).init(P))[0]


@claim("dtype of step size and value in the state", theirs={"bfloat16"}, ours={"float32"})
def dtype_of_a_step_size(o: Any) -> Any:
    state = search(o, "backtracking").init({"a": P.astype("bfloat16"), "b": P})
    return dtypes([state.learning_rate, state.value])
