"""Hand-written steps of matrix methods, for trees of float32 matrices, (inputs, outputs), whose "qkv" is q, k and v.

Matrices of one shape are one stack, (number, rows, columns), in which tall ones lie transposed; so is the state of the
methods with Kronecker factors. Factors, their bases and their roots have the precision of float32, other products
that of the device.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from hand import leaf
from hand.leaf import correction, mean
from hand.whole import Step

RATE, EPS, EVERY = 1e-3, 1e-8, 10
exact = functools.partial(jnp.matmul, precision="highest")


def stacks(tree: Any, most: int = 1 << 30, apart: bool = True) -> dict[Any, Any]:
    """The matrices of a tree, cut into equal blocks with sides of at most `most`, as stacks by their shape.

    It only moves numbers, so its transpose is its inverse: `trees_of`.
    """
    found: dict[Any, list[Any]] = {}
    for path, x in jax.tree.leaves_with_path(tree):
        parts = _parts(path) if apart else 1
        (m, n), over = x.shape, lambda n: -(-n // most)
        a, b = over(m), parts * over(n // parts)
        x = x.reshape(a, m // a, b, n // b).swapaxes(1, 2).reshape(a * b, m // a, n // b)
        x = x if x.shape[1] <= x.shape[2] else x.mT
        found.setdefault(x.shape[1:], []).append(x)
    return {shape: jnp.concatenate(xs) for shape, xs in found.items()}


def tree_of(found: Any, like: Any, **how: Any) -> Any:
    """The tree shaped like `like` whose `stacks` these are."""
    return jax.linear_transpose(functools.partial(stacks, **how), like)(found)[0]


def _parts(path: Any) -> int:
    return 3 if "qkv" in jax.tree_util.keystr(path) else 1


def newton_schulz(x: Any) -> Any:
    """Five steps from each wide matrix over its norm towards its polar factor."""
    x = x * (1 / (jnp.sqrt(jnp.sum(x * x, (-2, -1), keepdims=True)) + EPS))
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x


def muon() -> Step:
    """Jordan's Muon, with bias correction and Nesterov's momentum; q, k and v are one matrix.

    The momentum is kept like the parameters. Only what Newton-Schulz gets is stacked.
    """

    def init(params: Any) -> Any:
        return jnp.int32(0), jax.tree.map(jnp.zeros_like, params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        count, mu = state
        t = (count + 1).astype(jnp.float32)
        old, new = 0.95 * correction(0.95, t + 1), 0.05 * correction(0.95, t)
        mu = jax.tree.map(lambda m, g: mean(m, g, 0.95), mu, grads)
        x = stacks(jax.tree.map(lambda m, g: old * m + new * g, mu, grads), apart=False)
        x = tree_of({shape: newton_schulz(y) for shape, y in x.items()}, params, apart=False)
        scale = lambda p: RATE * max(1, p.shape[1] / p.shape[0]) ** 0.5
        return jax.tree.map(lambda p, x: p - scale(p) * x, params, x), (count + 1, mu)

    return init, step


def normuon() -> Step:
    """NorMuon with Muon's coefficients: polar factors with each output over its root mean square, then of one size.

    Momentum and the mean square of each output are kept like the parameters.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda p: jnp.zeros((1, p.shape[1])), params)

    def leaf(path: Any, p: Any, x: Any, v: Any) -> Any:
        v = mean(v, jnp.mean(x * x, 0, keepdims=True), 0.95)
        u = (x / (jnp.sqrt(v) + EPS)).reshape(len(x), _parts(path), -1)
        norm = jnp.sqrt(jnp.sum(u * u, (0, 2), keepdims=True))
        u = (0.2 * (u.size / _parts(path)) ** 0.5 / norm * u).reshape(p.shape)
        return p - RATE * u, v

    def step(params: Any, state: Any, grads: Any) -> Any:
        mu, v = state
        mu = jax.tree.map(lambda m, g: mean(m, g, 0.95), mu, grads)
        x = stacks(jax.tree.map(lambda m, g: mean(m, g, 0.95), mu, grads))
        x = tree_of({shape: newton_schulz(y) for shape, y in x.items()}, params)
        out = jax.tree.map_with_path(leaf, params, x, v)
        params, v = jax.tree.transpose(jax.tree.structure(params), None, out)
        return params, (mu, v)

    return init, step


