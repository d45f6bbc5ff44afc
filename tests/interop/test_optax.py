"""With Optax, in both directions: each library's transforms in the other's wrappers, and the classes of states."""

import functools
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

import gdjax
from tests.cases import TWINS, Case, every
from tests.declare import SAMPLE, Twin, one_in
from tests.interop.test_object import OUR_WRAPPERS, everywhere, trained
from tests.support import relaxed, slow
from tests.trees import assert_close, assert_equal, is_shape, random_tree, signature, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in range(1, 5)]


def run(tx: Any, params: Any, gradients: Any) -> Any:
    """`steps` with the update compiled: what Optax dispatches one operation at a time is slower than compiling."""

    class Jitted:
        init, update = tx.init, staticmethod(jax.jit(tx.update))

    return steps(Jitted, params, gradients)


@every(sampled=True)
def test_c13_updates_are_added_by_optax(case: Case):
    tx = case.make()
    params, g = ({"none": None, **tree} for tree in (PARAMS, GRADIENTS[0]))
    updates, _ = jax.eval_shape(tx.update, g, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    with relaxed():
        new = jax.eval_shape(optax.apply_updates, params, updates)
    assert signature(new) == signature(jax.eval_shape(lambda: params))


def test_c13_both_libraries_add_the_same():
    params, updates = {"a": jnp.ones(3, "bfloat16"), "b": None}, {"a": jnp.full(3, 1e-2), "b": None}
    with relaxed():
        theirs = optax.apply_updates(params, updates)
    assert_equal(gdjax.apply_updates(params, updates), theirs)
    assert theirs["a"].dtype == jnp.bfloat16


# Optax's wrappers around a transform.
THEIR_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "named_chain": lambda tx: optax.named_chain(("a", tx)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2),
    "masked": lambda tx: optax.masked(tx, everywhere),
    "partition": lambda tx: optax.partition({True: tx}, everywhere),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda rate: optax.chain(tx, optax.scale(rate)))(1.0),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step > 0),
    "conditionally_mask": lambda tx: optax.conditionally_mask(tx, lambda step: step > 0),
    "flatten": optax.flatten,
    "lookahead": lambda tx: optax.lookahead(tx, 2, 0.5),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 0.1),
    "mechanize": lambda tx: optax.contrib.mechanize(tx),
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
    "sam": lambda tx: optax.contrib.sam(optax.sgd(0.1), tx, 2),
    "with_extra_args_support": optax.with_extra_args_support,
}
# What Optax passes no extra arguments through, for its own transforms either.
SILENT = {"lookahead", "sam", "split_real_and_imaginary"}


@pytest.mark.parametrize("wrapper", THEIR_WRAPPERS)
def test_c28_ours_inside_every_wrapper_of_optax(wrapper: str):
    params = trained(wrapper, PARAMS, optax)
    with relaxed():
        got, _ = run(THEIR_WRAPPERS[wrapper](gdjax.sgd(0.1, 0.9)), params, GRADIENTS)
        wanted, _ = run(THEIR_WRAPPERS[wrapper](optax.sgd(0.1, 0.9)), params, GRADIENTS)
    assert_close(jax.tree.leaves(got), jax.tree.leaves(wanted), 1e-5, 1e-5)


@pytest.mark.parametrize("wrapper", [name for name in THEIR_WRAPPERS if name not in SILENT])
def test_c2_c28_extra_arguments_pass_through_optax(wrapper: str):
    # They need not only arrive: what is no instance of Optax's class, Optax calls without them.
    tx = THEIR_WRAPPERS[wrapper](gdjax.polyak_sgd())
    with relaxed():
        state = tx.init(PARAMS)
        jax.eval_shape(lambda g, s, p: tx.update(g, s, p, value=1.0), GRADIENTS[0], state, PARAMS)
        with pytest.raises((ValueError, TypeError), match="value"):
            jax.eval_shape(tx.update, GRADIENTS[0], state, PARAMS)


