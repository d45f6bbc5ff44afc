"""Averages of the parameters: against the closed form, in 16 bits, and found again through other transforms."""

import pickle
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close, assert_equal

PARAMS = {"a": jnp.arange(6.0).reshape(2, 3), "b": {"c": jnp.ones(4)}}
GRADS = jax.tree.map(lambda p: p * 0.3 - 0.1, PARAMS)
SGD = gdjax.sgd(0.1)


def eval_params(state: Any, params: Any) -> Any:
    """What the state tells is the same for every transform."""
    return gdjax.eval_params(gdjax.identity(), state, params)


def run(tx: Any, number: int = 6, params: Any = PARAMS) -> tuple[list[Any], Any]:
    """The parameters after each update, and the last state."""
    state, seen, update = tx.init(params), [], jax.jit(tx.update)
    for i in range(number):
        updates, state = update(jax.tree.map(lambda p, i=i: p * (0.3 + 0.1 * i), params), state, params)
        params = gdjax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def mean(trees: Any, weights: Any) -> Any:
    total = sum(weights)
    return jax.tree.map(
        lambda *xs: sum(w * np.asarray(x, "float64") for w, x in zip(weights, xs, strict=True)) / total, *trees
    )


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_the_closed_form(decay: float):
    seen, state = run(gdjax.params_ema(gdjax.adam(0.1), decay))
    assert_equal(seen, run(gdjax.adam(0.1))[0])
    weights = [decay ** (len(seen) - i) for i in range(1, len(seen) + 1)]
    assert_close(eval_params(state, seen[-1]), jax.tree.map(jnp.float32, mean(seen, weights)), rtol=1e-6)
    assert float(state.weight) == pytest.approx(1 - decay ** len(seen), rel=1e-4)
    biased, state = run(gdjax.params_ema(gdjax.adam(0.1), decay, debias=False))
    all_of_them = mean([PARAMS, *biased], [decay ** len(seen), *((1 - decay) * w for w in weights)])
    assert_close(eval_params(state, seen[-1]), jax.tree.map(jnp.float32, all_of_them), rtol=1e-6)


def test_every_so_many_updates():
    tx = gdjax.params_ema(gdjax.sgd(0.1), 0.9, every=2)
    for number, kept, weights in [(1, [0], [1]), (3, [1], [1]), (6, [1, 3, 5], [0.81, 0.9, 1])]:
        seen, state = run(tx, number)
        found = jax.tree.map(jnp.float32, mean([seen[i] for i in kept], weights))
        assert_close(eval_params(state, seen[-1]), found, rtol=1e-6)
    first, state = run(gdjax.params_ema(gdjax.sgd(0.1), 0.9, debias=False, every=2), 1)
    assert_equal(eval_params(state, first[-1]), PARAMS)


def test_a_scheduled_decay():
    decay = lambda count: jnp.minimum(0.9, (1 + count).astype(jnp.float32) / 10)
    tx = gdjax.params_ema(gdjax.sgd(0.1), decay, debias=False)
    seen, state = run(tx)
    expected = PARAMS
    for i, x in enumerate(seen):
        d = min(0.9, (1 + i) / 10)
        expected = jax.tree.map(lambda m, x, d=d: d * m + (1 - d) * x, expected, x)
    assert_close(state.ema, expected, rtol=1e-6)
    assert float(gdjax.get_hyperparams(tx, state)["decay"]) == pytest.approx(0.7)


def test_swa_is_the_equal_average():
    for start, every, number, kept in [
        (3, 1, 6, [2, 3, 4, 5]),
        (2, 2, 6, [1, 3, 5]),
        (4, 2, 3, [2]),
        (0, 3, 7, [2, 5]),
    ]:
        seen, state = run(gdjax.swa(gdjax.adam(0.1), start, every), number)
        assert_equal(seen, run(gdjax.adam(0.1), number)[0])
        found = jax.tree.map(jnp.float32, mean([seen[i] for i in kept], [1] * len(kept)))
        assert_close(eval_params(state, seen[-1]), found, rtol=1e-6)


