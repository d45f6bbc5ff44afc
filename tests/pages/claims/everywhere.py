"""The first two tables: what all transforms have in common."""

import enum
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gdjax
from tests.pages.claims.claim import anything, claim, dtypes, finite, is_nan, last, near, told

P, G = jnp.ones(3), jnp.array([1.0, -2.0, 3.0])


@claim("1. ", "`adam(1e-3) == adam(1e-3)`", theirs=False, ours=True)
def rebuilt(o: Any) -> bool:
    return o.adam(1e-3) == o.adam(1e-3)


@claim("2. ", "hyperparameters", theirs=TypeError, ours=finite)
def a_scheduled_decay(o: Any) -> Any:
    return last(o.adam(0.1, b1=lambda t: 0.9), [G], P)


@claim("an array for a number", theirs=(2,), ours=ValueError)
def an_array_for_a_number(o: Any) -> Any:
    return last(o.scale(jnp.array([1.0, 2.0])), [jnp.ones(2)], jnp.ones(2)).shape


@claim("an array for a number", theirs=(3,), ours=ValueError)
def an_array_for_a_rate(o: Any) -> Any:
    return last(o.sgd(jnp.array([0.1])), [G], P).shape


@claim("a mask of the integers", theirs=(3,), ours=TypeError)
def a_mask_of_integers(o: Any) -> Any:
    return last(o.masked(o.scale(2.0), {"a": 1, "b": 0}), [{"a": G, "b": G}], {"a": P, "b": P})["a"].shape


@claim("labels, a mask or a list", theirs=-1.0, ours=0.0)
def labels_that_change(o: Any) -> float:
    labels, tree = {"a": "none"}, {"a": P}
    tx = o.partition({"none": o.set_to_zero(), "train": o.scale(-1.0)}, labels)
    labels["a"] = "train"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = tx.init(tree)
    return float(tx.update(tree, state, tree)[0]["a"][0])


@claim("parameters of float8 or int4", theirs=(3,), ours=TypeError)
def trained_in_8_bits(o: Any) -> Any:
    p = P.astype("float8_e4m3fn")
    return o.apply_updates(p, last(o.adam(0.1), [p], p)).shape


@claim("`mu_dtype` of float8", theirs=Exception, ours=ValueError)
def a_moment_in_8_bits(o: Any) -> Any:
    return last(o.adam(0.1, mu_dtype="float8_e4m3fn"), [G], P)


@claim("3. ", "second moments of bfloat16 parameters", theirs={"bfloat16"}, ours={"float32"})
def second_moment(o: Any) -> Any:
    return dtypes(o.adam(0.1).init(P.astype("bfloat16"))[0].nu)


@claim("3. ", "float16 with zero or small gradients", theirs=is_nan, ours=lambda u: bool(jnp.all(u == 0)))
def float16(o: Any) -> Any:
    return last(o.adam(0.1), [jnp.zeros(3, "float16")], P.astype("float16"))


@claim("`1 - b2^t` in float32", theirs=lambda e: 5e-6 < e < 5e-5, ours=lambda e: e < 3e-7)
def bias_correction(o: Any) -> float:
    return float(abs(last(o.scale_by_adam(eps=0.0), [P], P)[0] - 1))


@claim("4. ", "one gradient of 1e20", theirs=True, ours=False)
def one_large_gradient(o: Any) -> bool:
    return bool(jnp.all(last(o.adam(0.1), [1e20 * P, *[P] * 20], P) == 0))


@claim("one infinite gradient", theirs=lambda u: bool(jnp.all(u == 0)), ours=is_nan)
def one_infinite_gradient(o: Any) -> Any:
    return last(o.adagrad(0.1), [jnp.inf * P, P, P], P)


@claim("one infinite gradient", theirs=is_nan, ours=is_nan)
def one_infinite_gradient_in_adam(o: Any) -> Any:
    return last(o.adam(0.1), [jnp.inf * P, P, P], P)


@claim("`isinstance(gdjax.adam(1e-3), optax.GradientTransformation)`", theirs=True, ours=True)
def instances(o: Any) -> bool:
    return isinstance(o.adam(1e-3), optax.GradientTransformation)


@claim("`global_norm`", theirs=jnp.inf, ours=near(3e20))
def norm_of_large_numbers(o: Any) -> float:
    return float(o.global_norm({"a": jnp.full(9, 1e20)}))


@claim("`global_norm`", theirs=lambda x: x < 17, ours=near(20, 0.01))
def norm_of_many_numbers(o: Any) -> float:
    return float(o.global_norm([jnp.ones((), "bfloat16")] * 400))


@claim("5. ", "gradient of another shape", theirs=(3,), ours=ValueError)
def another_shape(o: Any) -> Any:
    return last(o.adam(0.1), [jnp.ones(1)], P).shape


@claim("5. ", "gradient of another shape", theirs=(3,), ours=ValueError)
def another_shape_where_nothing_compares(o: Any) -> Any:
    return o.apply_updates(P, o.sgd(0.1).update(jnp.ones(1), o.sgd(0.1).init(P))[0]).shape