@pytest.mark.parametrize("wrapper", sorted(SILENT))
def test_c28_optax_passes_none_through_these(wrapper: str):
    # A later Optax that does so takes the wrapper off the list.
    tx = THEIR_WRAPPERS[wrapper](optax.polyak_sgd())
    params = trained(wrapper, PARAMS, optax)
    with relaxed(), pytest.raises((ValueError, TypeError), match=r"value|unexpected keyword"):
        jax.eval_shape(lambda g, s, p: tx.update(g, s, p, value=1.0), GRADIENTS[0], tx.init(params), params)


@pytest.mark.full
@every(sampled=True)
def test_c28_every_transform_inside_optax(case: Case):
    tx = case.make()
    wrapped = optax.apply_if_finite(optax.chain(optax.identity(), optax.masked(tx, everywhere)), 2)
    with relaxed():
        state = jax.eval_shape(wrapped.init, PARAMS)
        updates, new = jax.eval_shape(wrapped.update, GRADIENTS[0], state, PARAMS)
    assert signature(new) == signature(state)
    assert signature(updates) == signature(jax.eval_shape(lambda: GRADIENTS[0]))


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["chain", "masked", "apply_if_finite", "partition"])
@every(lambda case: not case.slow)
def test_c28_every_transform_inside_optax_gives_its_numbers(case: Case, wrapper: str):
    with relaxed():
        got, _ = run(THEIR_WRAPPERS[wrapper](case.make()), PARAMS, GRADIENTS[:2])
        assert_close(got, run(case.make(), PARAMS, GRADIENTS[:2])[0])


@pytest.mark.full
@pytest.mark.parametrize("wrapper", OUR_WRAPPERS)
def test_c29_optax_inside_every_wrapper_of_ours(wrapper: str):
    params = trained(wrapper, PARAMS)
    with relaxed():
        got, _ = run(OUR_WRAPPERS[wrapper](optax.sgd(0.1, 0.9)), params, GRADIENTS[:2])
        wanted, _ = run(OUR_WRAPPERS[wrapper](gdjax.sgd(0.1, 0.9)), params, GRADIENTS[:2])
    assert_close(jax.tree.leaves(got), jax.tree.leaves(wanted), 1e-5, 1e-5)


@pytest.mark.parametrize("wrapper", OUR_WRAPPERS)
def test_c29_anything_with_init_and_update_will_do(wrapper: str):
    # optax.MultiSteps has both and is no GradientTransformation.
    params = trained(wrapper, PARAMS)
    with relaxed():
        tx = OUR_WRAPPERS[wrapper](optax.MultiSteps(optax.sgd(0.1, 0.9), 2))
        state = jax.eval_shape(tx.init, params)
        _, new = jax.eval_shape(tx.update, GRADIENTS[0], state, params)
    assert signature(new) == signature(state)


def test_optax_injects_our_hyperparameters():
    # Optax calls the factory inside jit, with tracers.
    with relaxed():
        tx = optax.inject_hyperparams(gdjax.adamw)(learning_rate=0.1, weight_decay=0.01)
        got, state = run(tx, PARAMS, GRADIENTS)
        assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.1)
        assert_close(got, run(gdjax.adamw(0.1, weight_decay=0.01), PARAMS, GRADIENTS)[0], 1e-5, 1e-5)


def sized(twin: Twin) -> Any:
    return jax.tree.map(lambda n: jax.ShapeDtypeStruct(n, "float32"), dict(twin.shapes), is_leaf=is_shape)


# Optax's measurements have no entry before the first update.
COMPARED = [twin for twin in TWINS if not twin.reset and twin.name != "monitor"]
FEW = [twin for twin in COMPARED if twin.name in SAMPLE or one_in(4, twin.name)]
THIN = [*FEW, *slow(twin for twin in COMPARED if twin not in FEW)]