@pytest.mark.parametrize("tx", [gdjax.params_ema(gdjax.sgd(1.0), 0.9999), gdjax.swa(gdjax.sgd(1.0), 1)])
def test_bfloat16(tx: Any):
    """A bfloat16 average of decay 0.9999 would never move; here it is that of the rounded parameters."""
    params, g = jnp.ones(3, jnp.bfloat16), jnp.asarray([0.01, 1e-3, -0.02], jnp.bfloat16)
    state, seen, update = tx.init(params), [], jax.jit(tx.update)
    for _ in range(40):
        updates, state = update(g, state, params)
        params = gdjax.apply_updates(params, updates)
        seen.append(np.asarray(params, "float64"))
    average = next(getattr(state, name) for name in ("ema", "mean") if hasattr(state, name))
    weights = [0.9999 ** (39 - i) for i in range(40)] if hasattr(state, "ema") else [1] * 40
    assert average.dtype == jnp.float32
    np.testing.assert_allclose(average, np.average(seen, axis=0, weights=weights), rtol=2e-6)
    assert average[1] == 1 and average[0] < 0.9  # 1 - 1e-3 is 1 in bfloat16
    assert eval_params(state, params).dtype == jnp.bfloat16
    moving = gdjax.params_ema(gdjax.sgd(1.0), 0.9999, debias=False)
    state = moving.init(jnp.ones(3, jnp.bfloat16))
    _, state = moving.update(jnp.full(3, 0.5, jnp.bfloat16), state, jnp.ones(3, jnp.bfloat16))
    np.testing.assert_allclose(state.ema, 1 - 0.5e-4, rtol=1e-7)


def test_dtypes_of_the_average():
    make = lambda dtype: gdjax.params_ema(gdjax.sgd(0.1), 0.9, dtype=dtype)
    half, number = jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.complex64)
    assert make(None).init(half).ema.dtype == jnp.float32 and make("bfloat16").init(half).ema.dtype == jnp.bfloat16
    assert make(None).init(number).ema.dtype == make("float32").init(number).ema.dtype == jnp.complex64


def reached(make: Any) -> tuple[Any, Any, Any]:
    tx = make(gdjax.params_ema(gdjax.sgd(0.1), 0.5))
    seen, state = run(tx)
    expected, own = run(gdjax.params_ema(gdjax.sgd(0.1), 0.5))
    return eval_params(state, seen[-1]), eval_params(own, expected[-1]), seen[-1]


@pytest.mark.parametrize(
    "make",
    [
        lambda tx: gdjax.chain(gdjax.clip_by_global_norm(1e6), tx),
        lambda tx: gdjax.named_chain(("first", gdjax.identity()), ("second", tx)),
        lambda tx: gdjax.apply_if_finite(tx, 3),
        lambda tx: gdjax.partition({1: tx, 2: tx}, gdjax.label_by_path({"a": 1, ".*": 2})),
        lambda tx: gdjax.masked(tx, {"a": True, "b": True}),
        lambda tx: gdjax.MultiSteps(tx, 1).gradient_transformation(),
        lambda tx: optax.chain(optax.identity(), tx),
        lambda tx: gdjax.params_ema(gdjax.sgd(0.1), 0.5),
        lambda tx: gdjax.inject_hyperparams(lambda decay: gdjax.params_ema(gdjax.sgd(0.1), decay))(0.5),
    ],
)
def test_found_through(make: Any):
    with relaxed():
        found, expected, _ = reached(make)
    assert_close(found, expected, rtol=1e-6)


def test_a_leaf_without_an_average_keeps_its_parameter():
    for make in (
        lambda tx: gdjax.partition({1: tx, 2: gdjax.sgd(0.1)}, gdjax.label_by_path({"a": 1, ".*": 2})),
        lambda tx: gdjax.chain(
            gdjax.masked(tx, {"a": True, "b": False}), gdjax.masked(gdjax.sgd(0.1), {"a": False, "b": True})
        ),
    ):
        found, expected, params = reached(make)
        assert_close(found["a"], expected["a"], rtol=1e-6)
        assert_equal(found["b"], params["b"])


def test_of_other_methods():
    seen, state = run(gdjax.chain(gdjax.clip(1e6), gdjax.schedule_free_sgd(0.1)))
    assert_close(eval_params(state, seen[-1]), gdjax.schedule_free_eval_params(state, seen[-1]), rtol=1e-6)
    groups = gdjax.partition({1: gdjax.schedule_free_sgd(0.1), 2: gdjax.sgd(0.1)}, {"a": 1, "b": 2})
    half, half_state = run(groups)
    assert_close(eval_params(half_state, half[-1])["a"], eval_params(state, seen[-1])["a"], rtol=1e-6)
    pair = gdjax.LookaheadParams.init_synced(PARAMS)
    tx = gdjax.lookahead(gdjax.sgd(0.1), 5, 0.5)
    updates, state = tx.update(GRADS, tx.init(pair), pair)
    pair = gdjax.apply_updates(pair, updates)
    assert eval_params(state, pair) is pair.slow
    assert eval_params(gdjax.adam(0.1).init(PARAMS), PARAMS) is PARAMS
    outer, state = run(gdjax.params_ema(gdjax.schedule_free_sgd(0.1), 0.0))
    assert_close(eval_params(state, outer[-1]), outer[-1], rtol=1e-6)


