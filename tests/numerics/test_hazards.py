"""Numbers at the edge, for every transform: what went wrong in Optax 0.2.8 (N1-N27) and unusual values (A67-A77).

docs/numbers.md says the same in words.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.linalg import newton_schulz, polar
from tests.cases import CASES, WRAPPERS, Case, by_name, every
from tests.extremes import SHAPES, compiled, replaced, sizes, with_one
from tests.hazards import missing
from tests.trees import assert_close, assert_equal, finite, is_key, numbers, precision, random_tree, signature

ELSEWHERE = {  # a number of the list whose test stands with what it tests
    6: "tree/test_norms.py::test_global_norm_of_many_leaves_does_not_stall",
    7: "combine/test_inject.py::test_hyperparams_stay_float32_with_narrow_parameters",
    12: "schedules/test_schedules.py::test_no_step_is_lost",
    15: "contracts/test_contracts.py::test_any_container_of_any_leaf",
    18: "contracts/test_defined.py::test_a43_float0_gradients_pass_through",
    19: "contracts/test_contracts.py::test_complex_numbers",
    20: "contracts/test_contracts.py::test_five_steps_are_one_trace",
    25: "contracts/test_contracts.py::test_state_is_a_fixed_point_of_control_flow",
}
MAX = float(jnp.finfo("float32").max)


def test_every_number_has_its_test():
    assert missing(globals(), "n", range(1, 28), ELSEWHERE) == []
    assert missing(globals(), "a", range(67, 78), {}) == []


def zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


@every(sampled=True, but=WRAPPERS, few=1, dtype=["float16", "float32", "bfloat16", "float64"])
def test_a67_n1_zero_gradients_give_exact_zeros(case: Case, dtype: str):
    with precision(dtype):
        params = random_tree(0, dtype)
        tx = case.make()
        assert finite(tx.update(zeros(params), tx.init(params), params))
        tx = case.make(**case.quiet)
        if case.covers == "keep_params_nonnegative":  # its update of what is negative is not zero
            params = jax.tree.map(jnp.abs, params)
        updates, state = tx.update(zeros(params), tx.init(params), params)
        assert all((np.asarray(u) == 0).all() for u in jax.tree.leaves(updates))
        assert finite(state)


# Directions g_t / sqrt(nu_{t-1}) that are not bounded, and so can be too large for float16; a rate f / |g|.
UNBOUNDED = "acprop", "scale_by_acprop", "scale_by_adopt", "schedule_free_plus"


@pytest.mark.full
@every(
    lambda case: case.name not in UNBOUNDED, sampled=True, but=WRAPPERS, few=1, dtype=["float16", "float32", "bfloat16"]
)
def test_a68_a73_subnormal_gradients_and_negative_zeros(case: Case, dtype: str):
    c = compiled(case, dtype)
    for value in (float(jnp.finfo(dtype).smallest_subnormal), float(jnp.finfo(dtype).tiny)):
        for updates, state in c.run([c.constant(value), c.ordinary, c.constant(value)]):
            assert finite((updates, state))
    zero = zeros(c.params)
    minus = jax.tree.map(jnp.negative, zero)
    assert_equal([updates for updates, _ in c.run([minus, minus])], [updates for updates, _ in c.run([zero, zero])])


# The update of these leads to a number that the parameter can hold, at most so many last places from the exact sum.
LANDING = {
    "with_master_weights": 0.5,
    "with_kahan_summation": 0.5,
    "with_stochastic_rounding": 1.0,
    "proximal_gradient": 0.5,
}


def of_small_gradients(case: Case) -> Iterator[tuple[Any, Any, Any]]:
    """Parameters, the update of float16 gradients and parameters, and that of the same numbers in float32."""
    narrow, wide = compiled(case, "float16"), compiled(case)
    params = jax.tree.map(lambda x: x.astype("float32"), narrow.params)
    for value in (1e-3, 1e-4, 6e-8):
        g = narrow.constant(value)
        (updates, _), *_ = narrow.run([g])
        (wanted, _), *_ = wide.run([jax.tree.map(lambda x: x.astype("float32"), g)], params)
        yield params, updates, wanted


# Noise does not show what is rounded; a line search rounds the values of its function. In `scale_by_galore` Adam makes
# steps of what float32 leaves where a singular vector is 0, which float16 does not.
@pytest.mark.full
@every(
    lambda case: (
        not case.random and not case.name.endswith("search") and case.name not in ("scale_by_galore", *LANDING)
    ),
    sampled=True,
    but=WRAPPERS,
)
def test_n2_small_float16_gradients_are_computed_in_float32(case: Case):
    for _, updates, wanted in of_small_gradients(case):
        assert_close(updates, jax.tree.map(lambda x: x.astype("float16"), wanted), rtol=2e-3, atol=1e-7)


@pytest.mark.full
@pytest.mark.parametrize("name", LANDING)
def test_n2_rounded_parameters_land_beside_those_of_float32(name: str):
    for trees in of_small_gradients(by_name(name)):
        for p, u, w in zip(*map(jax.tree.leaves, trees), strict=True):
            exact, landed = np.float64(p) + np.float64(w), np.float64(p) + np.float64(u)
            np.testing.assert_array_equal(landed, landed.astype("float16"))
            place = np.float64(np.spacing(np.abs(exact).astype("float16")))
            assert (np.abs(landed - exact) <= LANDING[name] * place + 1e-5 * np.abs(w)).all()


@functools.cache
def kept(name: str) -> list[Any]:
    """The shapes and dtypes of what the state of a case has for bfloat16 parameters."""
    params = {k: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for k, shape in SHAPES.items()}
    return jax.tree.leaves(jax.eval_shape(by_name(name).make().init, params))


def widened(case: Case) -> bool:
    """Whether the state keeps more digits of bfloat16 parameters than they have."""
    return any(x.shape in SHAPES.values() and x.dtype == jnp.float32 for x in kept(case.name))


@pytest.mark.full
@every(lambda case: not case.sampled or widened(case), sampled=True, but=WRAPPERS)
def test_a74_n3_second_moments_of_bfloat16_parameters(case: Case):
    """3,000 gradients of 1, then 3,000 of 0: the moments are what they are with parameters in float32."""
    if not widened(case):  # asked of the sweep here, since `every` would ask for all cases when tests are collected
        pytest.skip("its state has no more digits than bfloat16")

    def run(dtype: str) -> list[Any]:
        c = compiled(case, dtype)

        def step(state: Any, g: Any) -> tuple[Any, None]:
            return c.tx.update(jax.tree.map(lambda p: jnp.full_like(p, g), c.params), state, c.params)[1], None

        twice = jax.jit(lambda state, g: jax.lax.scan(step, state, jnp.full(3000, g))[0])
        after = twice(c.tx.init(c.params), jnp.float32(1))
        return [after, twice(after, jnp.float32(0))]

    for narrow, wide in zip(run("bfloat16"), run("float32"), strict=True):
        for x, y in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
            if x.shape in SHAPES.values() and x.dtype == jnp.float32:
                # The parameters themselves, and what starts from them, are rounded to bfloat16. So is the mean that
                # a variance is taken about, here by 2^-6.
                about_mean = 2**-11 if "belief" in case.name or "acprop" in case.name else 1e-30
                np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-2 * float(jnp.max(jnp.abs(y))) + about_mean)


def test_n3_in_numbers():
    tx, one = gdjax.scale_by_adam(), jnp.ones(2, "bfloat16")
    state = jax.lax.fori_loop(0, 3000, lambda _, s: tx.update(one, s)[1], tx.init(one))
    np.testing.assert_allclose(state.nu, 1 - 0.999**3000, rtol=1e-4)
    state = jax.lax.fori_loop(0, 3000, lambda _, s: tx.update(0 * one, s)[1], state)
    np.testing.assert_allclose(state.nu, (1 - 0.999**3000) * 0.999**3000, rtol=1e-3)


def test_n4_a_bfloat16_parameter_does_not_follow_small_updates():
    # As documented: `apply_updates` rounds to the nearest number of the parameter's dtype. Keep them in float32.
    def moved(dtype: str) -> Any:
        return jax.lax.fori_loop(
            0, 100, lambda _, p: gdjax.apply_updates(p, jnp.asarray(1e-3, dtype)), jnp.ones((), dtype)
        )

    assert moved("bfloat16") == 1
    np.testing.assert_allclose(moved("float32"), 1.1, rtol=1e-5)


# The bounds on a gradient whose square is taken, in float32: see `gdjax.numerics.squarable`.
BOUNDS = 1e20, 2.0**61, 2.0**45


@every(thin=3)
def test_a69_n5_one_gradient_of_1e20_leaves_everything_finite(case: Case):
    c = compiled(case)
    for value in (1e20, -1e20):
        for i, (updates, state) in enumerate(c.run([c.ordinary, c.constant(value), c.ordinary, c.ordinary])):
            assert finite((updates, state)), (value, i)
        for updates, state in c.run([c.constant(value), c.ordinary]):
            assert finite((updates, state)), value


# Of these the exact result is out of range, in the step or in the sum that is kept; a norm of all, in what is measured.
LINEAR = (
    "sgd trace optimistic_gradient_descent scale_by_optimistic_gradient scale_by_param_block_norm centralize ema "
    "monitor measure_with_ema scale_by_backtracking_linesearch scale_by_zoom_linesearch lars with_metrics"
).split()


@pytest.mark.full
@every(lambda case: case.covers not in LINEAR)
def test_a69_the_largest_gradient(case: Case):
    c = compiled(case)
    for largest in (MAX, -MAX):
        for updates, state in c.run([c.ordinary, c.constant(largest), c.ordinary, c.ordinary]):
            assert finite((updates, state)), largest
        for updates, state in c.run([c.constant(largest), c.ordinary]):
            assert finite((updates, state)), largest


# A factor of 1e40 and of rank one: what is left beside it is rounding, and counts in the root as 1e-7 of it.
ROUNDED = {"shampoo/qr": 1e-2}
# The first's least radius is a share eps of a step along the gradient; the second ends at 0, up to rounding; the third
# meets values of its function that float64 has and float32 has not.
OF_THE_DTYPE = "gauss_newton", "scale_by_zoom_linesearch", "proximal_gradient/search"


@pytest.mark.full
@every(lambda case: not case.random and case.name not in OF_THE_DTYPE, sampled=True, but=WRAPPERS)
def test_n5_a_gradient_of_1e20_counts_as_exact_arithmetic_says(case: Case):
    """As in float64, for the gradient as it is or as large as a bound on it, of a leaf's own: in its step and later."""
    c, exact = compiled(case), compiled(case, "float64")

    def steps(c: Any, size: float) -> list[np.ndarray]:
        """Of each leaf, its updates in all steps."""
        found = [numbers(u) for u, _ in c.run([c.ordinary, c.constant(size), *[c.ordinary] * 8])]
        return [np.stack(of_a_leaf) for of_a_leaf in zip(*found, strict=True)]

    def agree(got: np.ndarray, wanted: np.ndarray) -> bool:
        return all(
            np.allclose(x, y, rtol=ROUNDED.get(case.name, 1e-3), atol=1e-6 * np.abs(y).max(initial=0))
            for x, y in zip(got, wanted, strict=True)
        )

    got, wanted = steps(c, 1e20), [steps(exact, bound) for bound in BOUNDS]
    for i, leaf in enumerate(got):
        assert any(agree(leaf, w[i]) for w in wanted), np.abs(leaf).reshape(len(leaf), -1).max(-1)


