"""Groups of leaves, each with its transform."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.combine.groups import Slip
from tests.combine.test_masking import GRADIENTS, PARAMS, only
from tests.declare import by_rank
from tests.support import relaxed
from tests.trees import assert_close, assert_equal, signature, steps


@pytest.mark.parametrize(
    "labels", [by_rank, {"w": "matrix", "b": "vector"}, gdjax.label_by_path({"w": "matrix", ".*": "vector"})]
)
def test_partition_is_each_group_by_itself(labels: Any):
    clip = gdjax.clip_by_global_norm(0.1, groups={".*": "its own"})
    groups = {"matrix": gdjax.chain(clip, gdjax.adam(0.1)), "vector": gdjax.sgd(0.5, 0.9)}
    got, state = steps(gdjax.partition(groups, labels), PARAMS, GRADIENTS)
    for key, name in (("w", "matrix"), ("b", "vector")):
        alone = steps(groups[name], only(key, PARAMS), [only(key, g) for g in GRADIENTS])
        assert_close(only(key, got), alone[0])
    assert set(state.inner_states) == {"matrix", "vector"}
    assert gdjax.multi_transform is gdjax.partition


def test_a_group_may_be_empty():
    groups = {"used": gdjax.adam(0.1), "unused": gdjax.adam(0.2)}
    label = lambda tree: jax.tree.map(lambda x: "used", tree)
    by_function = steps(gdjax.partition(groups, label), PARAMS, GRADIENTS)[0]  # it may serve many models
    with pytest.warns(UserWarning, match=r"^gdjax.partition: no leaf has the label 'unused'; used are \['used'\]"):
        by_tree = steps(gdjax.partition(groups, label(PARAMS)), PARAMS, GRADIENTS)[0]
    for found in (by_function, by_tree):
        assert_close(found, steps(gdjax.adam(0.1), PARAMS, GRADIENTS)[0])


class Group(enum.Enum):
    MATRIX = 0
    VECTOR = 1


@pytest.mark.parametrize(("matrix", "vector"), [(1, "vector"), (Group.MATRIX, Group.VECTOR), (True, "no"), (1, 2.5)])
def test_labels_need_not_compare(matrix: Any, vector: Any):
    # As keys of a plain dict in the state they would stop JAX, which sorts them.
    groups = {matrix: gdjax.adam(0.1), vector: gdjax.sgd(0.5, 0.9)}
    tx = gdjax.partition(groups, {"w": matrix, "b": vector})
    named = gdjax.partition({"m": groups[matrix], "v": groups[vector]}, {"w": "m", "b": "v"})
    got, state = steps(tx, PARAMS, GRADIENTS)
    assert_close(got, steps(named, PARAMS, GRADIENTS)[0])
    assert signature(state) == signature(tx.init(PARAMS)) and set(state.inner_states) == {matrix, vector}
    assert float(gdjax.get_hyperparams(tx, state)[f"{vector}/learning_rate"]) == 0.5
    # Optax, which can do no more than this, does it outside jit; its state goes on here.
    with relaxed():
        theirs = optax.partition({matrix: optax.adam(0.1), vector: optax.sgd(0.5, 0.9)}, {"w": matrix, "b": vector})
        u, _ = theirs.update(GRADIENTS[0], theirs.init(PARAMS), PARAMS)
    assert_close(u, tx.update(GRADIENTS[0], tx.init(PARAMS), PARAMS)[0])


def test_labels_that_are_none():
    with pytest.raises(TypeError, match="^gdjax.partition: param_labels is None, not a tree of labels"):
        gdjax.partition({"a": gdjax.sgd(0.1)}, None)
    for tree in ({"w": "a", "b": None}, lambda tree: {"w": "a", "b": None}):
        with pytest.raises(ValueError, match=r"only the tree has \['b'\]; None at \['b'\] is no entry"):
            gdjax.partition({"a": gdjax.sgd(0.1)}, tree).init(PARAMS)
    with pytest.raises(ValueError, match=r"only the tree has \['b'\]; None at \['b'\] is no entry"):
        gdjax.masked(gdjax.adam(0.1), {"w": True, "b": None}).init(PARAMS)
    with pytest.raises(ValueError, match=r"the mask is not .* only the tree has \['b', 'w'\]; give each an entry"):
        gdjax.masked(gdjax.adam(0.1), lambda tree: {}).init(PARAMS)


def test_frozen_leaves_stay_and_keep_no_state():
    freeze_b = {"w": False, "b": True}
    groups = {"train": gdjax.adam(0.1), "frozen": gdjax.set_to_zero()}
    for tx in (
        gdjax.selective_transform(gdjax.adam(0.1), freeze_mask=freeze_b),
        gdjax.partition(groups, {"w": "train", "b": "frozen"}),
    ):
        got, state = steps(tx, PARAMS, GRADIENTS)
        assert_equal(got["b"], PARAMS["b"])
        assert_close(only("w", got), steps(gdjax.adam(0.1), only("w", PARAMS), [only("w", g) for g in GRADIENTS])[0])
        assert {x.shape for x in jax.tree.leaves(state)} == {(), PARAMS["w"].shape}


def test_frozen_noise():
    # Whatever the gradients of frozen leaves are, they get no part in what happens to the others.
    bad = {"w": GRADIENTS[0]["w"], "b": jnp.full_like(PARAMS["b"], jnp.nan)}
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1))
    tx = gdjax.selective_transform(inner, freeze_mask=gdjax.mask_by_path("^b$"))
    got, _ = steps(tx, PARAMS, [bad])
    assert_equal(got["b"], PARAMS["b"])
    assert np.isfinite(got["w"]).all()


CLIPPED = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.sgd(0.1))


def test_groups_that_are_clipped_apart_are_a_warning():
    tx = gdjax.partition({"a": CLIPPED, "b": gdjax.sgd(0.1)}, {"w": "a", "b": "b"})
    with pytest.warns(
        UserWarning, match="^gdjax.partition: clip_by_global_norm in the group 'a': it takes the norm of"
    ):
        tx.init(PARAMS)
    # Not where no other group is trained, nor where the clip is all that is done.
    gdjax.partition({"a": CLIPPED, "b": gdjax.set_to_zero()}, {"w": "a", "b": "b"}).init(PARAMS)
    alone = {"a": gdjax.clip_by_global_norm(1.0), "b": gdjax.sgd(0.1)}
    gdjax.partition(alone, {"w": "a", "b": "b"}).init(PARAMS)


def test_the_sentence_of_a_slip_names_its_leaves():
    slip = Slip({0: "a", 2: "b"}, "look at: {}", "do", "init")
    assert (slip.text({0, 1, 2}), slip.text({2}), slip.text({1})) == ("look at: a, b", "look at: b", "")
