"""States set back in part, and as plain dicts."""

import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import gdjax
from tests.cases import Case, every
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, is_key, random_tree, signature

PARAMS, G = random_tree(0), random_tree(1)
GROUPS = gdjax.label_by_path({"dense": "a", ".*": "b"})
TX = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 9)))


def stepped(tx: Any, params: Any = PARAMS, g: Any = G) -> Any:
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(g, state, params)
    return state


def fields(state: Any) -> dict[str, Any]:
    saved = gdjax.state_to_dict(state)["state"]
    return {
        jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in jax.tree_util.tree_leaves_with_path(saved)
    }


def changed(old: Any, new: Any) -> set[str]:
    before, after = fields(old), fields(new)
    return {k for k in before if not np.array_equal(before[k], after[k])}


@every(thin=4)
def test_every_state_goes_through_a_dict_and_back(case: Case):
    tx = case.make()
    # Not the values of `init`, which would be there again by themselves; integers differ from each other.
    state = tx.init(PARAMS)
    xs, structure = jax.tree.flatten(state)
    state = structure.unflatten(
        [x if is_key(x) or x.dtype == bool else x + np.asarray(i + 1, x.dtype) for i, x in enumerate(xs)]
    )
    saved = gdjax.state_to_dict(state)
    assert all(type(x) is dict for x in [saved, saved["state"]]) and len(jax.tree.leaves(saved)) == len(xs) + 1
    back = gdjax.state_from_dict(tx, jax.tree.map(np.asarray, saved), PARAMS)
    assert_equal(back, state)
    assert signature(back) == signature(state)


def through_msgpack(saved: Any) -> Any:
    return serialization.msgpack_restore(serialization.msgpack_serialize(jax.device_get(saved)))


def through_npz(saved: Any) -> Any:
    paths = jax.tree_util.tree_leaves_with_path(saved)
    file = io.BytesIO()
    np.savez(file, **{jax.tree_util.keystr(k, simple=True, separator="/"): np.asarray(x) for k, x in paths})
    file.seek(0)
    return dict(np.load(file))


def through_json(saved: Any) -> Any:
    return json.loads(json.dumps(jax.tree.map(lambda x: np.asarray(x).tolist(), saved)))


@pytest.mark.parametrize("through", [through_msgpack, through_npz, through_json])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_through_files(through: Any, dtype: Any):
    noisy = gdjax.chain(gdjax.add_noise(0.1, 0.5, jax.random.key(3)), gdjax.adamw(0.1, mu_dtype=dtype))
    tx = gdjax.apply_if_finite(noisy, 3)
    state = stepped(tx)
    back = gdjax.state_from_dict(tx, through(gdjax.state_to_dict(state)), PARAMS)
    assert_equal(back, state)
    assert signature(back) == signature(state)


def test_names_have_no_places_in_chains():
    assert set(fields(stepped(TX))) == {"scale_by_adam/count", "scale_by_schedule/count"} | {
        f"scale_by_adam/{m}/{leaf}" for m in ("mu", "nu") for leaf in ("dense/kernel", "dense/bias", "scale")
    }
    two = gdjax.chain(gdjax.trace(0.9), gdjax.chain(gdjax.trace(0.5)))
    assert list(gdjax.state_to_dict(two.init(PARAMS))["state"]) == ["trace", "trace_2"]
    named = gdjax.partition({"a": gdjax.MultiSteps(gdjax.sgd(0.1, 0.9), 2), "b": gdjax.set_to_zero()}, GROUPS)
    assert "partition/inner_states/a/masked/inner_state/multi_steps/inner_opt_state/trace/trace/dense/bias" in fields(
        named.init(PARAMS)
    )
    one = gdjax.adam(0.1)
    assert set(fields(one.init(jnp.ones(3)))) == {"scale_by_adam/count", "scale_by_adam/mu", "scale_by_adam/nu"}


def test_a_state_of_optax_has_the_same_names():
    with relaxed():
        import optax

        theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 9)))
        state = stepped(theirs)
    assert_equal(fields(gdjax.state_from_dict(TX, gdjax.state_to_dict(state), PARAMS)), fields(state))


