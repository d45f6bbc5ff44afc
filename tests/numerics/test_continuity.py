"""A disturbance of the gradients by rounding moves the updates of a matrix method by rounding, also of oblong matrices.

The first gradient of such a matrix says nothing of some directions, and a basis of these must not come from rounding.
The rate is 1 throughout, so bounds are in parts of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gdjax
from tests.oracles import precision
from tests.support import slow

SHAPES = {"tall": (16, 8), "wide": (8, 24), "square": (8, 8)}
STEPS = 10
FAMILY = {
    "soap": gdjax.scale_by_soap,
    "kl_soap": gdjax.scale_by_kl_soap,
    "kl_shampoo": gdjax.scale_by_kl_shampoo,
    "soap_muon": gdjax.scale_by_soap_muon,
    "shampoo": gdjax.scale_by_shampoo,
}
# In turns, all at once, and what else makes a basis.
FORMS = {
    **{name: lambda k, f=f: f(precondition_frequency=k) for name, f in FAMILY.items()},
    "soap/eigh": lambda k: gdjax.scale_by_soap(precondition_frequency=k, refresh="eigh"),
    "shampoo/qr": lambda k: gdjax.scale_by_shampoo(precondition_frequency=k, root_method="qr"),
    "psgd_kron": lambda k: gdjax.scale_by_psgd_kron(preconditioner_update_probability=1 / k),
    "galore": lambda k: gdjax.scale_by_galore(4, update_proj_gap=k),
}
AT_ONCE = {f"{name}/at once": lambda k, f=f: f(precondition_frequency=lambda t: k) for name, f in FAMILY.items()}
OTHERS = {
    "muon": lambda k: gdjax.scale_by_muon(),
    "muon/power": lambda k: gdjax.scale_by_muon(power=0.25),
    "muown": lambda k: of_parameters(gdjax.muown(1.0)),
    "normuon": lambda k: gdjax.scale_by_normuon(),
    "scion": lambda k: gdjax.scale_by_scion(),
    "dion": lambda k: gdjax.scale_by_dion(rank_fraction=0.5),
    "dion2": lambda k: gdjax.scale_by_dion2(),
}


def of_parameters(tx: Any) -> Any:
    """A method that reads the parameters, at fixed ones."""
    rng = np.random.default_rng(2)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return gdjax.GradientTransformation(
        lambda _: tx.init(params), lambda g, s, p=None: tx.update(g, s, jax.tree.map(jnp.asarray, params))
    )


def gradients(kind: str = "plain") -> list[dict[str, np.ndarray]]:
    """Normal numbers; of rank 2; with rows that are twice there; or with rows of zeros."""
    rng, found = np.random.default_rng(0), []
    for _ in range(STEPS):
        tree = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
        for name, (m, n) in SHAPES.items():
            if kind == "rank 2":
                tree[name] = rng.normal(size=(m, 2)) @ rng.normal(size=(2, n))
            elif kind == "equal rows":
                tree[name][[1, 3]] = tree[name][[0, 2]]
            elif kind == "rows of zeros":
                tree[name][: m // 4] = 0
        found.append(tree)
    return found


def updates(tx: Any, trees: list[Any], put: Any = jnp.asarray) -> list[dict[str, np.ndarray]]:
    trees = [jax.tree.map(put, tree) for tree in trees]
    state, step, found = tx.init(jax.tree.map(jnp.zeros_like, trees[0])), jax.jit(tx.update), []
    for tree in trees:
        u, state = step(tree, state)
        found.append(jax.tree.map(np.asarray, u))
    return found


def most(xs: Any, ys: Any) -> float:
    """The largest difference of a number."""
    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(xs), jax.tree.leaves(ys), strict=True))


def moved(tx: Any, kind: str = "plain", by: float = 1e-15) -> float:
    with precision("float64"):
        trees, rng = gradients(kind), np.random.default_rng(1)
        disturbed = [{name: g * (1 + by * rng.normal(size=g.shape)) for name, g in tree.items()} for tree in trees]
        return most(updates(tx, trees), updates(tx, disturbed))


# What makes a basis is the same in KL-SOAP and SOAP with Muon as in SOAP; in each step this is SOAP.
RARE = {(name, 1) for name in FORMS if name not in ("soap", "soap/eigh")} | {("kl_soap", 10), ("soap_muon", 10)}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "every"),
    [pytest.param(name, k, marks=[pytest.mark.slow] * ((name, k) in RARE)) for name in FORMS for k in (1, 10)],
)
def test_rounding_moves_updates_by_rounding(name: str, every: int):
    assert moved(FORMS[name](every)) <= 1e-7


@pytest.mark.full
@pytest.mark.parametrize("name", OTHERS)
def test_that_of_methods_without_turns(name: str):
    assert moved(OTHERS[name](1)) <= 1e-7


# With eps = 1e-8 Adam divides what is beside zeros by 1e-8: 1e-15 counts 1e-7 times its length. Power steps of
# Shampoo's factors lose the order of equal rows in time.
LESS = {("equal rows", "shampoo/qr"): 1e-2}


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("name", [*FORMS, *AT_ONCE])
@pytest.mark.parametrize("kind", ["plain", "rank 2", "equal rows", "rows of zeros"])
def test_that_of_odd_gradients(kind: str, name: str, every: int):
    # GaLore would take four vectors of a gradient of rank two, of which two come from rounding.
    tx = gdjax.scale_by_galore(2, update_proj_gap=every) if name == "galore" else (FORMS | AT_ONCE)[name](every)
    assert moved(tx, kind) <= (1e-7 if kind == "plain" else LESS.get((kind, name), 5e-6))


WIDTH, RATE = 16, 1e-2


def of_a_model(tx: Any, active: Any, by: float = 0.0) -> Any:
    """The parameters of three layers after ten steps on one batch of 16, whose gradients are disturbed by so much.

    The second gradient is the first, so in its bases it is diagonal, and all else there is rounding.
    """

    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5) for _ in range(3)]
    x = jnp.asarray(rng.normal(size=(WIDTH, WIDTH)))

    def loss(params: Any) -> Any:
        found = x
        for kernel in params:
            found = active(found @ kernel)
        return jnp.mean((found - jnp.sin(3 * x)) ** 2)

    @jax.jit
    def step(params: Any, state: Any, key: Any) -> Any:
        grads, keys = jax.grad(loss)(params), jax.random.split(key, len(params))
        grads = [g * (1 + by * jax.random.normal(k, g.shape)) for g, k in zip(grads, keys, strict=True)]
        updates, state = tx.update(grads, state, params)
        return [p - RATE * u for p, u in zip(params, updates, strict=True)], state

    state = tx.init(params)
    for key in jax.random.split(jax.random.key(1), STEPS):
        params, state = step(params, state, key)
    return params


@pytest.mark.full
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("active", [jnp.tanh, *slow([jax.nn.relu, lambda x: x])])
@pytest.mark.parametrize("name", ["soap", *slow(["kl_soap", "kl_shampoo", "soap_muon", "shampoo"])])
def test_that_of_a_model(name: str, active: Any, every: int):
    with precision("float64"):
        tx = FAMILY[name](precondition_frequency=every)
        assert most(of_a_model(tx, active), of_a_model(tx, active, 1e-15)) <= 1e-7 * RATE


@pytest.mark.full
@pytest.mark.parametrize("every", [10, *slow([1])])
@pytest.mark.parametrize("kind", ["rank 2", *slow(["rows of zeros"])])
@pytest.mark.parametrize("name", ["soap", *slow(["kl_soap"])])
def test_that_of_one_gradient_in_float32(name: str, kind: str, every: int):
    """Adam would divide rounding by its own length: then these differ by 2 to 9 rates."""
    trees, rng = gradients(kind)[:1] * STEPS, np.random.default_rng(1)
    disturbed = [{name: g * (1 + 1e-7 * rng.normal(size=g.shape)) for name, g in tree.items()} for tree in trees]
    tx = FAMILY[name](precondition_frequency=every)
    assert most(*(updates(tx, jax.tree.map(np.float32, xs)) for xs in (trees, disturbed))) <= 0.02


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 3])
def test_a_turn_makes_no_long_update(seed: int):
    """m turns into a column of zeros from weak columns, but v does not: updates were up to 50 times the rate."""
    rng, n = np.random.default_rng(seed), 16
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    scales = 10 ** -np.linspace(0, 3, n)
    grads = [(left * scales) @ rng.normal(size=(n, n)) * scales @ right for _ in range(12)]
    for g in grads:
        g[:, 3] = 0
    found = updates(gdjax.scale_by_soap(), [{"w": g.astype("float32")} for g in grads])
    assert max(np.max(np.abs(u["w"])) for u in found) <= 3


def divided(spec: P) -> Any:
    mesh = Mesh(np.asarray(jax.devices()), ("d",))
    return lambda x: jax.device_put(jnp.asarray(x), NamedSharding(mesh, spec))


@pytest.mark.programs
@pytest.mark.parametrize("every", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", [P("d"), pytest.param(P(None, "d"), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("soap", "shampoo") else [pytest.mark.slow]) for n in FAMILY]
)
def test_eight_devices_do_what_one_does(name: str, spec: P, every: int):
    # Shampoo divides by the rounding of a first factor, which is singular, unless eps is above it.
    tx = gdjax.scale_by_shampoo(eps=0.1, precondition_frequency=every) if name == "shampoo" else FORMS[name](every)
    trees = jax.tree.map(np.float32, gradients())
    assert most(updates(tx, trees), updates(tx, trees, divided(spec))) <= 1e-3