# Methods that forget: with a memory of two steps, 300 steps after a gradient of 1e20 are as if it had not been.
# Adadelta does not: its steps grow from the steps before.
FORGETTING = {
    **dict.fromkeys(("adam", "adamw", "lion", "nadamw", "lamb", "novograd", "scale_by_adam", "radam"), ("b1", "b2")),
    **dict.fromkeys(("adabelief", "adamax", "ademamix", "momo_adam", "acprop", "optimistic_adam"), ("b1", "b2")),
    **dict.fromkeys(("adopt", "simplified_ademamix"), ("b1", "b2")),
    **dict.fromkeys(("signum", "momo"), ("beta",)),
    "adan": ("b1", "b2", "b3"),
    "rmsprop": ("decay",),
    "muon": ("beta", "adam_b1", "adam_b2"),
}
STEADY = {"ademamix": {"b3": 0.5}}  # what else it remembers


@pytest.mark.full
@every(lambda case: case.name in FORGETTING, sampled=True)
def test_n5_it_recovers_from_a_gradient_of_1e20(case: Case):
    c = compiled(case, **dict.fromkeys(FORGETTING[case.name], 0.5), **STEADY.get(case.name, {}))
    spoiled = [c.ordinary, c.constant(1e20), *[c.ordinary] * 300]
    clean = [c.ordinary] * len(spoiled)
    *_, (got, _) = c.run(spoiled)
    *_, (wanted, _) = c.run(clean)
    assert sizes(wanted).min() > 0
    # In MoMo the loss and an inner product nearly cancel.
    assert_close(got, wanted, rtol=1e-3 if case.covers == "momo" else 1e-4, atol=0)