def test_a_clip_more_or_less_is_no_difference():
    adamw = gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 9))
    state = stepped(adamw)
    longer = gdjax.state_from_dict(TX, gdjax.state_to_dict(state), PARAMS)
    assert_equal(longer[1], state)
    assert_equal(gdjax.state_from_dict(adamw, gdjax.state_to_dict(longer), PARAMS), state)


def test_a_transform_or_a_wrapper_more_or_less_is_told():
    state = stepped(gdjax.adam(0.1))
    more = gdjax.chain(gdjax.trace(0.9), gdjax.apply_if_finite(gdjax.adam(0.1), 3))
    with pytest.warns(
        UserWarning, match=r"^gdjax.state_from_dict: not saved, and starts anew: trace/trace, apply_if_f"
    ):
        (trace, guard) = gdjax.state_from_dict(more, gdjax.state_to_dict(state), PARAMS)
    assert_equal(guard.inner_state, state)
    assert_equal(trace, gdjax.trace(0.9).init(PARAMS))
    with pytest.warns(UserWarning, match=r"saved and not used: apply_if_finite/last_finite, .*trace/trace/scale$"):
        less = gdjax.state_from_dict(gdjax.adam(0.1), gdjax.state_to_dict((trace, guard)), PARAMS)
    assert_equal(less, state)
    both = gdjax.partition({"a": gdjax.adam(0.1), "b": gdjax.adam(0.1)}, GROUPS)
    with pytest.warns(UserWarning, match="anew: scale_by_adam/count; saved and not used: partition.*count, .*count$"):
        gdjax.state_from_dict(gdjax.adam(0.1), gdjax.state_to_dict(stepped(both)), PARAMS)  # either count might be it


