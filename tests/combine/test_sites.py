"""The parts that an update goes through, and which leaves reach each."""

from typing import Any

import jax.numpy as jnp

import gdjax
from gdjax.combine.sites import FROZEN, WRAPPER, sites

PARAMS = {"a": jnp.ones((2, 2)), "b": jnp.ones(2)}


def seen(tx: Any) -> list[tuple[str, str]]:
    return [(site.name, " ".join(sorted(site.paths or ()))) for site in sites(tx, PARAMS)]


def test_a_chain_in_its_order():
    tx = gdjax.chain(gdjax.clip(1.0), gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(2.0)))
    assert seen(tx) == [("clip", "a b"), ("scale_by_adam", "a b"), ("scale", "a b")]
    places = [site.place for site in sites(tx)]
    assert len(set(places)) == 3 and places == sorted(places)


def test_groups_and_masks_hide_leaves():
    tx = gdjax.partition({"x": gdjax.scale_by_sign(), "y": gdjax.set_to_zero()}, {"a": "x", "b": "y"})
    assert [paths for _, paths in seen(tx)] == ["a", "b"]
    sign, zero = sites(tx, PARAMS)
    assert sign.groups != zero.groups and zero.growth == FROZEN and sign.rule is not None
    masked = gdjax.chain(gdjax.add_decayed_weights(0.1, mask={"a": True, "b": False}), gdjax.scale(1.0))
    assert seen(masked) == [("add_decayed_weights", "a"), ("scale", "a b")]
    assert next(iter(sites(masked))).paths is None  # without a tree


def test_the_rule_of_a_wrapper_comes_last():
    rule, wrapper = sites(gdjax.spectral(gdjax.scale_by_sign(), 0.1), PARAMS)
    assert wrapper.wraps and wrapper.place == (*rule.place[:-1], WRAPPER) and not rule.wraps


def test_what_is_written_by_hand_is_one_part():
    tx = gdjax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    (site,) = sites(tx, PARAMS)
    assert site.rule is None and site.growth is None