def test_n5_a_sum_that_never_forgets_still_moves():
    for tx in (gdjax.adagrad(0.1), gdjax.sm3(0.1), gdjax.amsgrad(0.1), gdjax.dog(), gdjax.dowg()):
        one = jnp.ones(2)
        state = tx.update(jnp.full(2, 1e20), tx.init(one), one)[1]
        updates, state = tx.update(one, state, 2 * one)
        assert (np.abs(updates) > 0).all() and finite(state)


@pytest.mark.slow
def test_n6_ten_thousand_bfloat16_leaves():
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(x, "bfloat16") for x in rng.standard_normal((10_000, 3))]
    norm = jax.jit(gdjax.global_norm)
    wanted = np.sqrt(sum(float(np.sum(np.asarray(x, np.float64) ** 2)) for x in leaves))
    np.testing.assert_allclose(norm(leaves), wanted, rtol=1e-6)
    for _ in range(3):
        np.testing.assert_allclose(norm([leaves[i] for i in rng.permutation(10_000)]), wanted, rtol=3e-7)


@pytest.mark.full
def test_a75_n6_norms_neither_stall_nor_overflow():
    assert gdjax.global_norm([jnp.ones((), "bfloat16")] * 300) == np.float32(300**0.5)
    assert gdjax.global_norm(jnp.ones(10**6, "bfloat16")) == 1000
    for x in (jnp.full(4, 1e20, "float32"), jnp.full(4, 300, "float16")):
        np.testing.assert_allclose(gdjax.global_norm(x), 2 * float(x[0]), rtol=1e-6)
        np.testing.assert_allclose(gdjax.clip_by_global_norm(1.0).update(x, gdjax.EmptyState())[0], 0.5, rtol=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("bound", [0.0, 1.0, jnp.inf])
def test_n8_clipping_zeros(bound: float):
    for dtype in ("float16", "bfloat16", "float32") if bound == 0 else ("float16",):
        g = {"a": jnp.zeros(3, dtype), "b": jnp.zeros((), dtype)}
        for tx in (gdjax.clip_by_global_norm(bound), gdjax.clip(bound), gdjax.clip_by_block_rms(bound)):
            assert_equal(tx.update(g, tx.init(g))[0], g)


# Which elements of a tree a NaN reaches in its step: its own (the default), those of its array, of all arrays.
REACH = {
    "array": "apollo scale_by_apollo adafactor came scale_by_came clip_by_block_rms scale_by_factored_rms novograd "
    "scale_by_novograd muon scale_by_muon muown normuon scale_by_normuon scion scale_by_scion dion scale_by_dion "
    "hyperball psgd_kron scale_by_psgd_kron shampoo scale_by_shampoo soap scale_by_soap kl_shampoo scale_by_kl_shampoo "
    "kl_soap scale_by_kl_soap soap_muon scale_by_soap_muon transformer_optimizer scale_by_distance_over_gradients "
    "stable_adamw scale_by_stable_adamw mars update_floor radial_brake spectral",
    # Its unit, row, column or projection.
    "some": "adafactor/layers novograd/layers mirror_descent shampoo/qr shampoo/newton "
    "adaptive_grad_clip centralize galore scale_by_galore dion2 scale_by_dion2 matrixwise adam_mini "
    "scale_by_adam_mini",
    "tree": "normalize polyak_sgd scale_by_polyak dog scale_by_dog dowg scale_by_dowg prodigy momo momo_adam mechanize "
    "clip_by_global_norm chain lbfgs scale_by_lbfgs bfgs scale_by_bfgs bfgs/bounds ssbroyden scale_by_ssbroyden "
    "scale_by_zoom_linesearch normalize_by_update_norm sam with_metrics schedule_free_plus zclip "
    "gauss_newton",
    "none": "differentially_private_aggregate dpsgd set_to_zero freeze selective_transform apply_if_finite "
    "MultiSteps/guarded dynamic_loss_scale skip_spikes "
    "hutchinson_estimator_diag_hessian",
    "no NaN": "zero_nans",
}
REACHES = {name: reach for reach, names in REACH.items() for name in names.split()}
# Signs and bounds of an infinity are numbers like others.
BOUNDED = ("lion scale_by_lion clip leafwise rprop scale_by_rprop sign_sgd signum scale_by_sign sophia "
           "scale_by_sophia").split()  # fmt: skip


@every()
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a70_n9_one_nan_or_infinity_spoils_what_is_documented(case: Case, value: float):
    c = compiled(case)
    gradients = [c.ordinary, with_one(value, c.ordinary), with_one(value, c.ordinary)]
    spoiled = [any(not np.isfinite(x).all() for x in numbers(u)) for u, _ in c.run(gradients)]
    reach = REACHES.get(case.name, REACHES.get(case.covers, "own"))
    bounded = case.covers in BOUNDED and np.isinf(value) or case.covers == "keep_params_nonnegative" and value < 0
    if reach == "none" or bounded or reach == "no NaN" and np.isnan(value):
        assert not any(spoiled)
        return
    assert any(spoiled), "what is not finite must show"
    if case.covers in ("MultiSteps", "apply_every", "sam", "lookahead", "conditionally_mask"):
        return  # in a later step
    updates = [u for u, _ in c.run(gradients)][1]
    updates = updates if isinstance(updates, dict) else updates[0]
    bad = {k: ~np.isfinite(np.asarray(u)) for k, u in updates.items()}
    assert bad["w"][0, 0]
    if np.isnan(value):
        counts = {"own": (1, 0), "array": (6, 0), "tree": (6, 2), "some": (bad["w"].sum(), 0)}[reach]
        assert (bad["w"].sum(), bad["b"].sum()) == counts


@every(lambda case: case.covers in ("apply_if_finite", "MultiSteps", "zero_nans", "differentially_private_aggregate"))
def test_n9_a_guard_leaves_no_trace(case: Case):
    c = compiled(case)
    bad = with_one(np.nan, c.ordinary)
    *_, (_, before) = c.run([c.ordinary] * 2)
    *_, (updates, state) = c.run([c.ordinary, c.ordinary, bad])
    if case.covers == "apply_if_finite":
        assert_equal(state.inner_state, before.inner_state)
        assert_equal(updates, zeros(updates))
    elif case.name == "MultiSteps/guarded":
        assert_equal(state[0][:4], before[0][:4])
    elif case.covers != "MultiSteps":
        assert finite(updates)


@pytest.mark.full
@every(lambda case: case.reverse, sampled=True, but=WRAPPERS)
def test_n10_derivatives_through_an_update_at_a_zero_gradient(case: Case):
    tx, params = case.make(), {"a": jnp.ones((2,)), "b": jnp.zeros(())}
    state = tx.init(params)

    def update(g: Any) -> Any:
        return tx.update(g, state, params)[0]

    @jax.jit
    def both(g: Any, u: Any, v: Any) -> Any:
        along = jax.linearize(update, g)[1]
        (back,) = jax.linear_transpose(along, g)(v)
        return along(u), back

    shapes = {"a": (2,), "b": ()}
    u, v = random_tree(1, shapes=shapes), random_tree(2, shapes=shapes)
    forward, backward = both(zeros(params), u, v)
    assert finite((forward, backward))
    # The two modes are transposed to each other: v . J u = J^T v . u.
    products = [list(map(np.vdot, numbers(x), numbers(y))) for x, y in ((forward, v), (backward, u))]
    largest = max(np.abs(products).max(), 1.0)
    np.testing.assert_allclose(*map(sum, products), rtol=1e-5, atol=1e-6 * largest)


# Of signs, of what is rounded to an integer or bfloat16, and of singular vectors (taken for constants) it is another.
KINKED = (
    "lion scale_by_lion sign_sgd signum scale_by_sign rprop scale_by_rprop leafwise galore scale_by_galore "
    "scale_by_zoom_linesearch scale_by_backtracking_linesearch hutchinson_estimator_diag_hessian "
    "keep_params_nonnegative zero_nans adam/mu_bfloat16 scale_by_ademamix sophia scale_by_sophia"
).split()


@pytest.mark.full
@every(lambda case: not {case.covers, case.name} & {*KINKED} and case.reverse, sampled=True, but=WRAPPERS)
def test_n10_derivatives_equal_finite_differences(case: Case):
    c = compiled(case, "float64")
    with precision("float64"):
        *_, (_, state) = c.run([c.ordinary])
        g, way = random_tree(2, "float64", SHAPES), random_tree(3, "float64", SHAPES)

        def along(h: Any) -> Any:
            at = jax.tree.map(lambda x, y: x + h * y, g, way)
            updates = c.tx.update(at, state, c.params)[0]
            return sum(jnp.sum(jnp.cos(u) * (i + 1)) for i, u in enumerate(jax.tree.leaves(updates)))

        slope, h = jax.jit(jax.grad(along))(0.0), 1e-5
        value = jax.jit(along)
        by_difference = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
        np.testing.assert_allclose(slope, by_difference, rtol=1e-5, atol=1e-8)


def is_count(x: Any) -> bool:
    return not is_key(x) and x.dtype == jnp.int32 and x.shape == ()


def counts(case: Case) -> bool:
    return any(map(is_count, kept(case.name)))


@every(counts)
def test_n11_counters_stay_at_the_largest_integer(case: Case):
    c = compiled(case)
    for count in (2**31 - 2, 2**31 - 1):
        state = replaced(c.tx.init(c.params), is_count, count)
        for _ in range(2):
            updates, state = c.step(c.ordinary, state, c.params)
            assert finite((updates, state))
            assert all(int(x) >= 0 for x in jax.tree.leaves(state) if is_count(x))


def test_n13_schedules_at_their_edges():
    cosine = gdjax.cosine_decay_schedule(1.0, 10)
    assert cosine(-1) == cosine(0) == 1
    with pytest.warns(UserWarning, match="transition_steps is 0: nothing changes"):
        assert gdjax.linear_schedule(1.0, 0.0, 0)(5) == 1  # off: it holds its first value
    with pytest.warns(UserWarning, match="transition_steps is -1: nothing changes"):
        assert gdjax.linear_schedule(1.0, 0.0, -1)(5) == 1
    with pytest.raises(TypeError):
        gdjax.linear_schedule(1.0, 0.0, None)
    for schedule in (cosine, gdjax.constant_schedule(0.1), gdjax.piecewise_constant_schedule(0.1, {5: 0.5})):
        x = jax.jit(schedule)(jnp.int32(3))
        assert x.dtype == jnp.float32 and x.weak_type


def test_n14_a_decay_that_rounds_to_one():
    with pytest.raises(ValueError, match="b2 must be in"):
        gdjax.adam(0.1, b2=1 - 1e-8)
    with pytest.warns(UserWarning, match="b2 is 1"):  # as it is written, which Optax takes
        gdjax.adam(0.1, b2=1.0)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool])
