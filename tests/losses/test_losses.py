"""What all losses promise: Optax's names, signatures and numbers; dtypes; errors. Definitions are tested by file."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.oracles import precision
from tests.support import relaxed


class Case(NamedTuple):
    """Arguments of a loss, and which of them have derivatives; `like` gives new ones of the same kind."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = {}
    floating: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        return "-".join([self.name, *self.kwargs])


def normal(*shape: int, seed: int = 0) -> Any:
    return 1.5 * np.random.default_rng([seed, *shape]).normal(size=shape)


def simplex(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng([seed, *shape]).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def bits(*shape: int, seed: int = 2) -> Any:
    return np.random.default_rng([seed, *shape]).integers(0, 2, size=shape)


X, Y = normal(4, 5), normal(4, 5, seed=3)
P = simplex(4, 5)
LABELS = np.array([0, 4, 2, 2])
WHERE = bits(4, 5, seed=5).astype(bool) | (np.arange(5) == 2) | (np.arange(4) == 1)[:, None]
IMAGE, TARGET = normal(2, 3, 4, 3), np.eye(3)[np.random.default_rng(0).integers(0, 3, (2, 3, 4))]
FRAMES, SEQUENCE = normal(3, 6, 4), np.array([[1, 1, 2], [3, 2, 0], [2, 0, 0]])
FRAME_PAD = (np.arange(6) >= np.array([[6], [5], [3]])).astype(float)
LABEL_PAD = (np.arange(3) >= np.array([[3], [2], [1]])).astype(float)

CASES = [
    Case("squared_error", (X, Y), floating=(0, 1)),
    Case("squared_error", (X,)),
    Case("l2_loss", (X, Y), floating=(0, 1)),
    Case("l2_loss", (X,)),
    Case("huber_loss", (X, Y), {"delta": 0.7}, (0, 1)),
    Case("huber_loss", (X, 0.5)),
    Case("log_cosh", (X, Y), floating=(0, 1)),
    Case("log_cosh", (X, np.array(0.25))),
    Case("cosine_similarity", (X, Y), floating=(0, 1)),
    Case("cosine_similarity", (X, Y), {"axis": 0, "where": WHERE}, (0, 1)),
    Case("cosine_similarity", (X[:, None], Y[None])),
    Case("cosine_distance", (X, Y[0]), floating=(0, 1)),
    Case("cosine_distance", (X, Y), {"axis": None}),
    Case("sigmoid_binary_cross_entropy", (X, P), floating=(0, 1)),
    Case("sigmoid_binary_cross_entropy", (X, bits(4, 5))),
    Case("sigmoid_focal_loss", (X, bits(4, 5))),
    Case("sigmoid_focal_loss", (X, P), {"alpha": 0.3, "gamma": 1.5}),
    Case("softmax_cross_entropy", (X, P), floating=(0, 1)),
    Case("softmax_cross_entropy", (X, P), {"axis": (0, 1)}),
    Case("softmax_cross_entropy", (X, P), {"axis": 0, "where": WHERE}),
    Case("softmax_cross_entropy", (X, P[0]), {"where": np.array([1, 0, 1, 1], bool)}),
    Case("safe_softmax_cross_entropy", (X, P), floating=(0, 1)),
    Case("softmax_cross_entropy_with_integer_labels", (X, LABELS)),
    Case("softmax_cross_entropy_with_integer_labels", (X.T, LABELS), {"axis": 0, "where": np.arange(4) != 1}),
    Case("softmax_cross_entropy_with_integer_labels", (IMAGE, np.array([[0, 11, 7], [3, 1, 5]])), {"axis": (2, -1)}),
    Case("softmax_cross_entropy_with_integer_labels", (X, LABELS[:1] + 2), {"where": WHERE}),
    Case("poly_loss_cross_entropy", (X, P), floating=(0, 1)),
    Case("poly_loss_cross_entropy", (X, P), {"epsilon": -1.0, "axis": 0, "where": WHERE}),
    Case("smooth_labels", (P, 0.1)),
    Case("smooth_labels", (P, 0.1), {"axis": (0, 1)}),
    Case("smooth_labels", (P, 0.1), {"where": WHERE}),
    Case("kl_divergence", (X, P), floating=(0, 1)),
    Case("kl_divergence", (X[0], P), {"axis": 1}),
    Case("kl_divergence", (X, P), {"axis": None, "where": WHERE}),
    Case("kl_divergence_with_log_targets", (X, Y), floating=(0, 1)),
    Case("kl_divergence_with_log_targets", (X, Y), {"axis": 0, "where": WHERE}, (0, 1)),
    Case("generalized_kl_divergence", (X, P), floating=(0, 1)),
    Case("generalized_kl_divergence", (X, P), {"axis": 0, "where": WHERE}),
    Case("convex_kl_divergence", (X, P), floating=(0, 1)),
    Case("hinge_loss", (X, 2 * bits(4, 5) - 1)),
    Case("perceptron_loss", (X, 2 * bits(4, 5) - 1)),
    Case("sparsemax_loss", (X, bits(4, 5))),
    Case("multiclass_hinge_loss", (X, LABELS)),
    Case("multiclass_perceptron_loss", (X, LABELS)),
    Case("multiclass_sparsemax_loss", (X, LABELS)),
    Case("ranking_softmax_loss", (X, P)),
    Case("ranking_softmax_loss", (X, bits(4, 5)), {"where": WHERE, "weights": P}),
    Case("ranking_softmax_loss", (X, P), {"reduce_fn": None, "where": WHERE}),
    Case("ranking_softmax_loss", (X, P), {"reduce_fn": jnp.sum}),
    Case("ntxent", (X, np.array([0, 1, 0, 1]))),
    Case("ntxent", (X, np.array([0, 1, 0, 0]), 0.5)),
    Case("triplet_margin_loss", (X, Y, P), floating=(0, 1, 2)),
    Case("triplet_margin_loss", (X, Y, P, 0, 4, 0.3, 1e-3)),
    Case("dice_loss", (IMAGE, TARGET)),
    Case("dice_loss", (IMAGE, TARGET), {"class_weights": np.array([1.0, 2.0, 0.5]), "reduction": "none"}),
    Case("dice_loss", (IMAGE, TARGET), {"alpha": 0.3, "beta": 0.8, "reduction": "sum", "ignore_background": True}),
    Case("dice_loss", (IMAGE[..., 0], TARGET[..., :1]), {"smooth": 0.1}),
    Case("dice_loss", (IMAGE, TARGET), {"axis": (0, 1)}),
    Case("multiclass_generalized_dice_loss", (IMAGE, TARGET)),
    Case("multiclass_generalized_dice_loss", (IMAGE, TARGET), {"ignore_background": True, "smooth": 0.2}),
    Case("binary_dice_loss", (IMAGE[..., 0], TARGET[..., 0])),
    Case("binary_dice_loss", (IMAGE[..., :1], TARGET[..., 0]), {"smooth": 0.3}),
    Case("ctc_loss", (FRAMES, FRAME_PAD, SEQUENCE, LABEL_PAD)),
    Case("ctc_loss", (FRAMES, FRAME_PAD, SEQUENCE % 3, LABEL_PAD), {"blank_id": 3}),
]
ALL = pytest.mark.parametrize("case", CASES, ids=str)
# Named with another result in float32 or wider.
NOT_16_BITS = {"ctc_loss"}


def cast(x: Any, dtype: str) -> Any:
    return jnp.asarray(x, dtype) if np.issubdtype(np.asarray(x).dtype, np.floating) else x


def arguments(case: Case, dtype: str) -> tuple[list[Any], dict[str, Any]]:
    return [cast(x, dtype) for x in case.args], {
        k: jnp.asarray(v) if isinstance(v, np.ndarray) and v.dtype == bool else v for k, v in case.kwargs.items()
    }


def test_the_names_and_signatures_of_optax():
    assert sorted(losses.__all__) == [name for name in dir(optax.losses) if not name.startswith("_")]

    def shape(f: Any) -> list[Any]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]

    other = {n for n in losses.__all__ if shape(getattr(losses, n)) != shape(getattr(optax.losses, n))}
    assert other == set()
    # These two return a function and a tuple, and have tests of their own.
    assert {c.name for c in CASES} == set(losses.__all__) - {"make_fenchel_young_loss", "ctc_loss_with_forward_probs"}


