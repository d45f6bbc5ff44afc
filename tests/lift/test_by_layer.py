"""Which values belong to single layers: what the trace says, against what a change of one layer changes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax.lift.by_layer import values_of
from gdjax.lift.layer_axes import Along, Common, Mixed, Rest
from tests.support import relaxed

N, ROWS, COLUMNS = 3, 2, 4
EYE = jnp.eye(N)


def newton(x: Any) -> Any:
    return jax.lax.fori_loop(0, 2, lambda i, y: y @ jnp.swapaxes(y, -1, -2) @ y, x)


ALONG: dict[str, tuple[Callable[[Any, Any], Any], int]] = {
    "by element": (lambda x, c: jnp.where(x > 0, jnp.sqrt(x * x + c), x - c) * 2, 0),
    "a sum of each": (lambda x, c: x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True), 0),
    "turned": (lambda x, c: jnp.moveaxis(x, 0, 2) + 1, 2),
    "reshaped": (lambda x, c: x.reshape(N, -1, 1)[:, :, 0], 0),
    "products of each": (lambda x, c: jnp.einsum("nij,nkj->nik", x, x), 0),
    "a product with all": (lambda x, c: jnp.ones((5, ROWS)) @ x, 0),
    "a product from the left": (lambda x, c: jnp.einsum("ai,nij->anj", jnp.ones((5, ROWS)), x), 1),
    "a loop of products": (lambda x, c: newton(x), 0),
    "a scan over the layers": (lambda x, c: jax.lax.map(lambda y: jnp.sort(y.ravel()).sum() * c, x), 0),
    "a scan within each": (lambda x, c: jax.lax.scan(lambda s, y: (s + y, s), x[:, 0] * 0, x.swapaxes(0, 1))[1], 1),
    "a condition on what all have": (lambda x, c: jax.lax.cond(c > 0, lambda: x * 2, lambda: jnp.zeros_like(x)), 0),
    "a while loop": (lambda x, c: jax.lax.while_loop(lambda s: s[0] < c, lambda s: (s[0] + 1, s[1] * 2), (c * 0, x))[1],
                     0),
    "sorted within": (lambda x, c: jnp.sort(x, axis=2), 0),
    "joined within": (lambda x, c: jnp.concatenate([x, x * 0, jnp.ones_like(x)], axis=1), 0),
    "cut within": (lambda x, c: jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1))), 0),
    "roots": (lambda x, c: jnp.linalg.eigh(jnp.einsum("nij,nkj->nik", x, x))[0], 0),
    "a function of its own derivative": (lambda x, c: jax.nn.relu(x) + jax.nn.silu(x), 0),
    "any": (lambda x, c: jnp.any(x > 0, axis=1), 0),
}  # fmt: skip
MIXED: dict[str, Callable[[Any, Any], Any]] = {
    "a sum of all": lambda x, c: x / jnp.sum(x),
    "the largest": lambda x, c: x - jnp.max(x, axis=0, keepdims=True),
    "the first for all": lambda x, c: x * x[:1],
    "reversed": lambda x, c: jnp.flip(x, 0),
    "running sums": lambda x, c: jnp.cumsum(x, axis=0),
    "sorted": lambda x, c: jnp.sort(x, axis=0),
    "a product over layers": lambda x, c: jnp.einsum("mn,nij->mij", EYE[::-1], x),
    "two layers": lambda x, c: jnp.einsum("nij,mkj->nmik", x, x),
    "by place": lambda x, c: x * (1 + jax.lax.broadcasted_iota(jnp.float32, x.shape, 0)),
    "other numbers by place": lambda x, c: x * jnp.arange(1.0, N + 1)[:, None, None],
    "a scan that carries": lambda x, c: jax.lax.scan(lambda s, y: (s + y, s), x[0] * 0, x)[1],
    "a loop until all end": lambda x, c: jax.lax.while_loop(lambda y: jnp.any(y < 4), lambda y: y + 1, x),
    "a condition on all": lambda x, c: jax.lax.cond(jnp.all(x > 0), lambda: x * 2, lambda: x * 3),
    "joined": lambda x, c: jnp.concatenate([x[1:], x[:1]]),
    "one axis of all": lambda x, c: x.reshape(-1)[::-1].reshape(x.shape),
    "random numbers by place": lambda x, c: x + jax.random.normal(jax.random.key(0), x.shape),
}


def found(f: Callable[..., Any]) -> Any:
    x, c = jnp.ones((N, ROWS, COLUMNS)), jnp.ones(())
    return values_of(jax.make_jaxpr(f)(x, c).jaxpr, [Along(0), Common()])[0]


@pytest.mark.parametrize("name", ALONG)
def test_layers_by_themselves(name: str):
    f, axis = ALONG[name]
    with relaxed():
        assert found(f) == Along(axis)
        x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (N, ROWS, COLUMNS)), jnp.float32)
        whole, c = f(x, jnp.float32(1)), jnp.float32(1)
        changed = f(x.at[1].add(0.25), c)
        same = [bool(jnp.all(a == b)) for a, b in zip(jnp.moveaxis(whole, axis, 0), jnp.moveaxis(changed, axis, 0),
                                                      strict=True)]  # fmt: skip
        assert [same[0], same[2]] == [True, True]
        turned = f(x[::-1], c)  # and by none of their places
        np.testing.assert_allclose(jnp.flip(turned, axis), whole, rtol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_layers_that_meet(name: str):
    with relaxed():
        assert isinstance(found(MIXED[name]), Mixed)


def test_the_rest():
    def kinds(f: Callable[..., Any]) -> Any:
        x = jnp.ones((N, ROWS))
        return values_of(jax.make_jaxpr(f)(x, x, jnp.ones(())).jaxpr, [Along(0), Rest(), Common()])[0]

    with relaxed():
        assert isinstance(kinds(lambda x, r, c: x + jnp.sum(r)), Mixed)
        assert kinds(lambda x, r, c: jnp.sum(r) * c) == Rest()
        assert kinds(lambda x, r, c: c + 1) == Common()
        assert kinds(lambda x, r, c: jnp.zeros_like(x) + c) == Common(frozenset({0, 1}))
