"""Code for one kind of device: a choice that is made is not made again, and no trace is taken for another device's."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from gdjax.core.meshes import branches, by_platform, jitted, may_be

X = jnp.arange(3.0)
MANY = {"cpu": lambda x: x + 1, "cuda": lambda x: x + 2}


def inner(x: jax.Array) -> jax.Array:
    return by_platform(x, **MANY, default=lambda x: x + 3)


def outer(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """By f in each branch: two traces for the CPU and a TPU, none of which has a condition."""
    return branches(x, cpu=functools.partial(f), tpu=functools.partial(f), default=lambda x: f(x) + 0)


def conditions(f: Callable[..., jax.Array]) -> int:
    return str(jax.make_jaxpr(f)(X)).count(" cond[")


@pytest.mark.parametrize("f", [inner, jitted(inner)])
def test_inside_of_a_branch_nothing_is_chosen_again(f: Callable[[jax.Array], jax.Array]):
    assert conditions(f) == 1
    # One that is outermost, and one in the branch for the devices that are not named, a GPU among them.
    assert conditions(functools.partial(outer, f)) == 2
    assert conditions(f) == 1  # what was traced in a branch is not taken for this
    assert jnp.array_equal(outer(f, X), X + 1)


@pytest.mark.parametrize(("platform", "more"), [("cpu", 1), ("cuda", 2), ("tpu", 3)])
def test_lowered_for_a_device_it_is_that_devices(platform: str, more: int):
    text = jax.jit(functools.partial(outer, jitted(inner))).trace(X).lower(lowering_platforms=(platform,)).as_text()
    constants = {n for n in (1, 2, 3) if f"dense<{n}.000000e+00>" in text}
    assert constants == {more}


def test_an_error_ends_the_branch():
    def fails(_: jax.Array) -> jax.Array:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        branches(X, cpu=fails, default=fails, tpu=inner)
    assert conditions(inner) == 1


def test_what_a_branch_may_run_on():
    seen: list[list[bool]] = []

    def note(x: jax.Array) -> jax.Array:
        seen.append([may_be(kind) for kind in ("cpu", "tpu", "other")])
        return x

    jax.make_jaxpr(lambda x: branches(x, cpu=functools.partial(note), default=functools.partial(note)))(X)
    assert sorted(seen) == [[False, True, True], [True, False, False]]
    assert may_be("cpu")
    assert may_be("tpu")