def test_around_and_inside_accumulation():
    inside = gdjax.MultiSteps(gdjax.params_ema(gdjax.sgd(0.1), 0.5), 3).gradient_transformation()
    seen, state = run(inside)
    assert_close(eval_params(state, seen[-1]), mean([seen[2], seen[5]], [0.5, 1]), rtol=1e-6)
    around = gdjax.params_ema(gdjax.MultiSteps(gdjax.sgd(0.1), 3).gradient_transformation(), 0.5)
    seen, state = run(around)
    assert_close(eval_params(state, seen[-1]), mean(seen, [0.5 ** (5 - i) for i in range(6)]), rtol=1e-6)


def test_values_state_and_errors():
    make = lambda: gdjax.params_ema(gdjax.adam(1e-3), 0.99)
    assert make() == make() != gdjax.params_ema(gdjax.adam(1e-3), 0.9)
    assert pickle.loads(pickle.dumps(make())) == make()
    tx = make()
    with pytest.raises(ValueError, match="^gdjax.params_ema: this transform needs params"):
        tx.update(GRADS, tx.init(PARAMS))
    flat = gdjax.flatten(tx)
    with pytest.raises(ValueError, match="^gdjax.eval_params: the state has an average of another structure"):
        eval_params(flat.init(PARAMS), PARAMS)
    for wrong in (
        lambda: gdjax.params_ema(tx, 1.0),
        lambda: gdjax.params_ema(tx, 0.9, every=0),
        lambda: gdjax.swa(tx, -1),
    ):
        with pytest.raises(ValueError, match=r"^gdjax\.(params_ema|swa): (decay|every|start) must be"):
            wrong()
    frozen = gdjax.params_ema(gdjax.sgd(0.1), 0.9)
    updates, state = frozen.update({**GRADS, "a": None}, frozen.init(PARAMS), PARAMS)
    assert updates["a"] is None and eval_params(state, PARAMS)["a"] is not None


def test_the_transform_comes_first():
    tx = gdjax.params_ema(gdjax.sgd(0.1), 0.9)
    with pytest.raises(TypeError, match="^gdjax.eval_params: argument tx is ParamsEmaState"):
        gdjax.eval_params(tx.init(PARAMS), PARAMS, tx)


def ema(tx: Any) -> Any:
    return gdjax.params_ema(tx, 0.9)


class KeptState(NamedTuple):
    """Of an average of one's own, which under a mask has `MaskedNode` for the leaves of others."""

    average: Any

    def eval_params(self, params: Any) -> Any:
        return self.average


def kept(tx: Any) -> Any:
    return gdjax.chain(tx, gdjax.GradientTransformation(KeptState, lambda u, state, params=None: (u, state)))


