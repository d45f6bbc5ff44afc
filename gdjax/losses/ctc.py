"""Connectionist temporal classification."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, check_floating, log_softmax, promoted, wide_enough

__all__ = ["ctc_loss", "ctc_loss_with_forward_probs"]

NEVER = -1e30  # log 0 that can be added up and differentiated; exp of it, or of its sum with anything, is 0


def ctc_loss_with_forward_probs(
    logits: ArrayLike, logit_paddings: ArrayLike, labels: ArrayLike, label_paddings: ArrayLike, *, blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The CTC loss, and the forward probabilities that it is computed from. See `ctc_loss`.

        B_t(n) = p_t(blank) [B_{t-1}(n) + L_{t-1}(n)]
        L_t(n) = p_t(y_n) [L_{t-1}(n) + B_{t-1}(n - 1) + L_{t-1}(n - 1) if y_n != y_{n-1}]
        loss = -log(B_T(N) + L_T(N))

    B_t(n) and L_t(n) are the probabilities that frames 1..t read as labels 1..n, the last frame being a blank or a
    label. B_0(0) = 1, all others start at 0. A padded frame changes nothing.

    Args:
      logits: (B, T, K), unnormalised log probabilities of the K classes, one of which is the blank.
      logit_paddings: (B, T), 1 for a padded frame and 0 for a real one.
      labels: (B, N), integers from 0 to K - 1.
      label_paddings: (B, N), 1 for a padded label and 0 for a real one; the padded ones come last.
      blank_id: the class of the blank.
      log_epsilon: what stands for the logarithm of 0 in the results.

    Returns:
      The losses, (B,); log B, (T, B, N + 1), for n = 0..N, whose last row holds log(B_T + L_T); and log L, (T, B, N),
      for n = 1..N. float32 or wider: logarithms of sums over all alignments have no use for 16 bits.

    Raises:
      TypeError: the logits are not floating, the labels not integer.
      ValueError: shapes that do not match.

    A sequence that no alignment can produce, such as one longer than its frames, has the loss -log_epsilon and the
    gradient 0. A label out of range gives NaN. Optax uses log_epsilon within the recursion: a forbidden alignment that
    costs less than the right ones wins, so that no loss exceeds about -log_epsilon, and a label out of range is free.

    Reference:
      Graves et al. 2006, Connectionist temporal classification, section 4.1, https://doi.org/10.1145/1143844.1143891
    """
    return _ctc(
        "gdjax.ctc_loss_with_forward_probs", logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon
    )


