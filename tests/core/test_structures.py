"""Trees that do not fit: one short error names both sides and the likely slip."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.core import structures

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "out": jnp.ones(2)}
MANY = {f"layer{i}": jnp.ones(2) for i in range(200)}
STATELESS = {"sgd": gdjax.sgd(0.1), "add_decayed_weights": gdjax.add_decayed_weights(0.1)}
OTHERS = {
    "adam": gdjax.adam(0.1),
    "muon": gdjax.muon(0.1),
    "soap": gdjax.soap(0.1),
    "MultiSteps": gdjax.MultiSteps(gdjax.adam(0.1), 2),
    "partition": gdjax.partition({"a": gdjax.sgd(0.1), "b": gdjax.adam(0.1)}, lambda _: {"dense": "a", "out": "b"}),
    "clip_by_global_norm": gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.scale_by_adam()),
    "scale_by_lbfgs": gdjax.lbfgs(),
}
ALL = STATELESS | OTHERS


def loss(p: Any) -> Any:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(p))


GRADS = jax.grad(loss)(PARAMS)


def both(a: str, b: str) -> str:
    """The two sides, in either order."""
    return f"({a}, but {b}|{b}, but {a})"


SLIPS = {
    "loss": (lambda: loss(PARAMS), PARAMS, both("updates is a scalar", "params is a dict of 2 entries")
             + r": is it the loss\? Pass its gradient, jax.grad\(loss\)\(params\)"),
    "value_and_grad": (lambda: jax.value_and_grad(loss)(PARAMS), PARAMS,
                       both("updates is a tuple of 2 entries", "params is a dict of 2 entries")
                       + r": jax.value_and_grad returns a pair, \(value, gradient\): pass the second"),
    "update": (lambda: gdjax.sgd(0.1).update(GRADS, gdjax.sgd(0.1).init(PARAMS), PARAMS), PARAMS,
               both("updates is a tuple of 2 entries", "params is a dict of 2 entries")
               + r": tx.update returns a pair, \(updates, state\): pass the first"),
    "aux": (lambda: jax.grad(lambda p: (loss(p), 1.0), has_aux=True)(PARAMS), PARAMS,
            both("updates is a tuple of 2 entries", "params is a dict of 2 entries") 
            + ": it is a pair of which the first fits: pass that alone"),
    "a leaf for a subtree": (lambda: {**GRADS, "dense": jnp.ones(2)}, PARAMS,
                             both(r"updates\['dense'\] is an array of shape \(2,\)",
                                  r"params\['dense'\] is a dict of 2 entries")),
    "a subtree for a leaf": (lambda: {**GRADS, "out": {"a": jnp.ones(2)}}, PARAMS,
                             both(r"updates\['out'\] is a dict of 1 entry",
                                  r"params\['out'\] is an array of shape \(2,\)")),
    "a list of numbers": (lambda: GRADS, {**PARAMS, "out": [1.0, 2.0]},
                          both(r"updates\['out'\] is an array of shape \(2,\)",
                               r"params\['out'\] is a list of 2 entries")
                          + r": of a list of numbers make an array, jnp.asarray\(\.\.\.\)"),
}  # fmt: skip


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_updates_that_do_not_fit_the_parameters(name: str, jitted: bool):
    tx = ALL[name]
    state = tx.init(PARAMS)
    update = jax.jit(tx.update) if jitted else tx.update
    for wrong, params, message in SLIPS.values():
        with pytest.raises(ValueError, match=rf"^gdjax\.\w+: {message}(\n|$)") as e:
            update(wrong(), state, params)
        first = str(e.value).partition("\n")[0]
        assert len(first) < 250 and "Tracer" not in first


def test_without_parameters_the_state_tells():
    tx = gdjax.adam(0.1)
    slip = r"is it the loss\? Pass its gradient"
    with pytest.raises(ValueError, match=rf"^gdjax.adam: state.mu is a dict of 2 entries, but .* a scalar: {slip}"):
        tx.update(loss(PARAMS), tx.init(PARAMS))
    with pytest.raises(
        ValueError, match=r"^gdjax.adam: updates is a tuple .* but state.mu is a dict .*pass the second"
    ):
        tx.update(jax.value_and_grad(loss)(PARAMS), tx.init(PARAMS))


def test_large_trees_give_short_errors():
    tx = gdjax.adam(0.1)
    state, pair = tx.init(MANY), (jnp.ones(()), MANY)
    calls = [
        lambda: tx.update(pair, state, MANY),
        lambda: tx.update({"layer0": jnp.ones(2)}, state, MANY),
        lambda: tx.update(MANY, state, {**MANY, "layer7": {"a": jnp.ones(2)}}),
        lambda: tx.update(MANY, tx.init({"layer0": jnp.ones(2)}), MANY),
        lambda: gdjax.apply_updates(MANY, gdjax.sgd(0.1).update(MANY, gdjax.sgd(0.1).init(MANY), MANY)),
        lambda: gdjax.masked(tx, {"layer0": True}).init(MANY),
    ]
    for call in calls:
        with pytest.raises(ValueError) as e:
            call()
        assert len(str(e.value).partition("\n")[0]) < 300


def test_apply_updates():
    pair = gdjax.adam(0.1).update(GRADS, gdjax.adam(0.1).init(PARAMS), PARAMS)
    message = r"^gdjax.apply_updates: params is a dict of 2 entries, but updates is a tuple of 2 entries: tx.update ret"
    with pytest.raises(ValueError, match=message):
        gdjax.apply_updates(PARAMS, pair)
    with pytest.raises(ValueError, match=message):
        jax.jit(gdjax.apply_updates)(PARAMS, pair)
    two = [jnp.ones(2), jnp.ones(2)]
    for params, updates in ((two, jnp.ones((2, 2))), (jnp.ones((2, 2)), two)):
        with pytest.raises(ValueError, match=r"^gdjax.apply_updates: params is .*, but updates is "):
            gdjax.apply_updates(params, updates)


def test_one_array_is_no_list_of_arrays():
    params = [jnp.ones(2), jnp.ones(2)]
    for tx in (gdjax.sgd(0.1), gdjax.adam(0.1)):
        with pytest.raises(
            ValueError, match=r"^gdjax.\w+: updates is an array of shape \(2, 2\), but params is a list"
        ):
            tx.update(jnp.ones((2, 2)), tx.init(params), params)


def test_what_is_harmless_stays_accepted():
    class Box(NamedTuple):
        value: Any

    # Where there is no gradient anything may stand; a number is an array; a rule that reads no parameter takes any.
    tx = gdjax.adam(0.1)
    params = {"a": jnp.ones(2), "b": [1, 2], "f": Box(jnp.ones(1))}
    grads = {"a": jnp.ones(2), "b": None, "f": None}
    state = tx.init({"a": jnp.ones(2), "b": None, "f": None})
    updates, _ = tx.update(grads, state, params)
    assert updates["b"] is None
    updates, _ = gdjax.sgd(0.1).update({"a": 1.0}, gdjax.sgd(0.1).init({"a": 2.0}), {"a": 2.0})
    np.testing.assert_allclose(updates["a"], -0.1, rtol=1e-6)
    gdjax.scale(2.0).update(jnp.ones(2), gdjax.scale(2.0).init(None), [1.0, 2.0])
    gdjax.partition({"a": tx}, {"a": "a", "b": "a", "f": "a"}).update(
        grads, gdjax.partition({"a": tx}, {"a": "a", "b": "a", "f": "a"}).init(grads | {"a": jnp.ones(2)}), params
    )


def test_the_loss_for_the_gradient_of_one_array():
    p = jnp.ones(3)
    for tx in (gdjax.sgd(0.1), gdjax.adam(0.1), gdjax.lion(0.1)):
        with pytest.raises(ValueError, match=r"gradient shape \(\) does not match .* \(3,\): is it the loss\? Pass "):
            tx.update(jnp.sum(p), tx.init(p), p)
    with pytest.raises(ValueError, match=r"shape \(2,\) does not match parameter shape \(3,\)(\n|$)"):
        gdjax.adam(0.1).update(jnp.ones(2), gdjax.adam(0.1).init(p), p)


def test_the_state_of_another_optimizer():
    p, tx = jnp.ones(3), gdjax.scale_by_adam()
    told = r"of another optimizer\? Start with tx.init\(params\), or carry over what fits with gdjax.migrate"
    with pytest.raises(ValueError, match=rf"^gdjax.scale_by_adam: state has fields \('trace',\), expected .*; {told}"):
        tx.update(p, gdjax.trace(0.9).init(p), p)


def test_labels_by_path_that_do_not_cover():
    with pytest.raises(ValueError, match=r"no rule matches b; the rules are 'a'; end with \"\.\*\" for the rest$"):
        gdjax.label_by_path({"a": "x"})({"a": 1.0, "b": 1.0})


def test_masks_and_labels_that_are_no_prefix():
    sgd = gdjax.sgd(0.1)
    cases = [
        (lambda: gdjax.masked(sgd, {"w": True}).init([jnp.ones(2)]), "the mask is .*: only the mask has .*'w'.*'0'"),
        (lambda: gdjax.partition({"a": sgd}, ("a",)).init([jnp.ones(2)]),
         "the labels are not a prefix of the tree: the labels are a tuple of 1 entry, the tree is a list of 1 entry$"),
        (lambda: gdjax.partition({"a": sgd}, {"x": {"y": ("a",)}}).init({"x": {"y": [jnp.ones(2)]}}),
         r"the labels are .*: at \['x'\]\['y'\] the labels are a tuple of 1 entry, the tree is a list of 1 entry$"),
        (lambda: gdjax.partition({"a": sgd}, {"x": "a"}).init({"x": 1.0, "y": 2.0}),
         r"the labels are .*: only the tree has \['y'\]; give each an entry, or one to a branch of them$"),
        (lambda: gdjax.masked(sgd, {"x": True}).update(loss(PARAMS), gdjax.masked(sgd, True).init(PARAMS)),
         r"the mask is not .*: the mask is a dict of 1 entry, the tree is a scalar: is it the loss\?"),
    ]  # fmt: skip
    for call, message in cases:
        with pytest.raises(ValueError, match=rf"^gdjax\.\w+: {message}"):
            call()


def test_the_first_difference():
    one = {"a": [1.0, {"b": 2.0}], "c": None}
    assert structures.difference(one, one) is None
    assert structures.difference(one, {"a": [1.0, {"b": {}}], "c": None}) == ("['a'][1]['b']", 2.0, {})
    assert structures.difference(one, {"a": [1.0], "c": None}) == ("['a']", one["a"], [1.0])
    assert structures.difference(one, {**one, "c": 1.0}) == ("['c']", None, 1.0)
    assert structures.difference(one, {**one, "c": 1.0}, lambda x: x is None) is None


def test_lists_of_names():
    assert [structures.listed("abcdef"[:n]) for n in (0, 3, 4)] == ["", "a, b, c", "a, b, c, d"]
    assert (
        structures.listed("abcde") == "a, b, c, and 2 more" and structures.listed("abcde", "; ")[-12:] == "; and 2 more"
    )
    assert structures.few("abc") == "a, b, c" and structures.few("abc", 2) == "a, b and 1 more"