@pytest.mark.parametrize("twin", COMPARED, ids=lambda twin: twin.name)
def test_to_optax_has_the_states_of_its_twin(twin: Twin):
    # Class by class: a program may map over a state of each at once.
    params = sized(twin)
    with relaxed():
        wanted = jax.eval_shape(twin.make(optax).init, params)
        got = jax.eval_shape(gdjax.to_optax(twin.make(gdjax)).init, params)
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    back = gdjax.state_from_optax(got)
    assert jax.tree.structure(back) == jax.tree.structure(jax.eval_shape(twin.make(gdjax).init, params))
    assert jax.tree.structure(gdjax.state_to_optax(back)) == jax.tree.structure(got)


@pytest.mark.full
@every(thin=4)
def test_states_to_optax_and_back_are_the_same(case: Case):
    state = jax.eval_shape(case.make().init, PARAMS)
    there = gdjax.state_to_optax(state)
    assert [x is y for x, y in zip(*map(jax.tree.leaves, (there, state)), strict=True)].count(False) == 0
    assert jax.tree.structure(gdjax.state_from_optax(there)) == jax.tree.structure(state)


@pytest.mark.full
@every(sampled=True)
def test_to_optax_and_from_optax_update_as_they_are(case: Case):
    tx = case.make()
    there, back = gdjax.to_optax(tx), gdjax.from_optax(gdjax.to_optax(tx))
    assert type(there) is optax.GradientTransformationExtraArgs

    def program(tx: Any) -> str:
        state = jax.eval_shape(tx.init, PARAMS)
        return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(tx.update)(GRADIENTS[0], state, PARAMS)))

    assert program(there) == program(back) == program(tx)


def test_to_optax_in_optax_wrappers_and_through_its_tools():
    tx = gdjax.to_optax(gdjax.chain(gdjax.masked(gdjax.trace(0.9), everywhere), gdjax.scale(-0.1)))
    with relaxed():
        masked = optax.masked(tx, lambda tree: jax.tree.map(lambda x: x.ndim > 0, tree))
        got, state = run(masked, PARAMS, GRADIENTS)
        wanted, theirs = run(
            optax.masked(
                optax.chain(optax.masked(optax.trace(0.9), everywhere), optax.scale(-0.1)),
                lambda tree: jax.tree.map(lambda x: x.ndim > 0, tree),
            ),
            PARAMS,
            GRADIENTS,
        )
        assert_close((got, state), (wanted, theirs))
        assert jax.tree.leaves(optax.tree.map_params(tx, lambda x: 1, tx.init(PARAMS))) == [1, 1, 1]
        assert_close(*(run(optax.lookahead(lib, 2, 0.5), trained("lookahead", PARAMS, optax), GRADIENTS)[0]
                       for lib in (gdjax.to_optax(gdjax.sgd(0.1)), optax.sgd(0.1))))  # fmt: skip


def test_lookahead_takes_the_pairs_of_either_library():
    with relaxed():
        pairs = trained("lookahead", PARAMS, optax)
        got, _ = run(gdjax.to_optax(gdjax.lookahead(gdjax.sgd(0.1), 2, 0.5)), pairs, GRADIENTS)
        wanted, _ = run(optax.lookahead(optax.sgd(0.1), 2, 0.5), pairs, GRADIENTS)
    assert_close(got, wanted)


def test_they_are_values():
    tx, theirs = gdjax.adam(0.1), optax.adam(0.1)
    assert gdjax.to_optax(tx) == gdjax.to_optax(gdjax.adam(0.1)) != gdjax.to_optax(gdjax.adam(0.2))
    assert hash(gdjax.to_optax(tx)) == hash(gdjax.to_optax(gdjax.adam(0.1)))
    assert pickle.loads(pickle.dumps(gdjax.to_optax(tx))) == gdjax.to_optax(tx)
    assert gdjax.from_optax(theirs) == gdjax.from_optax(theirs) != gdjax.from_optax(optax.adam(0.1))
    assert hash(gdjax.from_optax(theirs)) == hash(gdjax.from_optax(theirs))
    assert repr(gdjax.to_optax(tx).init) == f"to_optax(tx={tx!r}).init"