def value_and_gradients(loss: Any, case: Case, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The loss, and the gradients of a sum that needs every element of it; one compiled call."""

    def f(*floats: Any) -> Any:
        full = list(args)
        for i, x in zip(case.floating, floats, strict=True):
            full[i] = x
        out = loss(*full, **kwargs)
        return jnp.sum(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape) * out), out

    grad = jax.value_and_grad(f, argnums=tuple(range(len(case.floating))), has_aux=True)
    (_, value), gradients = jax.jit(grad)(*(args[i] for i in case.floating))
    return value, gradients


@ALL
def test_value_and_gradient_are_those_of_optax(case: Case):
    ours = getattr(losses, case.name)
    # Their own old name warns.
    theirs = getattr(optax.losses, case.name.replace("convex_kl", "generalized_kl"))
    with precision("float64"):
        args, kwargs = arguments(case, "float64")
        got = value_and_gradients(ours, case, args, kwargs)
        with relaxed():
            reference = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
            wanted = value_and_gradients(theirs, case, reference, kwargs)
        assert got[0].shape == wanted[0].shape and got[0].dtype == wanted[0].dtype
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, wanted)
    args, kwargs = arguments(case, "float32")
    single = jax.jit(lambda x: ours(x, *args[1:], **kwargs))(args[0])
    np.testing.assert_allclose(single, wanted[0], rtol=2e-5, atol=1e-6)
    with relaxed():
        dtype = jax.eval_shape(lambda: theirs(*map(jnp.asarray, args[:2]), *args[2:], **kwargs)).dtype
    assert single.dtype == dtype and not single.weak_type


@ALL
def test_16_bits_are_computed_in_float32(case: Case):
    dtype = jnp.dtype("bfloat16")
    loss = getattr(losses, case.name)
    args, kwargs = arguments(case, "bfloat16")
    arrays = {i: x for i, x in enumerate(args) if isinstance(x, jax.Array)}

    @jax.jit
    def both(arrays: Any) -> Any:
        wide = {i: x.astype("float32") for i, x in arrays.items()}
        return tuple(loss(*(xs.get(i, x) for i, x in enumerate(args)), **kwargs) for xs in (arrays, wide))

    got, wanted = both(arrays)
    if case.name in NOT_16_BITS:
        assert got.dtype == "float32"
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    else:
        assert got.dtype == dtype
        # Rounded once: to the nearest, or next to it where float32 differs by its own last digit.
        rounded = wanted.astype(dtype).astype("float32")
        np.testing.assert_allclose(got.astype("float32"), rounded, rtol=2.0**-7, atol=1e-30)
        assert np.mean(got.astype("float32") == rounded) > 0.9


PAIRS = {
    "predictions targets": "squared_error l2_loss huber_loss log_cosh cosine_similarity cosine_distance",
    "logits labels": "sigmoid_binary_cross_entropy sigmoid_focal_loss softmax_cross_entropy safe_softmax_cross_entropy "
    "poly_loss_cross_entropy sparsemax_loss ranking_softmax_loss",
    "predictor_outputs targets": "hinge_loss perceptron_loss",
    "log_predictions targets": "kl_divergence generalized_kl_divergence convex_kl_divergence",
    "log_predictions log_targets": "kl_divergence_with_log_targets",
}


@pytest.mark.parametrize("name,names", [(n, k.split()) for k, v in PAIRS.items() for n in v.split()])
def test_a_column_against_a_row_is_an_error_that_names_both(name: str, names: list[str]):
    shown = "gdjax.generalized_kl_divergence" if name == "convex_kl_divergence" else f"gdjax.{name}"
    for x, y in ((3,), (3, 1)), ((3, 1), (3,)), ((2,), (3,)):
        with pytest.raises(ValueError) as e:
            getattr(losses, name)(jnp.ones(x), jnp.ones(y))
        message = str(e.value)
        assert message.startswith(f"{shown}: {names[0]} shape {x} does not match {names[1]} shape {y}"), message


@pytest.mark.parametrize("name", "softmax_cross_entropy safe_softmax_cross_entropy kl_divergence".split())
def test_labels_with_an_axis_too_many_are_an_error(name: str):
    with pytest.raises(ValueError, match=r"shape \(4, 5\) does not match \w+ shape \(4, 1, 5\)"):
        getattr(losses, name)(jnp.ones((4, 5)), jnp.ones((4, 1, 5)))


@pytest.mark.parametrize("name", [n for v in list(PAIRS.values())[:2] for n in v.split()])
def test_predictions_must_be_floating(name: str):
    with pytest.raises(TypeError, match=rf"gdjax.{name}: (predictions|logits) must be of a floating dtype, got int32"):
        getattr(losses, name)(jnp.ones((3, 2), int), jnp.ones((3, 2)))


def test_mixed_dtypes_promote_as_in_optax():
    x, y = jnp.ones((2, 3), "bfloat16"), jnp.ones((2, 3), "float32") / 3
    assert losses.huber_loss(x, y).dtype == "float32"
    assert losses.squared_error(x, np.ones((2, 3), int)).dtype == "bfloat16"
    assert losses.sigmoid_binary_cross_entropy(x, y).dtype == "bfloat16"
    assert losses.softmax_cross_entropy(x, y).dtype == "float32"
    assert losses.hinge_loss(jnp.ones(3, int), jnp.ones(3, int)).dtype == "float32"


@pytest.mark.parametrize("name", "softmax_cross_entropy poly_loss_cross_entropy kl_divergence cosine_distance".split())
def test_where_must_fit(name: str):
    with pytest.raises(ValueError, match=rf"gdjax.{name}: where shape \(3,\) does not fit the inputs' shape \(4, 5\)"):
        getattr(losses, name)(X.astype("float32"), P.astype("float32"), where=jnp.ones(3, bool))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize(
    "name",
    "softmax_cross_entropy poly_loss_cross_entropy kl_divergence kl_divergence_with_log_targets "
    "generalized_kl_divergence cosine_similarity cosine_distance ranking_softmax_loss".split(),
)
def test_what_where_hides_has_no_effect(name: str, bad: float):
    hidden = jnp.asarray(~WHERE)
    x, p = jnp.asarray(X, "float32"), jnp.asarray(P, "float32")

    @jax.jit
    def f(x: Any, p: Any) -> Any:
        return jax.value_and_grad(lambda *xs: jnp.sum(getattr(losses, name)(*xs, where=~hidden)), argnums=(0, 1))(x, p)

    clean, dirty = f(x, p), f(jnp.where(hidden, bad, x), jnp.where(hidden, bad, p))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert all(bool(jnp.all(jnp.where(hidden, g == 0, jnp.isfinite(g)))) for g in clean[1])