def soap() -> Step:
    """SOAP, whose bases are all made anew in one step of ten: by eigh in the first, later by a power step and QR.

    Vectors are put in the order of their eigenvalues before a power step. The first step only makes factors and bases.
    """

    def init(params: Any) -> Any:
        def start(x: Any) -> dict[str, Any]:
            number, m, n = x.shape
            square = lambda n: jnp.zeros((number, n, n))
            one = lambda n: jnp.broadcast_to(jnp.eye(n), (number, n, n))
            return {
                "m": jnp.zeros_like(x),
                "v": jnp.zeros_like(x),
                "L": square(m),
                "R": square(n),
                "P": one(m),
                "Q": one(n),
            }

        return jnp.int32(0), jax.tree.map(start, stacks(params))

    def vectors(s: Any) -> Any:
        of = lambda a: jnp.linalg.eigh(a)[1][..., ::-1]
        return s | {"P": of(s["L"]), "Q": of(s["R"])}

    def power_step(a: Any, q: Any) -> Any:
        x = exact(a, q)
        order = jnp.argsort(-jnp.sum(q * x, -2), -1)
        q, r = jnp.linalg.qr(jnp.take_along_axis(x, order[:, None], -1))
        return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None], order

    def turned(s: Any) -> Any:
        (P, rows), (Q, columns) = power_step(s["L"], s["P"]), power_step(s["R"], s["Q"])
        v = jnp.take_along_axis(jnp.take_along_axis(s["v"], rows[..., None], -2), columns[:, None], -1)
        return s | {"m": P.mT @ (s["P"] @ s["m"] @ s["Q"].mT) @ Q, "v": v, "P": P, "Q": Q}

    def direction(s: Any, g: Any, t: Any) -> Any:
        x = (s["P"].mT @ g @ s["Q"]) * (t > 1)
        t = jnp.maximum(t - 1, 1)
        m, v = mean(s["m"], x, 0.95), mean(s["v"], x * x, 0.95)
        u = correction(0.95, t) * m / (jnp.sqrt(correction(0.95, t) * v) + EPS)
        factors = {"L": mean(s["L"], exact(g, g.mT), 0.95), "R": mean(s["R"], exact(g.mT, g), 0.95)}
        return s["P"] @ u @ s["Q"].mT, s | {"m": m, "v": v} | factors

    def step(params: Any, state: Any, grads: Any) -> Any:
        count, slots = state
        t = (count + 1).astype(jnp.float32)
        out = {shape: direction(slots[shape], g, t) for shape, g in stacks(grads).items()}
        u = tree_of({shape: u for shape, (u, _) in out.items()}, params)
        slots = {shape: s for shape, (_, s) in out.items()}
        each = lambda f: lambda slots: {shape: f(s) for shape, s in slots.items()}
        which = jnp.where(count % EVERY == 0, jnp.where(count == 0, 1, 2), 0)
        slots = jax.lax.switch(which, [lambda slots: slots, each(vectors), each(turned)], slots)
        return jax.tree.map(lambda p, u: p - RATE * u, params, u), (count + 1, slots)

    return init, step


def shampoo(most: int = 512) -> Step:
    """Shampoo in blocks: momentum times fourth roots of the inverse factors, with the length of the momentum.

    All roots are made anew by eigh in the first step and in every tenth.
    """
    how = {"most": most}

    def init(params: Any) -> Any:
        def start(x: Any) -> dict[str, Any]:
            square = lambda n: jnp.zeros((len(x), n, n))
            m, n = x.shape[1:]
            return {"m": jnp.zeros_like(x), "L": square(m), "R": square(n), "P": square(m), "Q": square(n)}

        return jnp.int32(0), jax.tree.map(start, stacks(params, **how))

    def root(a: Any) -> Any:
        values, vectors = jnp.linalg.eigh(a)
        values = jnp.maximum(values, 0)
        values = values + 1e-7 * values[:, -1:] + 1e-12
        return exact(vectors * (values**-0.25)[:, None], vectors.mT)

    def step(params: Any, state: Any, grads: Any) -> Any:
        count, slots = state
        t = (count + 1).astype(jnp.float32)

        def averages(s: Any, g: Any) -> Any:
            L, R = mean(s["L"], exact(g, g.mT), 0.999), mean(s["R"], exact(g.mT, g), 0.999)
            return s | {"m": mean(s["m"], g, 0.9), "L": L, "R": R}

        def roots(slots: Any) -> Any:
            of = lambda a: root(a * correction(0.999, t))
            return {shape: s | {"P": of(s["L"]), "Q": of(s["R"])} for shape, s in slots.items()}

        def direction(s: Any) -> Any:
            m = correction(0.9, t) * s["m"]
            u, norm = s["P"] @ m @ s["Q"], lambda x: jnp.sqrt(jnp.sum(x * x, (-2, -1), keepdims=True))
            return u * (norm(m) / norm(u))

        slots = {shape: averages(slots[shape], g) for shape, g in stacks(grads, **how).items()}
        due = (count == 0) | ((count + 1) % EVERY == 0)
        slots = jax.lax.cond(due, roots, lambda slots: slots, slots)
        u = tree_of({shape: direction(s) for shape, s in slots.items()}, params, **how)
        return jax.tree.map(lambda p, u: p - RATE * u, params, u), (count + 1, slots)

    return init, step


def beside_adamw(hidden: Step) -> Step:
    """A method for the hidden matrices of GPT-2, AdamW for all other leaves."""
    methods = hidden, leaf.step_of(leaf.HAND["adamw"])

    def parts(tree: Any) -> list[dict[str, Any]]:
        flat = {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(tree)}
        return [{k: x for k, x in flat.items() if (x.ndim == 2 and "['h" in k) == own} for own in (True, False)]

    def init(params: Any) -> Any:
        return [init(p) for (init, _), p in zip(methods, parts(params), strict=True)]

    def step(params: Any, state: Any, grads: Any) -> Any:
        each = zip(methods, parts(params), state, parts(grads), strict=True)
        (own, first), (others, second) = [step(p, s, g) for (_, step), p, s, g in each]
        new = own | others
        return jax.tree.map_with_path(lambda path, _: new[jax.tree_util.keystr(path)], params), [first, second]

    return init, step


STEPS = {"muon": muon, "normuon": normuon, "soap": soap, "shampoo": shampoo}