def test_from_optax_names_what_does_not_fit():
    with relaxed():
        tx = gdjax.from_optax(optax.adam(0.1))
        state = tx.init(PARAMS)
        assert type(state[0]) is optax.ScaleByAdamState
        assert type(gdjax.state_from_optax(state)[0]) is gdjax.ScaleByAdamState
        tx.update(GRADIENTS[0], state, PARAMS, value=1.0)  # which optax.adam does not take
        wide = {**GRADIENTS[0], "scale": jnp.ones((1, 3))}
        with pytest.raises(ValueError, match=r"^gdjax.from_optax: params\['scale'\]: gradient shape \(1, 3\)"):
            tx.update(wide, state, PARAMS)
        with pytest.raises(ValueError, match=r"^gdjax.from_optax: params\['more'\] has no counterpart"):
            tx.update(GRADIENTS[0], state, {**PARAMS, "more": jnp.ones(2)})
        with pytest.raises(TypeError, match=r"^gdjax.from_optax: params\['f'\] is the function tanh, not an array"):
            tx.init({"f": jnp.tanh})
    for make in (gdjax.from_optax, gdjax.to_optax):
        with pytest.raises(TypeError, match=rf"^gdjax.{make.__name__}: argument 0 is 3, which has no init and update"):
            make(3)


@pytest.mark.full
def test_without_optax():
    code = """
import sys
sys.modules["optax"] = None
import gdjax
for convert in (gdjax.to_optax, gdjax.state_to_optax):
    try:
        convert(gdjax.sgd(0.1))
    except ImportError as e:
        assert str(e) == f"gdjax.{convert.__name__} needs Optax: pip install optax", e
    else:
        raise AssertionError
tx = gdjax.from_optax(gdjax.sgd(0.1, 0.9))  # anything with init and update
state = tx.init({"a": 1.0})
assert tx.update({"a": 1.0}, state)[1][0].trace["a"] == 1.0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_state_of_optax_goes_on_here_and_back():
    # Two steps there, two here, two there: six steps there.
    with relaxed():
        theirs = optax.chain(optax.clip(1.0), optax.sgd(0.1, 0.9))
        ours = gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.1, 0.9))
        params, state = PARAMS, theirs.init(PARAMS)
        for tx, convert in ((theirs, gdjax.state_from_optax), (ours, gdjax.state_to_optax), (theirs, lambda s: s)):
            update = jax.jit(functools.partial(tx.update))
            for g in GRADIENTS[:2]:
                updates, state = update(g, state, params)
                params = optax.apply_updates(params, updates)
            state = convert(state)
        assert_close((params, state), run(theirs, PARAMS, 3 * GRADIENTS[:2]))


@pytest.mark.parametrize("twin", THIN, ids=lambda twin: getattr(twin, "name", None))
def test_a_state_of_optax_keeps_its_classes(twin: Twin):
    # As the carry of a scan must.
    params, tx = sized(twin), twin.make(gdjax)

    def step(g: Any, state: Any, params: Any) -> Any:
        extra = twin.extra(jnp.float32(1), g, params) if twin.extra else {}
        return tx.update(g, state, params, **extra)[1]

    with relaxed():
        state = jax.eval_shape(twin.make(optax).init, params)
        new = jax.eval_shape(step, params, state, params)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_state_of_optax_in_a_scan():
    theirs, ours = optax.MultiSteps(optax.adamw(0.1), 2), gdjax.MultiSteps(gdjax.adamw(0.1), 2)

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = ours.update(g, state, params)
        return (gdjax.apply_updates(params, updates), state), None

    with relaxed():
        start = PARAMS, theirs.init(PARAMS)
        (params, state), _ = jax.lax.scan(step, start, jax.tree.map(lambda *xs: jnp.stack(xs), *GRADIENTS[:2]))
        assert type(state) is optax.MultiStepsState and type(state.inner_opt_state[0]) is optax.ScaleByAdamState
        assert_close((params, gdjax.state_from_optax(state)), run(ours, PARAMS, GRADIENTS[:2]))