def test_n16_n17_parameters_that_are_not_floating(dtype: Any):
    params = {"table": jnp.ones(3, dtype)}
    tx = gdjax.adam(0.1)
    with pytest.raises(TypeError, match=r"params\['table'\].*(int32|bool)"):
        tx.update({"table": jnp.ones(3)}, tx.init(params), params)


def test_n21_n22_trees_that_do_not_fit():
    params, tx = {"a": jnp.ones((3, 1))}, gdjax.sgd(0.1)
    with pytest.raises(ValueError, match=r"\['a'\].*\(1, 3\).*\(3, 1\)"):
        tx.update({"a": jnp.ones((1, 3))}, tx.init(params), params)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        gdjax.apply_updates(params, {"a": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"\['b'\]"):
        tx.update({"a": jnp.ones((3, 1)), "b": jnp.ones(2)}, tx.init(params), params)


# Those that take the gradient of a function themselves have the dtype of its parameters.
@every(lambda case: case.name not in ("sam/opaque", "hutchinson_estimator_diag_hessian"), sampled=True)
def test_n23_updates_have_the_dtype_of_the_gradients(case: Case):
    tx, params, g = case.make(), random_tree(0, "bfloat16", SHAPES), random_tree(1, "float32", SHAPES)
    state = tx.init(params)
    updates, new = jax.eval_shape(tx.update, g, state, params)
    assert signature(new) == signature(state)
    fast = updates.fast if hasattr(updates, "fast") else updates
    assert {x.dtype for x in jax.tree.leaves(fast)} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(gdjax.apply_updates, params, fast))} == {params["b"].dtype}