@claim("a gradient of None for a parameter that is an array", theirs=lambda x: not x, ours=True)
def a_gradient_of_none(o: Any) -> bool:
    p, tx = {"a": P, "b": P}, o.sgd(0.1, momentum=0.9)
    try:
        _, state = tx.update({"a": G, "b": None}, tx.init(p), p)
    except ValueError:
        return False
    return jax.tree.structure(state) == jax.tree.structure(tx.init(p))


@claim("`init(None)`, any state", theirs=True, ours=True)
def any_state(o: Any) -> bool:
    o.scale(2.0).init(None)
    return all(bool(jnp.all(o.scale(2.0).update(G, s)[0] == 2 * G)) for s in (None, {}))


@claim("6. ", "`init(None)` of a transform that keeps arrays", theirs=anything, ours=Exception)
def forgotten_parameters(o: Any) -> Any:
    return o.adam(0.1).init(None)


@claim("an extra argument of `update`", theirs=finite, ours=finite)
def an_extra_argument(o: Any) -> Any:
    return last(o.with_extra_args_support(o.sgd(0.1)), [G], P, loss=1.0)


@claim("a state of Optax", theirs=True, ours=True)
def state_of_optax(o: Any) -> bool:
    state: Any = optax.adam(0.1).init(P)
    return type(o.adam(0.1).update(G, state, P)[1][0]) is type(state[0])


@claim("6. ", "a number outside its domain", theirs=anything, ours=ValueError)
def outside_its_domain(o: Any) -> Any:
    return o.adam(0.1, b1=1.0)


@claim("a number outside its domain", theirs=anything, ours=ValueError)
def a_negative_eps(o: Any) -> Any:
    return o.adam(0.1, eps=-1e-8)


@claim("b2 = 1", theirs=is_nan, ours=is_nan)
def b2_of_one(o: Any) -> Any:
    return last(o.adam(0.1, b2=1.0), [G], P)


@claim("b2 = 1", theirs=0, ours=1)
def b2_of_one_warns(o: Any) -> int:
    return len(set(told(lambda: o.adam(0.1, b2=1.0))))


@claim("`scale_by_schedule(None)`", theirs=0, ours=1)
def a_schedule_of_none_warns(o: Any) -> int:
    return len(told(lambda: o.scale_by_schedule(None).init(P)))


@claim("`scale_by_schedule(None)`", theirs=TypeError, ours=TypeError)
def a_schedule_of_none_fails(o: Any) -> Any:
    return last(o.scale_by_schedule(None), [G], P)


@claim("6. ", "`learning_rate=None`", theirs=lambda u: bool(jnp.all(u == G)), ours=TypeError)
def no_learning_rate(o: Any) -> Any:
    return last(o.sgd(None), [G], P)


@claim(
    "7. ",
    "two learning rates in a chain",
    theirs=lambda u: bool(jnp.all(u * G > 0)),
    ours=lambda u: bool(jnp.all(u * G > 0)),
)
def two_rates(o: Any) -> Any:
    return last(o.chain(o.adam(1e-3), o.sgd(0.1)), [G], P)


@claim("7. ", "two learning rates in a chain", theirs=(0, 0), ours=(1, 0))
def two_rates_warn(o: Any) -> Any:
    two = lambda *more: o.chain(o.adam(1e-3), o.sgd(0.1), *more)
    return len(told(two)), len(told(lambda: two(o.scale(-1.0))))


@claim("decay behind the rate", theirs=(True, 0), ours=(True, 1))
def decay_behind_the_rate(o: Any) -> Any:
    """Whether parameters without a gradient grow, and the warnings."""
    tx = o.chain(o.adam(1e-3), o.add_decayed_weights(0.1))
    return bool(jnp.all(last(tx, [0 * G], P) > 0)), len(told(lambda: tx.init(P)))


@claim("a clip by the global norm with other steps", theirs=0, ours=1)
def a_clip_in_a_group(o: Any) -> int:
    clipped = o.chain(o.clip_by_global_norm(1.0), o.sgd(0.1))
    tx = o.partition({"a": clipped, "b": o.adam(0.1)}, {"x": "a", "y": "b"})
    return len(told(lambda: tx.init({"x": P, "y": P})))


class Label(enum.Enum):
    A, B = 1, 2


@claim("labels of `partition` that do not compare", theirs=ValueError, ours=2)
def labels_that_do_not_compare(o: Any) -> Any:
    tx = o.partition({Label.A: o.sgd(0.1), Label.B: o.sgd(0.2)}, {"a": Label.A, "b": Label.B})
    p = {"a": P, "b": P}
    return len(jax.jit(tx.update)(p, tx.init(p), p)[0])