def ctc_loss(
    logits: ArrayLike, logit_paddings: ArrayLike, labels: ArrayLike, label_paddings: ArrayLike, *, blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> Array:  # fmt: skip
    """Minus the log probability of a label sequence, summed over all its alignments with the frames.

    An alignment gives each frame a class; it reads as the sequence that is left when runs of one class are merged and
    blanks removed. Arguments, errors and departures are those of `ctc_loss_with_forward_probs`.

    Args:
      logits: (B, T, K).
      logit_paddings: (B, T), 1 for a padded frame.
      labels: (B, N), integers.
      label_paddings: (B, N), 1 for a padded label; the padded ones come last.
      blank_id: the class of the blank.
      log_epsilon: what stands for the logarithm of 0.

    Returns:
      The losses, (B,), float32 or wider.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> p = jnp.array([[[0.25, 0.75], [0.5, 0.5]]])  # two frames; a blank and one label
      >>> args = jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))
      >>> loss = gdjax.ctc_loss(jnp.log(p), *args)
      >>> round(float(jnp.exp(-loss[0])), 3)  # of all alignments but two blanks
      0.875
    """
    return _ctc("gdjax.ctc_loss", logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)[0]


def _ctc(
    label: str, logits: ArrayLike, logit_paddings: ArrayLike, labels: ArrayLike, label_paddings: ArrayLike,
    blank_id: int, log_epsilon: ArrayLike,
) -> tuple[Array, Array, Array]:  # fmt: skip
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    frame_pad, label_pad = jnp.asarray(logit_paddings) != 0, jnp.asarray(label_paddings) != 0
    _check(label, x, frame_pad, y, label_pad, blank_id)
    y = wide_enough(y)
    (x,), _ = promoted(x)
    log_p = jnp.maximum(log_softmax(jnp.where(frame_pad[..., None], 0, x), -1), NEVER)
    log_p = log_p.transpose(1, 0, 2)  # (T, B, K)
    emit = jnp.take_along_axis(log_p, jnp.where(label_pad, 0, y)[None].clip(0, x.shape[-1] - 1), axis=-1)
    emit = jnp.where(label_pad | (y >= 0) & (y < x.shape[-1]), emit, jnp.nan)
    blanks, marks = _forward(emit, log_p[..., blank_id, None], frame_pad.T, y)
    ends = _join(blanks[-1], marks[-1])
    blanks = blanks.at[-1].set(ends)
    lengths = jnp.sum(~label_pad, axis=1, dtype=jnp.int32)
    log_z = jnp.take_along_axis(ends, lengths[:, None], axis=1)[:, 0]
    floor = jnp.asarray(log_epsilon, x.dtype)
    log_z, blanks, marks = (jnp.where(v <= NEVER / 2, floor, v) for v in (log_z, blanks, marks))
    return -log_z, blanks, marks


def _check(label: str, x: Array, frame_pad: Array, y: Array, label_pad: Array, blank_id: int) -> None:
    check_floating(label, "logits", x)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"{label}: labels must be of an integer dtype, got {y.dtype}")
    for name, value, rank in (("logits", x, 3), ("labels", y, 2)):
        if value.ndim != rank:
            raise ValueError(f"{label}: {name} must have {rank} axes, got shape {value.shape}")
    if frame_pad.shape != x.shape[:2]:
        raise ValueError(f"{label}: logit_paddings shape {frame_pad.shape} does not match logits shape {x.shape}")
    if label_pad.shape != y.shape:
        raise ValueError(f"{label}: label_paddings shape {label_pad.shape} does not match labels shape {y.shape}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"{label}: the batch of logits, shape {x.shape}, is not that of labels, shape {y.shape}")
    if x.shape[1] == 0:
        raise ValueError(f"{label}: logits shape {x.shape} has no frames")
    if not -x.shape[2] <= blank_id < x.shape[2]:
        raise ValueError(f"{label}: blank_id {blank_id} is not among the {x.shape[2]} classes of logits")


def _forward(emit: Array, blank: Array, frame_pad: Array, labels: Array) -> tuple[Array, Array]:
    """log B_t, (T, B, N + 1), and log L_t, (T, B, N), from log p_t of the labels (T, B, N) and the blank (T, B, 1)."""
    _, batch, n = emit.shape
    start = jnp.full((batch, n + 1), NEVER, emit.dtype).at[:, 0].set(0)
    new = labels[:, 1:] != labels[:, :-1]

    def frame(before: tuple[Array, Array], inputs: tuple[Array, Array, Array]) -> Any:
        b, m = before
        p, q, pad = inputs
        # A label may follow a blank, or at once another label than itself.
        skip = jnp.where(new, m[:, :-1], NEVER)
        came = jnp.concatenate([b[:, :1], jnp.logaddexp(b[:, 1:-1], skip)], axis=1)[:, :n]
        after = _join(b, m) + q, jnp.logaddexp(m, came) + p
        after = jax.tree.map(lambda old, now: jnp.where(pad[:, None], old, jnp.maximum(now, NEVER)), before, after)
        return after, after

    return jax.lax.scan(frame, (start, jnp.full_like(emit[0], NEVER)), (emit, blank, frame_pad))[1]


def _join(b: Array, m: Array) -> Array:
    """log(B(n) + L(n)) for n = 0..N, with L(0) = 0."""
    return jnp.concatenate([b[:, :1], jnp.logaddexp(b[:, 1:], m)], axis=1)