def test_n24_after_a_nan():
    g = jnp.array([jnp.nan, 1.0])
    last = lambda tx: [tx.update(g, tx.init(g), g), None][0]
    _, state = last(gdjax.adam(0.1))
    assert np.isnan(gdjax.adam(0.1).update(jnp.ones(2), state)[0]).tolist() == [True, False]
    assert finite(last(gdjax.chain(gdjax.zero_nans(), gdjax.adam(0.1))))
    tx = gdjax.apply_if_finite(gdjax.adam(0.1), 2**31 - 1)  # for ever
    state = tx.init(g)
    for _ in range(5):
        updates, state = tx.update(g, state, g)
        assert_equal(updates, jnp.zeros(2))


def test_n26_accumulation_in_float32():
    rng, one = np.random.default_rng(0), jnp.zeros((), "bfloat16")
    gs = jnp.asarray(rng.standard_normal(256), "bfloat16")
    tx = gdjax.MultiSteps(gdjax.scale(1.0), 256)
    state, updates = jax.lax.scan(lambda s, g: tx.update(g, s, one)[::-1], tx.init(one), gs)
    assert state.acc_grads.dtype == jnp.float32
    wanted = np.asarray(gs, np.float64).mean()
    np.testing.assert_allclose(np.asarray(updates[-1], np.float64), wanted, rtol=2**-8)