@claim("labels of `partition` that do not compare", theirs=ValueError, ours=2)
def labels_of_two_kinds(o: Any) -> Any:
    tx, p = o.partition({1: o.sgd(0.1), "a": o.sgd(0.2)}, {"a": 1, "b": "a"}), {"a": P, "b": P}
    return len(jax.jit(tx.update)(p, tx.init(p), p)[0])


@claim("a group of `partition` without leaves", theirs=0, ours=1)
def a_group_without_leaves(o: Any) -> Any:
    tx = o.partition({"a": o.sgd(0.1), "b": o.sgd(0.2)}, {"w": "a"})
    return len(told(lambda: tx.init({"w": P})))


@claim("a group of `partition` without leaves", theirs=0, ours=1)
def a_mask_of_nothing(o: Any) -> Any:
    return len(told(lambda: o.masked(o.sgd(0.1), {"w": False}).init({"w": P})))


@claim("`muon`: kernels of three axes", theirs=0, ours=1)
def muon_of_a_convolution(o: Any) -> Any:
    return len(told(lambda: o.contrib.muon(0.02).init({"conv": jnp.ones((3, 4, 5)), "w": jnp.ones((8, 8))})))


@claim("noise without a key", theirs=1, ours=1)
def noise_without_a_key(o: Any) -> Any:
    return len(told(lambda: o.noisy_sgd(0.1)))


@claim("`inject_hyperparams` of an argument declared `int`", theirs=True, ours=False)
def injected_integers(o: Any) -> bool:
    return "memory_size" in o.inject_hyperparams(o.lbfgs)(0.1, memory_size=5).init(P).hyperparams


@claim("`inject_hyperparams` of an argument declared `int`", theirs=jax.errors.TracerBoolConversionError, ours=finite)
def injected_adafactor(o: Any) -> Any:
    tx, w = o.inject_hyperparams(o.adafactor)(0.1), jnp.ones((4, 4))
    return jax.jit(tx.update)(w, tx.init(w), w)[0]


@claim("`inject_hyperparams` of a mask", theirs=True, ours=False)
def injected_mask(o: Any) -> bool:
    """Whether nothing decays."""
    tx = o.inject_hyperparams(o.adamw)(0.1, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda x: x.ndim > 0, p))
    return bool(jnp.all(last(tx, [jnp.zeros(3)], P) == 0))


@claim("`inject_hyperparams` | in the dtype", theirs="bfloat16", ours="float32")
def injected_dtype(o: Any) -> str:
    return str(o.inject_hyperparams(o.adam)(0.1).init(P.astype("bfloat16")).hyperparams["b2"].dtype)


@claim("choosing leaves by path", theirs=False, ours=True)
def by_path(o: Any) -> bool:
    return hasattr(o, "mask_by_path") and hasattr(o, "label_by_path")


@claim("names under `optax.contrib`", theirs=False, ours=True)
def names_at_the_top(o: Any) -> bool:
    return hasattr(o, "muon")


@claim("a plain transform", theirs=(False, True), ours=(False, True))
def extra_arguments(o: Any) -> Any:
    plain = o.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    return tuple(isinstance(tx, o.GradientTransformationExtraArgs) for tx in (plain, o.with_extra_args_support(plain)))


@claim("parameters of integers", theirs=("int32", "int32"), ours=("int32", "int32"))
def integers(o: Any) -> Any:
    state = o.adam(0.1).init({"w": P, "n": jnp.arange(2)})[0]
    return str(state.mu["n"].dtype), str(state.nu["n"].dtype)


@claim("parameters of integers", theirs=TypeError, ours=near(-0.1))
def integers_are_left_alone(o: Any) -> Any:
    p = {"w": jnp.ones(3), "n": jnp.arange(2)}
    return last(o.adam(0.1), [{"w": P, "n": np.zeros(2, jax.dtypes.float0)}], p)["w"]


def curve(o: Any, dtype: str) -> Any:
    """The loss of a linear model with a momentum in bfloat16."""
    x = jax.random.normal(jax.random.key(0), (64, 8))
    y, w, tx = x @ jnp.arange(8.0), jnp.zeros(8), o.sgd(3e-2, momentum=0.9, accumulator_dtype=dtype)
    loss = lambda w: jnp.mean((x @ w - y) ** 2)
    state, found = tx.init(w), []
    for _ in range(60):
        u, state = tx.update(jax.grad(loss)(w), state, w)
        w = o.apply_updates(w, u)
        found.append(float(loss(w)))
    return np.array(found)


@claim("a momentum in bfloat16", theirs=lambda e: 2e-3 < e < 2.6e-2, ours=lambda e: e < 1e-3)
def bfloat16_momentum(o: Any) -> float:
    exact = curve(gdjax, "float32")
    return float(np.max(np.abs(curve(o, "bfloat16") - exact) / exact[0]))


@claim("gradients that are NumPy float64 arrays", theirs="float64", ours="float32")
def a_third(o: Any) -> str:
    g = np.full(3, 1 / 3)
    return str(o.sgd(0.1).update(g, o.sgd(0.1).init(np.zeros(3)))[0].dtype)
