"""The table of losses and projections."""

from typing import Any

import jax
import jax.numpy as jnp

from tests.pages.claims.claim import apart, claim, finite, is_nan, near

X, Y = jnp.arange(4.0), jnp.arange(4.0)[:, None]
SCORES = jnp.array([0.0, 1.0, -jnp.inf])


@claim("two inputs of shapes (n,) and (n, 1)", theirs=(4, 4), ours=ValueError)
def a_row_and_a_column(o: Any) -> Any:
    return o.losses.log_cosh(X, Y).shape


@claim("a class axis of size 1 against K", theirs=finite, ours=ValueError)
def a_column_of_labels(o: Any) -> Any:
    return o.losses.softmax_cross_entropy(jnp.ones((4, 3)), jnp.ones((4, 1)))


@claim("cross entropy, poly loss, multiclass hinge", theirs=is_nan, ours=finite)
def scores_of_minus_infinity(o: Any) -> Any:
    return o.losses.softmax_cross_entropy(SCORES, jnp.array([1.0, 0.0, 0.0]))


@claim("`sigmoid_*` at infinite logits", theirs=is_nan, ours=near(0.0))
def an_infinite_logit(o: Any) -> Any:
    return o.losses.sigmoid_binary_cross_entropy(jnp.array(jnp.inf), jnp.array(1.0))


@claim("negative integer labels", theirs=lambda x: x > 0, ours=near(0.0))
def a_negative_label(o: Any) -> Any:
    return float(o.losses.softmax_cross_entropy_with_integer_labels(jnp.zeros(3), jnp.int32(-1)))


@claim("the right class masked by `where`", theirs=apart(0.0), ours=near(0.0))
def the_right_class_masked(o: Any) -> Any:
    loss, where = o.losses.softmax_cross_entropy_with_integer_labels, jnp.array([False, True, True])
    return float(loss(jnp.array([2.0, 0.0, 1.0]), jnp.int32(0), where=where))


@claim("multiclass hinge, perceptron, sparsemax, label out of range", theirs=finite, ours=is_nan)
def a_label_out_of_range(o: Any) -> Any:
    return o.losses.multiclass_hinge_loss(jnp.arange(3.0), jnp.int32(5))


@claim("`kl_divergence` where p = q = 0", theirs=is_nan, ours=near(0.0))
def no_probability(o: Any) -> Any:
    return o.losses.kl_divergence(jnp.array([-jnp.inf, 0.0]), jnp.array([0.0, 1.0]))


@claim("`smooth_labels`, `where` of size 1", theirs=apart([1 / 12, 1 / 12, 1 / 12]), ours=finite)
def smoothed_labels(o: Any) -> Any:
    return o.losses.safe_softmax_cross_entropy(SCORES, jnp.array([1.0, 0.0, 0.0]))


@claim("`cosine_*` at a zero vector or near 1e25", theirs=is_nan, ours=near(0.0))
def a_cosine_of_zeros(o: Any) -> Any:
    return o.losses.cosine_similarity(jnp.zeros(3), jnp.ones(3))


@claim("`cosine_*` at a zero vector or near 1e25", theirs=apart(1.0), ours=near(1.0))
def a_cosine_of_large_numbers(o: Any) -> Any:
    return o.losses.cosine_similarity(jnp.full(3, 1e25), jnp.ones(3), epsilon=1e-8)


@claim("`cosine_*(epsilon)`", theirs=near(0.01), ours=near(0.1))
def a_cosine_with_epsilon(o: Any) -> Any:
    return o.losses.cosine_similarity(jnp.array([1e-3, 0.0]), jnp.array([1.0, 0.0]), epsilon=1e-2)


@claim("`log_cosh` near 0", theirs=0.0, ours=lambda x: abs(x - 5e-9) < 1e-11)
def log_cosh_near_zero(o: Any) -> Any:
    return float(o.losses.log_cosh(jnp.array(1e-4)))


