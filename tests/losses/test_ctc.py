"""CTC against the sum over every alignment, and at the edges of float32."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5, 3))
LABELS = np.array([[1, 2, 0], [1, 1, 2], [2, 0, 0], [0, 0, 0]])
LENGTHS, FRAMES = np.array([2, 3, 1, 0]), np.array([5, 5, 3, 4])
LABEL_PAD = (np.arange(3) >= LENGTHS[:, None]).astype("float32")
FRAME_PAD = (np.arange(5) >= FRAMES[:, None]).astype("float32")


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


ctc_loss = jax.jit(losses.ctc_loss, static_argnames="blank_id")


def by_enumeration(x: Any, labels: list[int]) -> float:
    """-log of the sum of the probabilities of all K^T sequences of classes that read as `labels`; 0 is the blank."""
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(x.shape[1]), repeat=len(x)):
        read = [k for k, _ in itertools.groupby(path) if k != 0]
        if read == labels:
            total += np.prod([p[t, k] for t, k in enumerate(path)])
    return -np.log(total)


def test_sum_over_all_alignments():
    wanted = [by_enumeration(X[i, : FRAMES[i]], list(LABELS[i, : LENGTHS[i]])) for i in range(4)]
    got = ctc_loss(f32(X), FRAME_PAD, LABELS, LABEL_PAD)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    moved = ctc_loss(f32(X[..., [1, 2, 0]]), FRAME_PAD, (LABELS - 1) % 3, LABEL_PAD, blank_id=2)
    np.testing.assert_allclose(moved, wanted, rtol=1e-5)


@pytest.mark.full
def test_forward_probabilities_are_those_of_optax():
    arguments = f32(X), f32(FRAME_PAD), jnp.asarray(LABELS), f32(LABEL_PAD)
    with relaxed():
        wanted = optax.losses.ctc_loss_with_forward_probs(*arguments)
    got = losses.ctc_loss_with_forward_probs(*arguments)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        # What cannot be reached: -1e5 here, about a multiple of it there.
        never = theirs < -9e4
        np.testing.assert_allclose(np.where(never, 0, ours), np.where(never, 0, theirs), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(ours[never], np.full(never.sum(), -1e5))
    assert np.any(wanted[1] < -9e4)


def test_forward_probabilities_by_enumeration():
    _, blanks, marks = losses.ctc_loss_with_forward_probs(f32(X[:1]), FRAME_PAD[:1], LABELS[:1], LABEL_PAD[:1])
    p = np.exp(X[0]) / np.exp(X[0]).sum(-1, keepdims=True)
    for t, n in (0, 0), (2, 1), (3, 2), (1, 2):
        ends = {"blank": 0.0, "label": 0.0}
        for path in itertools.product(range(3), repeat=t + 1):
            if [k for k, _ in itertools.groupby(path) if k != 0] == list(LABELS[0, :n]):
                ends["blank" if path[-1] == 0 else "label"] += np.prod([p[i, k] for i, k in enumerate(path)])
        for value, name in ((blanks[t, 0, n], "blank"), (marks[t, 0, n - 1], "label")):
            if name == "blank" or n:
                np.testing.assert_allclose(value, np.log(ends[name]) if ends[name] else -1e5, rtol=1e-5)


def test_gradient_against_differences():
    def loss(x: Any) -> Any:
        return jnp.sum(ctc_loss(x, FRAME_PAD, LABELS, LABEL_PAD))

    direction = f32(RNG.normal(size=X.shape))
    slope = jnp.vdot(jax.grad(loss)(f32(X)), direction)
    h = 1e-2
    np.testing.assert_allclose(
        slope, (loss(f32(X) + h * direction) - loss(f32(X) - h * direction)) / (2 * h), rtol=1e-3
    )


def test_a_sequence_that_does_not_fit_has_the_largest_loss_and_no_gradient():
    def loss(x: Any) -> Any:
        return ctc_loss(x, np.zeros((1, 3)), np.array([[1, 1, 2]]), np.zeros((1, 3)), log_epsilon=-123.0)[0]

    value, slope = jax.value_and_grad(loss)(f32(X[:1, :3]))  # needs a blank between the ones: four frames
    assert value == 123 and not np.any(slope)


@pytest.mark.full
@pytest.mark.parametrize("size", [1e4, 1e6])
def test_extreme_logits(size: float):
    x = jnp.zeros((1, 20, 3)).at[..., 0].set(size)  # certain of the blank in every frame
    arguments = np.zeros((1, 20)), np.array([[1, 2, 1, 2] * 5]), np.zeros((1, 20))
    value, slope = jax.value_and_grad(lambda x: ctc_loss(x, *arguments)[0])(x)
    np.testing.assert_allclose(value, 20 * size, rtol=1e-5)
    np.testing.assert_allclose(slope[0, :, 0], np.ones(20), rtol=1e-4)
    with relaxed():  # takes the forbidden alignment, cheaper at 1e5 a label
        theirs = optax.ctc_loss(x, *map(jnp.asarray, arguments))[0]
    assert theirs < 0.6 * 20 * size


def test_classes_of_probability_zero_and_hidden_nan():
    x = f32(X).at[:, :, 2].set(-jnp.inf)
    labels, pads = np.array([[1, 2], [1, 0]]), np.array([[0, 1], [0, 1]])
    hidden = np.zeros((2, 5))
    hidden[:, 3:] = 1
    clean, pull = jax.vjp(lambda x: ctc_loss(x, hidden, labels, pads), x[:2])
    dirty, pull_dirty = jax.vjp(lambda x: ctc_loss(x, hidden, labels, pads), x[:2].at[:, 3:].set(jnp.nan))
    np.testing.assert_array_equal(clean, dirty)
    np.testing.assert_allclose(clean[0], by_enumeration(X[0, :3, :2], [1]), rtol=1e-5)
    for slope in pull(jnp.ones(2))[0], pull_dirty(jnp.ones(2))[0]:
        assert np.all(np.isfinite(slope)) and not np.any(slope[:, 3:])


def test_labels_outside_the_range():
    for bad in 3, -1:
        labels = np.array([[1, bad]])
        arguments = f32(X[:1]), np.zeros((1, 5)), labels
        assert np.isnan(ctc_loss(*arguments, np.zeros((1, 2)))[0])
        padded = ctc_loss(*arguments, np.array([[0, 1]]))
        np.testing.assert_allclose(padded, by_enumeration(X[0], [1]), rtol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("dtype, classes", [("uint8", 256), ("uint8", 300), ("int8", 300)])
def test_labels_of_a_dtype_that_does_not_hold_the_number_of_classes(dtype: str, classes: int):
    x, labels, pad = f32(RNG.normal(size=(1, 4, classes))), np.array([[97, 98]]), jnp.zeros((1, 2))
    got, wanted = (losses.ctc_loss(x, jnp.zeros((1, 4)), jnp.asarray(labels, d), pad) for d in (dtype, "int32"))
    assert jnp.isfinite(got[0]) and got == wanted


def test_no_labels_at_all():
    got = ctc_loss(f32(X[:1]), np.zeros((1, 5)), np.zeros((1, 0), int), np.zeros((1, 0)))
    np.testing.assert_allclose(got, by_enumeration(X[0], []), rtol=1e-5)


@pytest.mark.parametrize(
    "change,kind,message",
    [
        ({"logits": X[0]}, ValueError, r"logits must have 3 axes, got shape \(5, 3\)"),
        ({"labels": LABELS[0]}, ValueError, r"labels must have 2 axes, got shape \(3,\)"),
        ({"labels": LABELS * 1.0}, TypeError, "labels must be of an integer dtype, got float32"),
        ({"logit_paddings": FRAME_PAD.T}, ValueError, r"logit_paddings shape \(5, 4\) does not match logits shape"),
        (
            {"label_paddings": LABEL_PAD[:, :2]},
            ValueError,
            r"label_paddings shape \(4, 2\) does not match labels",
        ),
        ({"labels": LABELS[:3], "label_paddings": LABEL_PAD[:3]}, ValueError, r"\(4, 5, 3\), is not that of labels"),
        ({"logits": X[:, :0], "logit_paddings": FRAME_PAD[:, :0]}, ValueError, r"shape \(4, 0, 3\) has no frames"),
        ({"blank_id": 3}, ValueError, "blank_id 3 is not among the 3 classes of logits"),
    ],
)
@pytest.mark.parametrize("name", ["ctc_loss", "ctc_loss_with_forward_probs"])
def test_errors(name: str, change: Any, kind: Any, message: str):
    arguments = {"logits": X, "logit_paddings": FRAME_PAD, "labels": LABELS, "label_paddings": LABEL_PAD, **change}
    arguments = {k: v if isinstance(v, int) or v.dtype.kind == "i" else f32(v) for k, v in arguments.items()}
    with pytest.raises(kind, match=f"^gdjax.{name}: .*" + message):
        getattr(losses, name)(**arguments)
