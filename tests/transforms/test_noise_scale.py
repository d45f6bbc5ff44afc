"""The gradient noise scale of `accumulate`: the estimates of a window, their averages, and what they cost."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.xla.loops import writes_several
from tests.trees import precision, random_tree

P = jax.sharding.PartitionSpec
WEIGHTS = [3.0, 1.0, 0.0, 4.0]
SHAPES = {"w": (5, 3), "b": (4,), "one": ()}


def sq(tree: Any) -> float:
    return sum(float(np.sum(np.abs(np.asarray(x, np.complex128)) ** 2)) for x in jax.tree.leaves(tree))


def of_window(gradients: list[Any], weights: list[float]) -> tuple[float, float]:
    """|G|^2 and tr(Sigma) from the distances to the mean, in NumPy."""
    pairs = [
        (w, jax.tree.map(lambda x: np.asarray(x, np.complex128), g))
        for w, g in zip(weights, gradients, strict=True)
        if w
    ]
    total = sum(w for w, _ in pairs)
    mean = jax.tree.map(
        lambda *xs: sum(w * x for (w, _), x in zip(pairs, xs, strict=True)) / total, *(g for _, g in pairs)
    )
    spread = sum(w * sq(jax.tree.map(np.subtract, g, mean)) for w, g in pairs)
    noise = spread / (len(pairs) - 1)
    return sq(mean) - noise / total, noise


def averaged(values: list[float]) -> float:
    m = 0.0
    for x in values:
        m = 0.99 * m + 0.01 * x
    return m / (1 - 0.99 ** len(values))


def assert_measured(state: Any, windows: list[tuple[list[Any], list[float]]], rtol: float = 1e-4) -> None:
    square, noise = (averaged(list(xs)) for xs in zip(*(of_window(*window) for window in windows), strict=True))
    found = gdjax.metrics(state)
    np.testing.assert_allclose(found["grad_noise"], noise, rtol=rtol)
    np.testing.assert_allclose(found["grad_sq"], square, rtol=rtol, atol=rtol * noise)
    np.testing.assert_allclose(found["noise_scale"], noise / square if square > 0 else np.inf, rtol=rtol * 10)


@pytest.mark.full
@pytest.mark.parametrize("way", ["counted", "static", "traced"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_averages_are_those_of_the_windows(way: str, weighted: bool):
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1))
    plain = gdjax.accumulate(inner, 4, weight="tokens" if weighted else None)
    tx = gdjax.accumulate(inner, 4, weight="tokens" if weighted else None, noise_scale=True)
    params = random_tree(0, shapes=SHAPES)
    state, of_plain, windows = tx.init(params), plain.init(params), []
    assert set(map(float, gdjax.metrics(state).values())) == {0.0}

    def step(tx: Any, g: Any, state: Any, n: float, last: Any = None) -> Any:
        return tx.update(g, state, params, last=last, **({"tokens": n} if weighted else {}))

    call = jax.jit(step, static_argnames=("tx",) if way == "traced" else ("tx", "last"))
    for window in range(3):
        count = 4 if way == "counted" else 4 - window % 2
        gradients = [random_tree(10 * window + i + 1, shapes=SHAPES) for i in range(count)]
        weights = [WEIGHTS[(i + window) % 4] if weighted else 1.0 for i in range(count)]
        for i, (g, n) in enumerate(zip(gradients, weights, strict=True)):
            last = i == count - 1
            told = {"counted": [], "static": [last], "traced": [jnp.asarray(last)]}[way]
            updates, state = call(tx, g, state, n, *told)
            expected, of_plain = call(plain, g, of_plain, n, *told)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), updates, expected)
        windows.append((gradients, weights))
        assert_measured(state, windows)
    assert int(state.inner_state.count) == 3


def quadratic(sizes: list[int], seeds: int, weighted: bool = True) -> tuple[Any, dict[str, float]]:
    """The metrics of one window for each seed, and the exact |G|^2 and tr(Sigma) of f(p; x) = (p - x)' H (p - x) / 2.

    x is normal of mean 0 with the variances c: G = H p, Sigma = H diag(c) H.
    """
    h = jnp.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]])
    c, p = jnp.array([0.5, 2.0, 1.0]), jnp.array([0.3, -0.5, 0.8])
    tx = gdjax.accumulate(gdjax.sgd(0.0), len(sizes), weight="n" if weighted else None, noise_scale=True)

    def loss(p: Any, xs: Any) -> Any:
        d = p - xs
        return jnp.mean(jnp.einsum("bi,ij,bj->b", d, h, d)) / 2

    def window(key: Any) -> Any:
        state = tx.init(p)
        for i, size in enumerate(sizes):
            xs = jax.random.normal(jax.random.fold_in(key, i), (size, 3)) * jnp.sqrt(c)
            _, state = tx.update(
                jax.grad(loss)(p, xs), state, p, last=i == len(sizes) - 1, **({"n": size} if weighted else {})
            )
        return gdjax.metrics(state)

    with jax.numpy_rank_promotion("allow"):
        found = jax.jit(jax.vmap(window))(jax.random.split(jax.random.key(0), seeds))
    return found, {"grad_sq": float(jnp.sum((h @ p) ** 2)), "grad_noise": float(jnp.trace(h @ jnp.diag(c) @ h))}


@pytest.mark.full
@pytest.mark.parametrize(("sizes", "weighted"), [([3, 3, 3, 3], False), ([1, 2, 9, 4], True), ([1, 8], True)])
def test_the_estimates_of_a_quadratic_are_unbiased(sizes: list[int], weighted: bool):
    found, exact = quadratic(sizes, 40_000, weighted)
    if not weighted:  # the unit is one gradient, the mean over 3 examples
        exact["grad_noise"] /= sizes[0]
    n, total = len(sizes), float(sum(sizes) if weighted else len(sizes))
    # What wrong factors would give: n for n - 1; the norm of the mean for that of G.
    wrong = {"grad_noise": (n - 1) / n * exact["grad_noise"], "grad_sq": exact["grad_sq"] + exact["grad_noise"] / total}
    for name, value in exact.items():
        mean, error = float(np.mean(found[name])), float(np.std(found[name])) / 200
        assert abs(mean - value) < 4 * error, (name, mean, value, error)
        assert abs(wrong[name] - value) > 10 * error, (name, "no power")


def test_of_equal_weights_the_estimates_are_those_of_the_paper():
    """McCandlish et al., Appendix A.1, with B_small = 1 and B_big = 4."""
    gradients = [random_tree(i, shapes=SHAPES) for i in range(4)]
    small = np.mean([sq(g) for g in gradients])
    big = sq(jax.tree.map(lambda *xs: sum(xs) / 4, *gradients))
    found = of_window(gradients, [1.0] * 4)
    np.testing.assert_allclose(found, ((4 * big - small) / (4 - 1), (small - big) / (1 - 1 / 4)), rtol=1e-5)


@pytest.mark.full
def test_the_average_over_a_run_is_near_the_exact_scale():
    found, exact = quadratic([2] * 8, 2000)
    ratio = float(np.mean(found["grad_noise"]) / np.mean(found["grad_sq"]))
    np.testing.assert_allclose(ratio, exact["grad_noise"] / exact["grad_sq"], rtol=0.1)


def test_gradients_of_every_kind_count():
    params = {
        "half": jnp.ones((6, 2), jnp.bfloat16), "complex": jnp.ones(3, jnp.complex64), "i": jnp.arange(3), "n": None,
        "none": jnp.zeros((0, 2)),
    }  # fmt: skip
    tx, state = gdjax.accumulate(gdjax.sgd(0.1), 3, noise_scale=True), None
    state, gradients, counted = tx.init(params), [], []
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 3)
        g = {
            "half": (100 * jax.random.normal(keys[0], (6, 2))).astype(jnp.bfloat16),
            "complex": jax.lax.complex(jax.random.normal(keys[1], (3,)), jax.random.normal(keys[2], (3,))),
            "i": np.zeros(3, jax.dtypes.float0), "n": None, "none": jnp.zeros((0, 2)),
        }  # fmt: skip
        gradients.append(g)
        counted.append({"half": g["half"].astype(jnp.float32), "complex": g["complex"]})
    for g in gradients:
        _, state = tx.update(g, state, params)
    assert_measured(state, [(counted, [1.0] * 3)])


def test_in_double_precision_small_noise_is_not_lost():
    with precision("float64"):
        tx, state = gdjax.accumulate(gdjax.sgd(0.1), 2, noise_scale=True), None
        state = tx.init(jnp.ones(3))
        gradients = [1.0 + 1e-6 * jax.random.normal(jax.random.key(i), (3,)) for i in range(2)]
        for g in gradients:
            _, state = tx.update(g, state)
        assert_measured(state, [(gradients, [1.0] * 2)])


@pytest.mark.parametrize("last", [None, "static", "traced"])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e30])
def test_what_is_not_finite_spoils_one_window_and_no_other(bad: float, last: str | None):
    tx = gdjax.accumulate(gdjax.sgd(0.1), 2, noise_scale=True)
    state, told = tx.init(jnp.zeros(2)), {None: lambda x: None, "static": bool, "traced": jnp.asarray}[last]
    good = [jnp.array([1.0, 2.0]), jnp.array([2.0, 0.0])]
    for window in ([jnp.full(2, bad), good[0]], good):
        for i, g in enumerate(window):
            _, state = tx.update(g, state, last=told(i == 1))
    assert_measured(state, [(good, [1.0, 1.0])])
    assert state.inner_state.count == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_gradient_of_weight_0_counts_nothing_whatever_it_is(place: int):
    """A part that is all padding: 0 / 0."""
    tx = gdjax.accumulate(gdjax.sgd(0.1), 3, weight="n", noise_scale=True)
    state, gradients, weights = tx.init(jnp.zeros(2)), [jnp.array([1.0, 2.0]), jnp.array([2.0, 0.0])], [2.0, 6.0]
    gradients.insert(place, jnp.full(2, jnp.nan))
    weights.insert(place, 0.0)
    for g, n in zip(gradients, weights, strict=True):
        _, state = tx.update(g, state, n=n)
    assert_measured(state, [(gradients, weights)])


def test_a_window_of_one_gradient_is_not_measured():
    tx = gdjax.accumulate(gdjax.sgd(0.1), 2, weight="n", noise_scale=True)
    state = tx.init(jnp.zeros(2))
    for n, last in [(3, True), (3, False), (0, True), (0, False), (0, True)]:
        _, state = tx.update(jnp.ones(2), state, n=n, last=last)
    assert state.inner_state.count == 0


def test_a_gradient_below_the_noise_has_an_infinite_scale():
    tx = gdjax.accumulate(gdjax.sgd(0.1), 2, noise_scale=True)
    state = tx.init(jnp.zeros(1))
    for g in (-1.0, 1.0):
        _, state = tx.update(jnp.array([g]), state)
    found = gdjax.metrics(state)
    assert found["noise_scale"] == jnp.inf and found["grad_sq"] == -1 and found["grad_noise"] == 2


def test_scan_over_windows():
    tx = gdjax.accumulate(gdjax.adamw(0.1), 4, noise_scale=True)
    params, gs = random_tree(0, shapes=SHAPES), random_tree(1, shapes=SHAPES, lead=(12,))

    def body(state: Any, g: Any) -> Any:
        state = tx.update(g, state, params)[1]
        return state, gdjax.metrics(state)["noise_scale"]

    state, scales = jax.jit(lambda: jax.lax.scan(body, tx.init(params), gs))()
    gradients = [jax.tree.map(lambda x, i=i: x[i], gs) for i in range(12)]
    assert_measured(state, [(gradients[i : i + 4], [1.0] * 4) for i in (0, 4, 8)])
    assert (scales[:3] == 0).all() and scales[3] == scales[4] == scales[6] != scales[7]


def test_metrics_stand_beside_others_and_after_the_names_of_groups():
    g = {"w": jnp.array([2.0]), "x": jnp.array([3.0])}
    inner = gdjax.with_metrics(gdjax.sgd(0.5))
    names = {"grad_norm", "learning_rate", "noise_scale", "grad_sq", "grad_noise"}
    assert set(gdjax.metrics(gdjax.accumulate(inner, 2, noise_scale=True).init(g))) == names
    one = gdjax.accumulate(gdjax.sgd(0.5), 2, noise_scale=True)
    grouped = gdjax.partition({"a": one, "b": one}, {"w": "a", "x": "b"})
    assert {"a/noise_scale", "b/grad_sq"} <= set(gdjax.metrics(grouped.init(g)))
    with pytest.raises(ValueError, match="2 noise_scale=True stand in one chain"):
        gdjax.metrics(gdjax.chain(one, one).init(g))
    with pytest.raises(ValueError, match="the state has no metrics"):
        gdjax.metrics(gdjax.accumulate(gdjax.sgd(0.5), 2).init(g))


def test_without_the_argument_the_state_has_nothing_of_it_and_with_it_six_scalars():
    params = random_tree(0, shapes=SHAPES)
    plain = gdjax.accumulate(gdjax.adamw(0.1), 4).init(params)
    state = gdjax.accumulate(gdjax.adamw(0.1), 4, noise_scale=True).init(params)
    assert jax.tree.structure(plain.inner_state) == jax.tree.structure(gdjax.adamw(0.1).init(params))
    assert jax.tree.structure(plain.inner_state) == jax.tree.structure(state.inner_state.inner_state)
    more = jax.tree.leaves(state)
    assert len(more) - len(jax.tree.leaves(plain)) == 6 and sum(not x.shape for x in more) >= 6


@pytest.mark.full
def test_other_functions_see_the_optimizer_inside():
    tx = gdjax.accumulate(gdjax.adamw(gdjax.linear_schedule(0.1, 0.0, 10)), 2, noise_scale=True)
    params = {"w": jnp.ones((8, 8)), "head": jnp.ones((8, 4))}
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(params, state, params)
    np.testing.assert_allclose(gdjax.get_hyperparams(tx, state)["learning_rate"], 0.09, rtol=1e-6)
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, gdjax.state_from_dict(tx, gdjax.state_to_dict(state), params), state)
    )
    moved, _ = gdjax.migrate(state, tx, gdjax.accumulate(gdjax.adamw(0.1), 2), params)
    np.testing.assert_array_equal(gdjax.tree.get(moved, "mu")["w"], gdjax.tree.get(state, "mu")["w"])
    larger = {"w": jnp.ones((16, 16)), "head": jnp.ones((16, 4))}
    for other in (gdjax.transfer(tx, params), gdjax.for_batch(tx, 4, 1)):
        state, updates = other.init(larger), larger
        for i in range(2):
            g = jax.tree.map(lambda p, i=i: p * (i + 1), larger)
            updates, state = other.update(g, state, larger)
        assert gdjax.metrics(state)["grad_sq"] > 0
        assert float(jnp.abs(updates["w"]).max()) != pytest.approx(0.1, rel=0.1)


@pytest.mark.skipif(jax.__version_info__ < (0, 6) or writes_several(), reason="of XLA with a loop for each output")
@pytest.mark.parametrize(("last", "clips", "most"), [(False, False, 4), (True, False, 20), (True, True, 8)])
def test_what_it_costs(last: bool, clips: bool, most: float):
    """Each gradient is read once more, and the mean; XLA:CPU writes that to memory, where no clip did so already."""
    inner = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(0.1)) if clips else gdjax.adamw(0.1)
    w, found = {f"w{i}": jnp.ones((128, 128)) for i in range(4)}, []
    for noise_scale in (False, True):
        tx = gdjax.accumulate(inner, 4, noise_scale=noise_scale)
        run = jax.jit(functools.partial(tx.update, last=last), donate_argnums=1)
        made: Any = run.lower(w, tx.init(w), w).compile()
        found.append([made.cost_analysis()["bytes accessed"], made.memory_analysis().temp_size_in_bytes])
    (moved, kept), (moved_more, kept_more) = np.asarray(found) / (4 * 128**2)
    assert moved_more - moved <= most + 0.2
    assert kept_more - kept <= (4.1 if last and not clips else 0.1)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"every": 1}, "noise_scale .*every=1 has one gradient"),
        ({"unreduced": "data"}, r"noise_scale .*unreduced over \['data'\] they have none yet"),
        ({"noise_scale": 1}, "noise_scale must be True or False, got 1"),
    ],
)
def test_errors_name_what_cannot_be_measured(how: dict[str, Any], told: str):
    with pytest.raises((TypeError, ValueError), match=told):
        gdjax.accumulate(gdjax.sgd(0.1), **{"every": 4, "noise_scale": True, **how})


@pytest.mark.full
@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_on_a_mesh(kind: str):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    put = lambda tree: jax.device_put(tree, jax.sharding.NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        params, gradients = (
            put({"w": jnp.ones((8, 3))}),
            [{"w": jax.random.normal(jax.random.key(i), (8, 3))} for i in range(4)],
        )
        tx = gdjax.accumulate(gdjax.adamw(0.1), 4, noise_scale=True)
        state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
        for g in gradients:
            _, state = update(put(g), state, params)
    assert_measured(state, [(gradients, [1.0] * 4)])