@claim("`ctc_loss` above about 1e5", theirs=near(1e5, 1e-3), ours=near(4e5, 1e-3))
def an_unlikely_sequence(o: Any) -> Any:
    logits = jnp.full((1, 3, 3), -2e5).at[0, :, 0].set(0.0)
    return o.losses.ctc_loss(logits, jnp.zeros((1, 3)), jnp.array([[1, 2]]), jnp.zeros((1, 2)))[0]


@claim("`ctc_loss` of an impossible sequence", theirs=lambda x: x > 9e4, ours=near(1e5))
def an_impossible_sequence(o: Any) -> Any:
    logits, pads = jnp.zeros((1, 1, 3)), jnp.zeros((1, 1))
    return float(o.losses.ctc_loss(logits, pads, jnp.array([[1, 2]]), jnp.zeros((1, 2)))[0])


@claim("`ctc_loss`, label out of range", theirs=finite, ours=is_nan)
def a_label_that_is_no_class(o: Any) -> Any:
    return o.losses.ctc_loss(jnp.zeros((1, 4, 3)), jnp.zeros((1, 4)), jnp.array([[7]]), jnp.zeros((1, 1)))


@claim("`dice_loss(apply_softmax=False)`", theirs=Exception, ours=finite)
def a_traced_dice_loss(o: Any) -> Any:
    f = lambda x, y: o.losses.dice_loss(x, y, apply_softmax=False)
    return jax.jit(f)(jnp.full((1, 4, 2), 0.5), jnp.full((1, 4, 2), 0.5))


@claim("`dice_loss(smooth=0)` of a class", theirs=is_nan, ours=finite)
def no_pairs(o: Any) -> Any:
    return o.losses.ntxent(jnp.eye(3), jnp.arange(3))


@claim("`triplet_margin_loss`, odd degrees", theirs=apart(2.0, 1e-3), ours=near(2.0, 1e-3))
def an_odd_degree(o: Any) -> Any:
    """The distance of -2, by the third power, less one of 1, with a margin of 1."""
    a, p, n = jnp.array([[0.0]]), jnp.array([[2.0]]), jnp.array([[1.0]])
    return o.losses.triplet_margin_loss(a, p, n, norm_degree=3)[0]


@claim("`make_fenchel_young_loss`, further positional", theirs=TypeError, ours=finite)
def further_arguments(o: Any) -> Any:
    f = o.losses.make_fenchel_young_loss(lambda x, *axis: jax.nn.logsumexp(x, *axis))
    return f(jnp.arange(3.0), jnp.array([1.0, 0.0, 0.0]), 0)


@claim("`projection_box`, `projection_hypercube`", theirs=ValueError, ours=finite)
def a_number_for_a_tree(o: Any) -> Any:
    return o.projections.projection_box({"a": X}, 0.0, 1.0)


@claim("`projection_simplex` of large values", theirs=is_nan, ours=near([0.0, 0.0, 0.0, 0.0]))
def a_simplex_of_no_size(o: Any) -> Any:
    return o.projections.projection_simplex(X, 0.0)


@claim("`projection_l1_sphere` with zeros", theirs=apart(1.0), ours=near(1.0))
def the_l1_sphere(o: Any) -> Any:
    return jnp.sum(jnp.abs(o.projections.projection_l1_sphere(jnp.zeros(3))))


@claim("`projection_l2_sphere(0)`", theirs=is_nan, ours=finite)
def the_l2_sphere(o: Any) -> Any:
    return o.projections.projection_l2_sphere(jnp.zeros(3))


@claim("`projection_vector`, complex", theirs=apart(0.0, 1e-3), ours=lambda x: abs(x) < 1e-5)
def the_nearest_multiple(o: Any) -> Any:
    """What is left of x is orthogonal to a."""
    x, a = jnp.array([1.0 + 2j, 3.0]), jnp.array([1j, 2.0 + 1j])
    return abs(complex(jnp.vdot(a, x - o.projections.projection_vector(x, a))))