def test_wrong_dicts_are_errors():
    tx = gdjax.adam(0.1)
    saved = gdjax.state_to_dict(tx.init(PARAMS))
    label = "^gdjax.state_from_dict: "
    with pytest.raises(ValueError, match=label + "version 2 .*reads 1"):
        gdjax.state_from_dict(tx, {**saved, "version": 2}, PARAMS)
    with pytest.raises(ValueError, match=label + "version none"):
        gdjax.state_from_dict(tx, saved["state"], PARAMS)
    saved["state"]["scale_by_adam"]["mu"]["dense"]["bias"] = jnp.ones(3)
    with pytest.raises(ValueError, match=label + r"scale_by_adam/mu, params/dense/bias: saved with shape \(3,\), exp"):
        gdjax.state_from_dict(tx, saved, PARAMS)
    saved["state"]["scale_by_adam"]["mu"]["dense"]["bias"] = jnp.ones(2)
    saved["state"]["scale_by_adam"]["count"] = np.float32(0.5)
    with pytest.raises(TypeError, match=label + "scale_by_adam/count: saved with dtype float32, expected int32"):
        gdjax.state_from_dict(tx, saved, PARAMS)
    with pytest.raises(ValueError, match=label + "nothing of scale_by_adam/count, .* is in the state, which has trace"):
        gdjax.state_from_dict(gdjax.trace(0.9), saved, PARAMS)
    with pytest.raises(ValueError, match="^gdjax.state_to_dict: several arrays of the state go by the name 'trace/tr"):
        gdjax.state_to_dict(gdjax.trace(0.9).init({"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}))


def wrapped(tx: Any) -> dict[str, Any]:
    return {
        "alone": tx,
        "chain": gdjax.chain(gdjax.clip(1.0), tx),
        "guard": gdjax.apply_if_finite(tx, 3),
        "accumulation": gdjax.MultiSteps(tx, 1),
        "masked": gdjax.masked(tx, lambda p: jax.tree.map(lambda _: True, p)),
        "wrapper": gdjax.cautious(tx),
        "metrics": gdjax.with_metrics(tx, norms=()),
    }


@pytest.mark.parametrize("name", wrapped(TX))
def test_reset_by_path_keeps_the_rest(name: str):
    tx = wrapped(gdjax.adam(0.1))[name]
    state = stepped(tx)
    new = gdjax.reset(tx, state, PARAMS, where="kernel")
    assert {path.partition("scale_by_adam/")[2] for path in changed(state, new)} == {
        "mu/dense/kernel",
        "nu/dense/kernel",
    }
    assert signature(new) == signature(state)
    start, found = fields(tx.init(PARAMS)), fields(new)
    for path in changed(state, new):
        assert_equal(found[path], start[path])


def test_reset_by_field_by_both_and_by_group():
    state = stepped(TX)
    ends = lambda **how: {x.removeprefix("scale_by_") for x in changed(state, gdjax.reset(TX, state, PARAMS, **how))}
    leaves = ("dense/kernel", "dense/bias", "scale")
    assert ends(fields="mu") == {f"adam/mu/{x}" for x in leaves}
    assert ends(fields="count") == {"adam/count", "schedule/count"}
    assert ends(fields="scale_by_schedule") == {"schedule/count"}
    assert ends(where=["bias", "scale"], fields=["nu", "scale_by_schedule"]) == {
        "adam/nu/dense/bias", "adam/nu/scale", "schedule/count",
    }  # fmt: skip
    assert ends(where=is_scalar) == {"adam/mu/scale", "adam/nu/scale"}
    groups = gdjax.partition({"a": gdjax.adam(0.1), "b": gdjax.adam(0.1)}, GROUPS)
    state = stepped(groups)
    new = gdjax.reset(groups, state, PARAMS, fields="b")
    assert_equal(new.inner_states["b"], groups.init(PARAMS).inner_states["b"])
    assert_equal(new.inner_states["a"], state.inner_states["a"])


def is_scalar(path: str, leaf: Any) -> bool:
    return leaf.ndim == 0


def test_reset_of_factors_one_array_optax_and_inside_jit():
    tx = gdjax.adafactor(0.1, min_dim_size_to_factor=2)
    state = stepped(tx)
    assert all("kernel" in x for x in changed(state, gdjax.reset(tx, state, PARAMS, where="kernel")))
    tx = gdjax.adam(0.1, mu_dtype=gdjax.bfloat16_with_error)  # two arrays for each
    state = stepped(tx)
    found = changed(state, gdjax.reset(tx, state, PARAMS, where="kernel", fields="mu"))
    assert len(found) == 2 and all(x.startswith("scale_by_adam/mu/dense/kernel/") for x in found)
    x, adam = jnp.ones(3), gdjax.adam(0.1)
    state = stepped(adam, x, x)
    assert changed(state, gdjax.reset(adam, state, x, where=".*")) == {"scale_by_adam/mu", "scale_by_adam/nu"}
    state = stepped(TX)
    jitted = jax.jit(lambda s: gdjax.reset(TX, s, PARAMS, where="scale"))
    assert_close(jitted(state), gdjax.reset(TX, state, PARAMS, where="scale"))
    z = gdjax.contrib.schedule_free_sgd(0.1)
    new = gdjax.reset(z, z.init(PARAMS), G, where="kernel")
    assert_equal(new.z["dense"], {"kernel": G["dense"]["kernel"], "bias": PARAMS["dense"]["bias"]})
    with relaxed():
        import optax

        theirs = optax.adam(0.1)
        state = stepped(theirs)
        new = gdjax.reset(theirs, state, PARAMS, fields="nu")
    assert type(new[0]) is optax.ScaleByAdamState and float(jnp.sum(new[0].nu["scale"])) == 0 != float(
        new[0].mu["scale"]
    )


def test_wrong_resets_are_errors():
    state = stepped(TX)
    for how, message in (
        ({}, "give where or fields"),
        ({"fields": "momentum"}, "nothing in the state is called 'momentum', but .*'mu'"),
    ):
        with pytest.raises(ValueError, match=f"^gdjax.reset: {message}"):
            gdjax.reset(TX, state, PARAMS, **how)
    with pytest.raises(ValueError, match="^gdjax.mask_by_path: 'decoder' matches none of"):
        gdjax.reset(TX, state, PARAMS, where="decoder")
    with pytest.raises(
        ValueError, match="^gdjax.reset: the state is not one of trace.*only one of the two has scale_by"
    ):
        gdjax.reset(gdjax.trace(0.9), state, PARAMS, where="scale")
    flat = gdjax.flatten(gdjax.adam(0.1))
    with pytest.raises(ValueError, match="^gdjax.reset: the state keeps nothing of that"):
        gdjax.reset(flat, flat.init(PARAMS), PARAMS, where="scale")