A = {"a": True, "b": False}
B = {"a": False, "b": True}
NOT_LAST = {
    "rate": (lambda: gdjax.chain(ema(gdjax.scale_by_adam()), gdjax.scale_by_learning_rate(0.1)), "learning_rate"),
    "tail": (lambda: gdjax.chain(gdjax.tail_ema(SGD, 1), gdjax.scale(0.5)), "after tail_ema"),
    "projection": (lambda: gdjax.chain(gdjax.swa(SGD, 1), gdjax.keep_params_nonnegative()), "keep_params_nonnegative"),
    "named_chain": (lambda: gdjax.named_chain(("a", ema(SGD)), ("b", gdjax.clip(1.0))), r"clip \(argument 1\)"),
    "nested": (lambda: gdjax.chain(gdjax.chain(gdjax.identity(), ema(SGD)), gdjax.scale(0.5)), r"scale \(argument 1\)"),
    "wrapper": (lambda: gdjax.cautious(ema(SGD)), "cautious"),
    "schedule_free": (lambda: gdjax.chain(gdjax.schedule_free_sgd(0.1), gdjax.scale(0.5)), "after schedule_free"),
    "in_schedule_free": (lambda: gdjax.schedule_free(ema(SGD), 0.1), "schedule_free changes"),
    "lookahead": (lambda: gdjax.chain(gdjax.lookahead(SGD, 5, 0.5), gdjax.scale(0.5)), "after lookahead"),
    "in_lookahead": (lambda: gdjax.lookahead(ema(SGD), 5, 0.5), "lookahead changes"),
    "mask": (lambda: gdjax.chain(gdjax.masked(ema(SGD), A), gdjax.scale(0.5)), "after params_ema"),
    "mask_of_own": (lambda: gdjax.chain(gdjax.masked(kept(SGD), A), gdjax.masked(SGD, A)), "after kept"),
    "own": (lambda: gdjax.chain(kept(SGD), gdjax.masked(SGD, B)), "after kept"),
    "frozen": (lambda: gdjax.chain(ema(SGD), gdjax.freeze(A)), "freeze"),
    "group": (lambda: gdjax.partition({0: gdjax.chain(ema(SGD), gdjax.clip(1.0)), 1: SGD}, {"a": 0, "b": 1}), "clip"),
    "accumulation": (lambda: gdjax.chain(gdjax.MultiSteps(ema(SGD), 2), gdjax.scale(0.5)), "after params_ema"),
    "injected": (lambda: gdjax.inject_hyperparams(lambda r: gdjax.chain(ema(SGD), gdjax.scale(r)))(0.1), "scale"),
    "optax_around": (lambda: gdjax.chain(optax.MultiSteps(ema(SGD), 2), gdjax.scale(0.5)), "after params_ema"),
    "optax_average": (
        lambda: gdjax.chain(optax.contrib.schedule_free(optax.sgd(0.1), 0.1), gdjax.scale(0.5)), "after schedule_free",
    ),
    "needs_more": (lambda: gdjax.chain(ema(SGD), gdjax.scale_by_backtracking_linesearch(5)), "linesearch"),
}  # fmt: skip
LAST = {
    "whole": lambda: ema(gdjax.chain(gdjax.adam(0.1), gdjax.keep_params_nonnegative())),
    "identity": lambda: gdjax.chain(ema(SGD), gdjax.identity(), optax.identity(), gdjax.scale(1.0)),
    "optax_after": lambda: gdjax.chain(ema(SGD), optax.scale(0.5)),  # nothing is known of it
    "monitors": lambda: gdjax.chain(
        ema(SGD), gdjax.snapshot("n", gdjax.global_norm), gdjax.monitor({"n": gdjax.global_norm})
    ),
    "metrics": lambda: gdjax.chain(ema(SGD), gdjax.with_metrics(gdjax.identity(), norms=("grad", "update", "param"))),
    "two": lambda: gdjax.chain(ema(gdjax.swa(SGD, 2)), gdjax.swa(gdjax.identity(), 1)),
    "accumulation": lambda: gdjax.MultiSteps(gdjax.apply_if_finite(ema(SGD), 3), 2),
    "other_leaves": lambda: gdjax.chain(gdjax.masked(ema(SGD), A), gdjax.masked(gdjax.scale(0.5), B), gdjax.freeze(B)),
    "other_leaves_of_own": lambda: gdjax.chain(gdjax.masked(kept(SGD), A), gdjax.masked(gdjax.scale(0.5), B)),
    "other_leaves_by_functions": lambda: gdjax.chain(
        gdjax.masked(kept(SGD), gdjax.mask_by_path("a")), gdjax.masked(SGD, gdjax.mask_by_path("b"))
    ),
}


@pytest.mark.parametrize("name", NOT_LAST)
def test_an_average_that_is_not_last_is_warned_of(name: str):
    make, text = NOT_LAST[name]
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    with pytest.warns(UserWarning, match=rf"{text}.*put \w+ around"):
        make().init(params)
    assert len([x for x in gdjax.explain(make(), params).warnings if re.search(text, x) and "around" in x]) == 1


@pytest.mark.parametrize("name", LAST)
def test_an_average_that_is_last_is_not(name: str):
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    LAST[name]().init(params)  # a warning is an error here
    jax.eval_shape(LAST[name]().init, params)
    assert not [x for x in gdjax.explain(LAST[name](), params).warnings if "around" in x]


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
@pytest.mark.parametrize("name", ["two", "metrics", "monitors"])
def test_an_average_that_is_last_on_explicit_axes(name: str):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec
    with jax.set_mesh(mesh):
        params = jax.device_put({"a": jnp.ones((16, 3)), "b": jnp.ones(2)}, {"a": spec("data"), "b": spec()})
        LAST[name]().init(params)
        with pytest.warns(UserWarning, match="put params_ema around"):
            gdjax.chain(ema(SGD), gdjax.scale(0.5)).init(params)


def test_the_warning_is_right():
    """Around the rate the average is of the parameters; in front of it, of others."""
    params, grads = jnp.array([1.0, -2.0]), jnp.array([0.3, 0.1])
    outside, inside = (
        ema(gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(1e-2))),
        gdjax.chain(ema(gdjax.scale_by_adam()), gdjax.scale_by_learning_rate(1e-2)),
    )
    with pytest.warns(UserWarning, match="around"):
        state = inside.init(params)
    _, state = inside.update(grads, state, params)
    updates, right = outside.update(grads, outside.init(params), params)
    assert jnp.allclose(gdjax.eval_params(outside, right, params), params + updates, rtol=1e-6)
    assert jnp.max(jnp.abs(gdjax.eval_params(inside, state, params) - params - updates)) > 0.5


def test_optax_states_have_averages_too():
    params, tx = jnp.array([1.0, -2.0]), optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    updates, state = tx.update(jnp.array([0.3, 0.1]), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert jnp.allclose(gdjax.eval_params(tx, state, params), optax.contrib.schedule_free_eval_params(state, params))