@every(thin=4)
def test_n27_numpy_float64_parameters_without_x64(case: Case):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), random_tree(0, shapes=SHAPES))
    assert all(x.dtype not in (jnp.float64, np.float64) for x in jax.tree.leaves(case.make().init(params)))


@pytest.mark.full
@every(sampled=True)
def test_a71_alternating_large_float16_gradients(case: Case):
    c = compiled(case, "float16")
    large = [c.constant(1e4), c.constant(-1e4)]
    for updates, state in c.run(large * 10):
        assert finite((updates, state))


# The norm, the inner product or the loss of parameters at the end of the range lies outside it.
BEYOND = "momo momo_adam scale_by_zoom_linesearch scale_by_backtracking_linesearch sophia scale_by_sophia"
BEYOND = (BEYOND + " hutchinson_estimator_diag_hessian schedule_free_plus").split()


@every(lambda case: case.needs_params and case.covers not in BEYOND)
def test_a72_the_largest_parameters(case: Case):
    c = compiled(case)
    params = jax.tree.map(lambda x: jnp.sign(x) * MAX, c.params)
    for updates, state in c.run([c.ordinary, c.ordinary], params):
        assert finite((updates, state))


@pytest.mark.full
@pytest.mark.parametrize("norm", newton_schulz.NORMS)
def test_a76_newton_schulz_of_what_is_no_full_matrix(norm: str):
    @jax.jit
    def run(x: Any) -> Any:
        coeffs = jnp.array(polar.PRESETS["standard"])
        return newton_schulz.orthogonalize(x, coeffs=coeffs, steps=5, preconditioning=norm, eps=1e-8)

    zero, rank_one = run(jnp.array([np.zeros((3, 4)), np.ones((3, 4))]))
    assert_equal(zero, jnp.zeros((3, 4)))
    singular = np.linalg.svd(np.asarray(rank_one), compute_uv=False)
    assert 0.6 < singular[0] < 1.3 and (singular[1:] < 1e-3).all()
    row = run(jnp.array([[[3.0, 0.0, -4.0]]]))
    assert np.isfinite(row).all() and 0.6 < np.linalg.norm(row) < 1.3
    assert run(jnp.zeros((1, 0, 5))).shape == (1, 0, 5)
    one_nan = run(jnp.ones((2, 3, 4)).at[0, 1, 1].set(jnp.nan))
    assert np.isnan(one_nan[0]).any() and np.isfinite(one_nan[1]).all()  # its matrix, and no other


