"""Properties of every transform, on drawn trees and numbers.

Trees of many structures are run operation by operation: JAX has then compiled each operation for each shape once, where
a compiled update would cost half a second for each structure. Where the numbers matter more than the structure the
tree is one, and the update compiled.
"""

import functools
import inspect
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import numerics
from tests.cases import CASES, Case
from tests.strategies import FEW, FEW_SHAPES, MANY, SHAPES, check, dyadic, filled, floats, structures, swept
from tests.trees import assert_close, assert_equal, finite, is_shape, numbers, precision

# A drawn name may be that of a bias or an embedding, and here averages stand before other transforms on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:gdjax.muon"),
    pytest.mark.filterwarnings("ignore::gdjax.lift.order.OrderWarning"),
]
drawn = functools.partial(swept, "examples", FEW, MANY)
# Beside AdamW: what wrappers do with a rule does not depend on its formula.
ELEMENTWISE = "lion", "prodigy", "schedule_free"


def shaped(tree: Any) -> Any:
    """What has to be the same in parameters and updates: structure, and shape and dtype of each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(x.shape, x.dtype) for x in leaves]


def draw_structure(data: st.DataObject, examples: int, dtypes: Any = ("float32",)) -> Any:
    return data.draw(structures(dtypes, FEW_SHAPES if examples == FEW else SHAPES))


def ordinary(dtype: Any) -> Any:
    return floats(1024.0, dtype)


def wide(examples: int) -> Any:
    """64-bit numbers in the slow sweeps."""
    return precision("float64" if examples == MANY else "float32")


def any_dtype(examples: int) -> tuple[str, ...]:
    return ("float32", "bfloat16", "float16", *(["float64"] if examples == MANY else []))


@pytest.mark.full
@drawn()
def test_p1_a_zero_gradient_gives_a_zero_update(case: Case, examples: int):
    tx = case.make(**case.quiet)

    def holds(data: st.DataObject) -> None:
        params = data.draw(filled(draw_structure(data, examples, any_dtype(examples)), ordinary))
        if case.covers == "keep_params_nonnegative":  # its update of what is negative is not zero
            params = jax.tree.map(jnp.abs, params)
        if case.name == "bfgs/bounds":  # nor that of what lies outside of them
            params = jax.tree.map(lambda p: jnp.clip(p, -3, 3), params)
        zero, state = jax.tree.map(jnp.zeros_like, params), tx.init(params)
        for _ in range(2):
            updates, state = tx.update(zero, state, params)
            assert_equal(updates, zero)
        assert finite(state)

    with wide(examples), jax.disable_jit():
        check(examples, holds)


@pytest.mark.full
@drawn()
def test_p8_updates_and_states_are_like_the_parameters(case: Case, examples: int):
    tx = case.make()

    def holds(data: st.DataObject) -> None:
        like = draw_structure(data, examples, any_dtype(examples))
        params, g = data.draw(filled(like, ordinary)), data.draw(filled(like, ordinary))
        state = tx.init(params)
        updates, new = tx.update(g, state, params)
        wider = lambda x: x.astype(numerics.at_least_float32(x.dtype)) if case.wide else x
        assert shaped(updates) == shaped(jax.tree.map(wider, g))
        assert shaped(new) == shaped(state)
        assert shaped(gdjax.apply_updates(params, updates)) == shaped(params)

    with wide(examples), jax.disable_jit():
        check(examples, holds)


# One structure for the properties of numbers, so that they are compiled once.
FORM = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    {"matrices": [(3, 2), (3, 2)], "vectors": [(2,), (2,)], "scalar": ()},
    is_leaf=is_shape,
)


def form(dtype: str) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), FORM)


def updates_of(tx: Any, params: Any, gradients: Any) -> list[Any]:
    """The updates with each of the gradients, and the last state."""
    state, out = tx.init(params), []
    for g in gradients:
        updates, state = tx.update(g, state, params)
        out.append(updates)
    return [*out, state]


# The largest numbers drawn: in float32 and float64 their fourth powers are still far below the largest number, in
# float16 a few of them may be added up.
LARGEST = {"float32": 2.0**30, "bfloat16": 2.0**30, "float16": 2.0**10, "float64": 2.0**250}
# Directions that are not bounded, g_t / sqrt(nu_{t-1}) or g_t |p|, and so can be too large for float16.
UNBOUNDED = "acprop scale_by_acprop scale_by_adopt scale_by_param_block_norm scale_by_param_block_rms".split()
# Those that keep what they are given in 32 or 16 bits.
NARROW = (
    "adam/mu_bfloat16 adafactor sgd/nesterov scale_by_adana scale_by_ademamix scale_by_distance_over_gradients".split()
)


@pytest.mark.full
@drawn()
def test_p2_finite_numbers_give_finite_numbers(case: Case, examples: int):
    tx = case.make()
    dtypes = [d for d in LARGEST if d != "float16" or case.name not in UNBOUNDED]

    def holds(data: st.DataObject) -> None:
        dtype = "float32" if examples == FEW else data.draw(st.sampled_from(dtypes))
        largest = LARGEST["float32" if dtype == "float64" and case.name in NARROW else dtype]
        with precision(dtype):
            draw = functools.partial(data.draw, filled(form(dtype), functools.partial(floats, largest)))
            assert finite(updates_of(tx, draw(), [draw(), draw(), draw()]))

    check(examples, holds)


# The noise that damps a preconditioner is drawn for each matrix by its place, and has one sign.
DAMPED = "psgd_kron psgd_kron/procrustes psgd_kron/triangular scale_by_psgd_kron".split()


# These treat the two signs differently: the parameters of `mirror_descent` are on the simplex.
SIGNED = "keep_params_nonnegative mirror_descent".split()


@pytest.mark.full
@drawn(lambda case: case.name not in DAMPED + SIGNED)
def test_p3_the_opposite_problem_gives_opposite_updates(case: Case, examples: int):
    tx = case.make(**case.quiet)

    def holds(data: st.DataObject) -> None:
        draw = functools.partial(data.draw, filled(FORM, ordinary))
        params, *gradients = draw(), draw(), draw()
        opposite = updates_of(tx, negative(params), [negative(g) for g in gradients])[:-1]
        # To the last bit: arithmetic rounds a number and its opposite alike.
        assert_equal(negative(opposite), updates_of(tx, params, gradients)[:-1])

    check(examples, holds)


def negative(tree: Any) -> Any:
    return jax.tree.map(jnp.negative, tree)  # a product with -1 would make 0 of subnormal numbers


def times(c: float, tree: Any) -> Any:
    return jax.tree.map(lambda x: c * x, tree)


# How updates grow when the gradients do: (power of the factor, is the factor in the parameters too, tolerance, cases).
# Where no tolerance is named it is to the last bit, the factor being a power of 2 and every `ABSOLUTE` number zero.
ABSOLUTE = ("eps", "eps_root", "epsilon", "initial_accumulator_value", "weight_decay", "adam_weight_decay")
ABSOLUTE += ("weight_decay_rate", "adam_eps")
EPS = 1e-5  # for cases that keep an eps of 1e-8, beside means of gradients of 2^-9 and above
POWERS: list[tuple[float, bool, float, str]] = [
    (1, False, 0, "sgd sgd/momentum sgd/nesterov noisy_sgd perturbed_gradient_descent escape_saddles add_noise"),
    (1, False, 0, "scale scale_by_learning_rate scale_by_schedule trace ema apply_every identity set_to_zero"),
    (1, False, 0, "stateless stateless_with_tree_map named_chain measure_with_ema monitor snapshot mechanize"),
    (1, False, 0, "add_decayed_weights centralize centralize/last zero_nans reduce_on_plateau dog/learning_rate"),
    (1, False, 0, "optimistic_gradient_descent scale_by_optimistic_gradient scale_by_param_block_norm"),
    (1, False, 0, "scale_by_param_block_rms ema_nesterov sgld sghmc for_length constrained"),
    (1, True, 0, "adaptive_grad_clip keep_params_nonnegative lars schedule_free schedule_free_sgd gpa"),
    (0, False, 0, "adam adam/nesterov adam/mu_bfloat16 adamw adamw/mask nadam nadamw adamax adamaxw amsgrad adabelief"),
    (
        0,
        False,
        0,
        "adabelief/nesterov adan adan/lookahead optimistic_adam optimistic_adam_v2 ademamix adopt novograd",
    ),
    (0, False, 0, "simplified_ademamix adagrad rmsprop rmsprop/centered lamb lamb/mask adafactor adafactor/plain came"),
    (0, False, 0, "psgld lion sign_sgd signum rprop leafwise fromage normalize normalize_by_update_norm"),
    (0, False, 0, "cocob dog dowg prodigy dadapt_adamw muon muon/spectral muon/aol for_batch"),
    (0, False, 0, "normuon normuon/code muown dion dion2 scion scale_by_scion"),
    (0, False, 0, "scale_by_adam scale_by_adamax scale_by_adan scale_by_ademamix scale_by_amsgrad"),
    (0, False, 0, "scale_by_belief scale_by_cocob scale_by_distance_over_gradients scale_by_dog scale_by_factored_rms"),
    (0, False, 0, "scale_by_lion scale_by_novograd scale_by_rms scale_by_rms/bias_correction scale_by_rprop"),
    (0, False, 0, "scale_by_rss scale_by_sign scale_by_simplified_ademamix scale_by_sm3 scale_by_stddev"),
    (0, False, 0, "adam_mini scale_by_adam_mini adamc scale_by_came scale_by_yogi scale_by_adopt scale_by_trust_ratio"),
    (1, False, 0, "nonlinear_cg scale_by_nonlinear_cg"),
    (0, False, 0, "adana scale_by_adana"),
    (0, False, 0, "adafactor/torch adagrad/torch amsgrad/torch nadam/torch adafactor/layers novograd/layers"),
    (
        0,
        False,
        0,
        "laprop scale_by_laprop adam_atan2 scale_by_adam_atan2 stable_adamw scale_by_stable_adamw",
    ),
    (0, False, 1e-3, "sm3"),  # whose eps of 1e-8 stands beside squares of 2^-16 and above
    (
        0,
        False,
        EPS,
        "MultiSteps MultiSteps/guarded apply_if_finite conditionally_mask flatten freeze transform",
    ),
    (0, False, EPS, "inject_hyperparams inject_stateful_hyperparams lookahead sam selective_transform"),
    (0, False, EPS, "split_real_and_imaginary skip_spikes cautious update_floor radial_brake grokfast"),
    (0, False, EPS, "with_weight_decay with_weight_decay/start with_weight_decay/average hyperball spectral"),
    (0, False, EPS, "params_ema swa tail_ema snoo"),
    (0, False, EPS, "accumulate dynamic_loss_scale with_kahan_summation with_master_weights with_stochastic_rounding"),
    (0, False, EPS, "soap soap/eigh soap_muon transformer_optimizer apollo apollo/tensor"),
    (1 / 3, False, EPS, "madgrad scale_by_madgrad"),  # a cube root, which is not exact
]
UNSCALED = {
    "the first step is no longer than 1": "lbfgs scale_by_lbfgs bfgs scale_by_bfgs bfgs/bounds ssbroyden "
    "scale_by_ssbroyden",
    "a bound stays where it is": "clip clip_by_block_rms clip_by_global_norm chain differentially_private_aggregate "
    "psgd_kron psgd_kron/procrustes psgd_kron/triangular scale_by_psgd_kron "
    "dpsgd mars zclip scale_by_lion/smooth scale_by_lion/refined clip_by_global_norm/groups with_metrics",
    "an eps is what the first step is made of": "adadelta scale_by_adadelta yogi scale_by_dowg schedule_free_adamw "
    "schedule_free_adamw/momentum",
    "the first steps have power 1, later ones 0": "acprop scale_by_acprop radam radam/torch radam/nesterov "
    "scale_by_radam "
    "scale_by_stddev/bias_correction",
    "some leaves or steps have power 1, others 0": "masked partition multi_transform conditionally_transform "
    "scale_by_apollo scale_by_muon muon/schatten scale_by_normuon scale_by_dion scale_by_dion2",
    "it leads to a number that the parameter holds, and is rounded as that is": "proximal_gradient",
    "a decay or a penalty that does not scale": "scion/constrained proximal",
    "steps multiply the parameter": "mirror_descent",
    "steps are mixed with points, which do not scale": "anderson",
    "codes are rounded by random bits that do not scale": "quantize_state",
    "the loss or its Hessian would have to grow too": "polyak_sgd scale_by_polyak momo momo_adam sophia "
    "scale_by_sophia hutchinson_estimator_diag_hessian scale_by_zoom_linesearch scale_by_backtracking_linesearch "
    "sam/opaque schedule_free_plus gauss_newton gauss_newton/plain gauss_newton/spring proximal_gradient/search",
    "what is added to eigenvalues, or what they start at, stays where it is": "shampoo shampoo/qr shampoo/newton "
    "kl_shampoo kl_soap matrixwise scale_by_shampoo scale_by_kl_shampoo scale_by_kl_soap",
    "the first step moves nothing, the other leaves have power 1": "scale_by_soap scale_by_soap_muon",
    "singular vectors of equal singular values are any": "galore scale_by_galore",
}
SCALING = {name: row for *row, names in POWERS for name in names.split()}


def test_p3_every_case_has_a_power_or_a_reason():
    named = [name for *_, names in POWERS for name in names.split()]
    named += [name for names in UNSCALED.values() for name in names.split()]
    assert sorted(named) == sorted(case.name for case in CASES)


# Where a moment or a norm is still 0 their direction is the gradient itself.
NONZERO = "adopt", "scale_by_adopt", "scale_by_trust_ratio"


def moderate(name: str) -> Any:
    """Of a size near 1, so that squares neither over- nor underflow, or zero."""
    sizes = st.floats(2**-6, 2**6, width=32) | st.floats(-(2**6), -(2**-6), width=32)
    return sizes if name in NONZERO else st.just(0.0) | sizes


@pytest.mark.full
@drawn(lambda case: case.name in SCALING)
def test_p3_updates_grow_with_the_gradients_as_a_power(case: Case, examples: int):
    power, with_params, tolerance = SCALING[case.name]
    taken = inspect.signature(case.factory).parameters
    without = {k: 0.0 for k in ABSOLUTE if k in taken and k not in case.quiet}
    rest = {"others": gdjax.adamw(0.1, eps=0.0)} if "others" in taken and "adam_b1" not in taken else {}
    tx = case.make(**case.quiet, **without, **rest)

    def holds(data: st.DataObject) -> None:
        c = data.draw(st.sampled_from([2.0**-6, 2.0**6]))
        draw = functools.partial(data.draw, filled(FORM, lambda dtype: dyadic() if tolerance else moderate(case.name)))
        params, *gradients = draw(), draw(), draw()
        wanted = times(c**power, updates_of(tx, params, gradients)[:-1])
        grown = updates_of(tx, times(c, params) if with_params else params, [times(c, g) for g in gradients])[:-1]
        if tolerance == 0:
            assert_equal(grown, wanted)
        else:
            assert_close(grown, wanted, tolerance, tolerance * max(np.max(np.abs(x)) for x in numbers(wanted)))

    check(examples, holds)


# The probe of the Hessian is drawn for each leaf by its place, and by its place a factor has its turn, if not in each
# step.
PROBING = ("sophia", "scale_by_sophia", *DAMPED)


@drawn(lambda case: case.name not in PROBING)
def test_p4_the_order_of_the_leaves_is_the_order_of_the_updates(case: Case, examples: int):
    at_once = {k: 1 for k in case.fixed if k == "precondition_frequency"}
    tx = case.make(**case.quiet, **at_once)

    def holds(data: st.DataObject) -> None:
        # Permuted among leaves of one shape, so that the compiled update serves for every order.
        orders = [data.draw(st.permutations(range(n))) for n in (2, 2)]

        def permuted(tree: Any) -> Any:
            both = zip(("matrices", "vectors"), orders, strict=True)
            return {**tree, **{k: [tree[k][i] for i in order] for k, order in both}}

        draw = functools.partial(data.draw, filled(FORM, lambda dtype: dyadic()))
        params, *gradients = draw(), draw(), draw()
        wanted = [permuted(u) for u in updates_of(tx, params, gradients)[:-1]]
        # Norms of the whole tree add up the leaves in another order.
        assert_close(updates_of(tx, permuted(params), [permuted(g) for g in gradients])[:-1], wanted, 1e-5, 1e-5)

    check(examples, holds)


@pytest.mark.full
@drawn(but=(*ELEMENTWISE, "adamw", "muon", "noisy_sgd"))  # Adafactor asks it of a rule of leaves and of elements
def test_p5_a_masked_transform_is_a_group_is_the_transform_of_these_leaves(case: Case, examples: int):
    tx = case.make(**case.quiet)

    def holds(data: st.DataObject) -> None:
        likes = {"a": draw_structure(data, examples), "b": draw_structure(data, examples)}
        params, *gradients = (data.draw(filled(likes, ordinary)) for _ in range(3))
        alone = {k: updates_of(tx, params[k], [g[k] for g in gradients])[:-1] for k in likes}
        apart = [{k: alone[k][i] for k in likes} for i in range(2)]
        first = gdjax.masked(tx, {"a": True, "b": False})
        others = [{**u, "b": g["b"]} for u, g in zip(apart, gradients, strict=True)]
        assert_equal(updates_of(first, params, gradients)[:-1], others)
        both = gdjax.chain(first, gdjax.masked(tx, {"a": False, "b": True}))
        groups = gdjax.partition({"x": tx, "y": tx}, {"a": "x", "b": "y"})
        assert_equal(updates_of(both, params, gradients)[:-1], apart)
        assert_equal(updates_of(groups, params, gradients)[:-1], apart)

    with jax.disable_jit():
        check(examples, holds)


@pytest.mark.full
@drawn(but=ELEMENTWISE)
def test_p6_chains_are_associative(case: Case, examples: int):
    before, tx, behind = gdjax.trace(0.5), case.make(), gdjax.scale(-0.5)

    def holds(data: st.DataObject) -> None:
        like = draw_structure(data, examples)
        params, *gradients = (data.draw(filled(like, ordinary)) for _ in range(3))
        flat = updates_of(gdjax.chain(before, tx, behind), params, gradients)
        for nested in (gdjax.chain(before, gdjax.chain(tx, behind)), gdjax.chain(gdjax.chain(before, tx), behind)):
            assert_equal(jax.tree.leaves(updates_of(nested, params, gradients)), jax.tree.leaves(flat))
        one_by_one, states = [], [part.init(params) for part in (before, tx, behind)]
        for g in gradients:
            for i, part in enumerate((before, tx, behind)):
                g, states[i] = part.update(g, states[i], params)
            one_by_one.append(g)
        assert_equal([*one_by_one, tuple(states)], flat)

    with jax.disable_jit():
        check(examples, holds)


@pytest.mark.full
@drawn(but=ELEMENTWISE)
def test_p7_k_gradients_accumulated_are_one_step_with_their_mean(case: Case, examples: int):
    tx = case.make()

    def holds(data: st.DataObject) -> None:
        k, like = data.draw(st.integers(1, 4)), draw_structure(data, examples)
        params, g, d = (data.draw(filled(like, lambda dtype: dyadic())) for _ in range(3))
        # Their mean is g, with no rounding on the way to it.
        sides = [jax.tree.map(jnp.add, g, d), jax.tree.map(jnp.subtract, g, d)]
        gradients = [*sides, g, g][:k] if k > 1 else [g]
        accumulated = gdjax.MultiSteps(tx, k)
        *updates, state = updates_of(accumulated, params, gradients)
        assert_equal([updates[-1], state.inner_opt_state], updates_of(tx, params, [g]))
        assert_equal(updates[:-1], [jax.tree.map(jnp.zeros_like, g)] * (k - 1))

    with jax.disable_jit():
        check(examples, holds)