@pytest.mark.full
def test_a77_factored_moments_of_odd_shapes():
    tx = gdjax.scale_by_factored_rms(min_dim_size_to_factor=1)
    for shape in ((1, 1), (128, 1), (1, 128), (4, 4)):
        g = jnp.asarray(np.random.default_rng(0).choice([-2.0, 2.0], shape), "float32")  # the largest many times
        updates, state = tx.update(g, tx.init(g), g)
        np.testing.assert_allclose(updates, jnp.sign(g), rtol=1e-5)
        assert finite(tx.update(0 * g, state, g))
    tx, g = gdjax.sm3(0.1, momentum=0.0), jnp.array([[2.0, -2.0], [2.0, 2.0]])
    np.testing.assert_allclose(tx.update(g, tx.init(g), g)[0], -0.1 * jnp.sign(g), rtol=1e-5)


# `jnp.max` of thousands of numbers loses NaN on XLA:CPU.
LARGE = {
    "global_norm": gdjax.global_norm,
    "global_norm bfloat16": lambda x: gdjax.global_norm(x.astype("bfloat16")),
    "global_norm complex": lambda x: gdjax.global_norm(jax.lax.complex(jnp.ones_like(x), x)),
    "safe_norm": lambda x: gdjax.safe_norm(x, 0.0),
    "safe_norm inf": lambda x: gdjax.safe_norm(x, 0.0, jnp.inf),
    "safe_root_mean_squares": lambda x: gdjax.safe_root_mean_squares(x, 0.0),
    "tree.norm 1": lambda x: gdjax.tree.norm(x, 1),
    "tree.norm inf": lambda x: gdjax.tree.norm(x, jnp.inf),
    "tree.max": gdjax.tree.max,
    "tree.min": gdjax.tree.min,
    "power_iteration": lambda x: gdjax.power_iteration(x.reshape(320, 320))[0],
    "matrix_inverse_pth_root": lambda x: gdjax.matrix_inverse_pth_root(x.reshape(320, 320), 2)[1],
    "newton_schulz": lambda x: newton_schulz.orthogonalize(
        x.reshape(1, 320, 320), jnp.array(polar.PRESETS["standard"]), 5, "frobenius", 0.0),
    "hinge_loss": lambda x: jnp.mean(gdjax.losses.hinge_loss(x, jnp.ones_like(x))),
    "perceptron_loss": lambda x: jnp.mean(gdjax.losses.perceptron_loss(x, jnp.ones_like(x))),
    "triplet_margin_loss": lambda x: jnp.mean(
        gdjax.losses.triplet_margin_loss(x[:, None], jnp.zeros((x.size, 1)), jnp.ones((x.size, 1)))),
    "projection_simplex": gdjax.projections.projection_simplex,
    "multiclass_perceptron_loss": lambda x: gdjax.losses.multiclass_perceptron_loss(x, jnp.int32(3)),
    "multiclass_hinge_loss": lambda x: gdjax.losses.multiclass_hinge_loss(x, jnp.int32(3)),
    "softmax_cross_entropy": lambda x: gdjax.softmax_cross_entropy_with_integer_labels(x, jnp.int32(3)),
    "cosine_similarity": lambda x: gdjax.cosine_similarity(x, jnp.ones_like(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("rest", ["random", "zero"])
def test_n9_one_nan_among_a_hundred_thousand(name: str, rest: str):
    x = np.random.default_rng(0).standard_normal(320 * 320).astype("float32") * (rest == "random")
    x[77] = np.nan
    assert np.isnan(jax.jit(LARGE[name])(jnp.asarray(x))).any()


def test_sweeps_meet_what_they_are_for():
    names = {case.name for case in CASES} | {case.covers for case in CASES}
    lists = [*LINEAR, *REACHES, *BOUNDED, *KINKED, *BEYOND, *FORGETTING, *STEADY]
    assert [name for name in lists if name not in names] == []
    assert sum(map(widened, CASES)) > 60 and sum(map(counts, CASES)) > 60
