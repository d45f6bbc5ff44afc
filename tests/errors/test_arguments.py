"""Every argument of every factory: what makes no sense for it is an error when the factory is called."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gdjax
from gdjax.core.signatures import facts_of
from tests.contracts.test_contracts import is_factory
from tests.support import relaxed

SGD = gdjax.sgd(0.1)
NO_ARGUMENTS_OF_ITS_OWN = {"chain", "named_chain", "inject_hyperparams", "inject_stateful_hyperparams", "sgdr_schedule"}
MAKERS = {"leafwise", "matrixwise", "transform", "to_optax", "from_optax"}  # of factories; from and to transforms
TRANSFORMS = {
    name: getattr(gdjax, name)
    for name in [*gdjax.__all__, "MultiSteps"]
    if (is_factory(getattr(gdjax, name)) or name == "MultiSteps") and name not in NO_ARGUMENTS_OF_ITS_OWN | MAKERS
}
SCHEDULES = {
    name: f
    for name, f in vars(gdjax.schedules).items()
    if name in gdjax.schedules.__all__ and name.endswith(("schedule", "schedules", "decay")) and inspect.isfunction(f)
}
FACTORIES = {**TRANSFORMS, **{name: f for name, f in SCHEDULES.items() if name not in NO_ARGUMENTS_OF_ITS_OWN}}


def constant(step: Any) -> Any:
    return 0.1


def never(step: Any) -> Any:
    return False


# What a factory is called with, by the name of the argument: where it has no default, and in place of a None.
VALUES: dict[str, Any] = {
    **dict.fromkeys(["inner", "opt", "optimizer", "tx", "adv_optimizer", "base_optimizer", "fast_optimizer"], SGD),
    **dict.fromkeys(["learning_rate", "clipping", "radius", "damping", "noise_multiplier"], 0.1),
    **dict.fromkeys(["step_size", "slow_step_size"], 0.1),
    **dict.fromkeys(["max_delta", "max_norm", "threshold", "l2_norm_clip", "adam_learning_rate", "data_size"], 1.0),
    **dict.fromkeys(["max_consecutive_errors", "wait", "sync_period", "every", "every_k_schedule", "down_steps"], 3),
    **dict.fromkeys(["max_backtracking_steps", "max_linesearch_steps", "key", "seed", "random_seed"], 3),
    **dict.fromkeys(["mask", "freeze_mask", "weight_decay_mask"], True),
    **dict.fromkeys(["mu_dtype", "nu_dtype", "accumulator_dtype", "state_dtype", "ns_dtype"], "float32"),
    **dict.fromkeys(["momentum", "beta3", "decay", "inner_momentum"], 0.9),
    **dict.fromkeys(["init_value", "peak_value", "end_value", "value", "amplitude", "power"], 1.0),
    **dict.fromkeys(["transition_steps", "decay_steps", "stable_steps", "up_steps"], 10),
    **dict.fromkeys(["floor", "weight_decay", "weight_decay_rate", "lookahead", "optimism", "consistent_rms"], 0.1),
    **dict.fromkeys(["init_estim_sq_dist", "max_learning_rate", "timescale"], 1.0),
    **dict.fromkeys(["f", "measure", "step_size_fn"], constant),
    **dict.fromkeys(["should_transform_fn", "should_skip_update_fn"], never),
    "warmup_steps": 2, "decay_rate": 0.5, "eta": 0.1, "gamma": 0.5, "exponent": -0.5, "interpolate_type": "linear",
    "measures": {}, "measure_name": "m", "transforms": {"a": SGD}, "param_labels": "a", "axis": 0, "curvature": "skip",
    "init_step": ("heuristic", 1e-6), "schedules": [constant] * 2, "boundaries": [3], "boundaries_and_scales": {3: 0.5},
    "hessian_diagonal_fn": SGD, "linesearch": SGD, "groups": {"a": 1}, "start": 3, "bounds": (-1.0, 1.0),
    "preconditioner_update_probability": 0.5, "memory_save_mode": "one_diag", "others": SGD, "block_size": 8,
    "max_precond_dim": 8, "start_preconditioning_step": 3, "root": 4.0, "shampoo_beta": 0.9, "steps": 10,
    "half_life": 10.0, "momentum_decay": 0.004, "hyperball_learning_rate": 0.1, "peak_learning_rate": 0.1,
    "delta": 8.0, "batch": 4, "base_batch": 2, "tokens": 4, "base_tokens": 2, "base": {"w": 1.0},
    "layer_axes": 1, "n_heads": 4, "n_kv_heads": 2, "equilibrate": "outputs", "renormalize": "frobenius",
}  # fmt: skip
# What has no sense, by the kind of what has.
NUMBER = [float("nan"), True, "0.1", jnp.ones(2), np.ones(2), np.array(True), 1j, float, jax.random.key(0)]
INTEGER = [1.5, float("nan"), "3", True, np.ones(2, int), -1]
BAD: dict[type, list[Any]] = {
    float: NUMBER,
    int: INTEGER,
    bool: ["yes", "False", 2, None, np.ones(2, bool)],
    str: ["nonsense", 3, None],
    dict: [0.1, [0.1]],
}
DTYPE, FUNCTION, MASK = ["float31", "int8", jnp.ones(2)], [0.1, "f", float], [0.1, "all", jnp.ones(3), np.ones(3, bool)]
KEY, AXES, OPTIMIZER = ["k", 0.5, True, jnp.ones(2)], [0.5, "0", True, (0, 0.5)], [0.1, "sgd"]
BY_NAME: dict[str, list[Any]] = {
    "bounds": [0.5, (1.0,), (1.0, 0.0), (float("nan"), 1.0), "01"],
    "betas": [0.9, (0.9,), (0.9, 1.0), (float("nan"), 0.9), ("0.9", 0.9)],
    "init_step": ["heuristic", ("x", 1.0), ("heuristic", 0.0), ("heuristic", True), ("heuristic", "1")],
    "ns_coeffs": ["x", (1.0, 2.0), None, float],
    "schedules": [[0.1], [], [constant] * 3],
    "boundaries": [[], [-1], ["3"]],
    "boundaries_and_scales": [{-1: 0.5}, {"3": 0.5}, {3: "x"}, {3: float("nan")}, {3: True}],
    "measure_name": [3, None],
    "equilibrate": ["nonsense", 3],
    "renormalize": ["nonsense", 3],
    "every": INTEGER,
    "weight": [3, jnp.ones(2)],
    "unreduced": [("data", 3)],
    "exempt": ["(", 3],
    "layer_axes": [0.5, True, -1, "(", [1], jnp.ones(2), {3: 1}],
    "scale_dtype": ["float16", 3],
    **dict.fromkeys(["moments", "squares", "bases"], ["nonsense", 3]),
    "remainder_bits": [4, 24, "16", jnp.float32],
    "norms": ["grads", 3, ("grad", "step"), None],
    "axis": AXES,
    "output_axis": AXES,
    "grafting": ["nonsense", 3],
    **dict.fromkeys(["batch", "base_batch", "tokens", "base_tokens"], [*NUMBER, 0, -1]),
    "for_length.exponent": NUMBER,
    "depth": ["(", 3],
    "decay_offset": NUMBER,
    "step_offset": NUMBER,
    "tokens_per_step": [*NUMBER, 0, -1],
    "param_labels": ["b", jnp.ones(2)],
    "memory_save_mode": ["nonsense", 3],
    **dict.fromkeys(["key", "seed", "random_seed"], KEY),
}
# What the message calls an argument, where it names a part of it.
NAMES = {"betas": "beta", "param_labels": "no transform for", "boundaries": "bound", "boundaries_and_scales": "bound"}
NAMES |= {"muon_weight_dimension_numbers": "", "seed": "", "random_seed": "", "base_optimizer": "argument"}
# Numbers of either sign.
SIGNED = (
    "step_size gamma f_min lower_bound scale_factor global_scale lookahead optimism weight_lr_power r muon.power "
    "scale_by_muon.power galore.scale "
    "scale_by_galore.scale optimistic_gradient_descent.alpha optimistic_gradient_descent.beta optimistic_adam_v2.alpha "
    "for_length.exponent optimistic_adam_v2.beta scale_by_optimistic_gradient.alpha scale_by_optimistic_gradient.beta"
).split()
# Steps of which fewer than 0 are none, with a warning, as in Optax: see tests/schedules/test_edges.py.
NONE_BELOW_0 = {
    "warmup_constant_schedule.warmup_steps",
    *(f"{name}.{steps}" for steps in ("transition_steps", "transition_begin")
      for name in ("linear_schedule", "polynomial_schedule", "exponential_decay", "warmup_exponential_decay_schedule")),
}  # fmt: skip
ANY = {
    "weight_dimension_numbers": "a tree like the parameters, or a function of them: `init` looks at it",
    "muon_weight_dimension_numbers": "as above",
    "roles": "as muon_weight_dimension_numbers",
    "base": "a tree of parameters: `init` looks at it",
    "batch_axis_name": "what jax.lax.pmean takes",
    "groups": "as the labels of `partition`: `init` looks at them",
}


def call(factory: Callable[..., Any], **changes: Any) -> Any:
    parameters = inspect.signature(factory).parameters.values()
    given = {p.name: VALUES[p.name] for p in parameters if p.default is p.empty}
    if {"key", "seed"} <= set(inspect.signature(factory).parameters) and "seed" not in changes:
        given["key"] = 0
    return factory(**{**given, **changes})


def arguments(name: str) -> Iterator[tuple[str, Any]]:
    """The names of a factory's arguments with something that they may be."""
    for p in inspect.signature(FACTORIES[name]).parameters.values():
        plain = p.default is p.empty or p.default is None or p.name in VALUES and callable(p.default)
        yield p.name, VALUES[p.name] if plain and p.name in VALUES else p.default


def bad(name: str, argument: str, good: Any) -> list[Any]:
    if argument in ANY:
        return []
    if argument in BY_NAME:
        return BY_NAME[argument]
    if "dtype" in argument:
        return DTYPE
    if argument.endswith("mask"):
        return MASK
    if hasattr(good, "update"):
        return OPTIMIZER
    if callable(good):
        return FUNCTION
    if type(good) is int and (name in SCHEDULES or argument == "warmup_steps"):
        whole = INTEGER[1:-1] if f"{name}.{argument}" in NONE_BELOW_0 else INTEGER[1:]
        return [*whole, float("inf"), 1j]  # a fraction of a step makes sense
    signed = name in SCHEDULES or {argument, f"{name}.{argument}"} & set(SIGNED)
    return [*BAD[type(good)], *([-1.0] if type(good) is float and not signed else [])]


def rejected(name: str, argument: str, value: Any) -> str | None:
    """What is wrong with the answer to a bad value; None for an error of the library that names the argument."""
    try:
        call(FACTORIES[name], **{argument: value})
    except (TypeError, ValueError) as e:
        named = NAMES.get(argument, argument) in str(e) or "argument " in str(e)
        return None if str(e).startswith("gdjax.") and named else f"{argument}={value!r}: {e}"
    return f"{argument}={value!r} is accepted"


@pytest.mark.parametrize("name", FACTORIES)
def test_an_argument_that_makes_no_sense_is_an_error(name: str):
    call(FACTORIES[name])
    wrong = [rejected(name, arg, value) for arg, good in arguments(name) for value in bad(name, arg, good)]
    assert not (found := [x for x in wrong if x]), "\n".join(found)


# Numbers that shape the program, which a schedule or a tracer cannot stand for.
STRUCTURAL = (
    "rank memory_size num_betas sync_period wait min_dim_size_to_factor warmup_steps every_k_schedule "
    "print_win_rate_every_n_steps transition_steps transition_begin decay_steps stable_steps up_steps down_steps"
).split()
SHAPING = [(name, arg) for name in FACTORIES for arg, _ in arguments(name) if arg in STRUCTURAL]


@pytest.mark.parametrize(("name", "argument"), SHAPING, ids=lambda x: x)
def test_a_structural_integer_cannot_be_traced(name: str, argument: str):
    def traced(k: Any) -> Any:
        call(FACTORIES[name], **{argument: k})
        return k

    with pytest.raises(TypeError, match=rf"^gdjax\.\w+: {argument} .*static_args"):
        jax.jit(traced)(3)


def test_every_argument_has_a_domain_or_is_checked_by_its_factory():
    def known(name: str, argument: str, good: Any) -> bool:
        return (
            bool(facts_of(inspect.signature(FACTORIES[name]), argument))
            or argument in ANY
            or bool(bad(name, argument, good))
        )

    unknown = [(name, arg) for name in FACTORIES for arg, good in arguments(name) if not known(name, arg, good)]
    assert unknown == []


@pytest.mark.parametrize("name", [*FACTORIES, "inject_hyperparams", "sgdr_schedule", "named_chain", "chain"])
def test_an_unknown_keyword_is_an_error_that_names_it(name: str):
    factory = {**FACTORIES, **{n: getattr(gdjax, n) for n in NO_ARGUMENTS_OF_ITS_OWN}}[name]
    plain = name in ("MultiSteps", "inject_hyperparams", "sgdr_schedule")  # Python's own message
    told = r"unknown argument 'momentun'(: perhaps (inner_)?moment(um|s)(_decay)?)?; it(s arguments are| takes none)"
    start = r"" if plain else rf"^gdjax\.{factory.__name__}: {told}"
    with pytest.raises(TypeError, match=start or "momentun"):
        factory(momentun=0.9) if plain or name not in FACTORIES else call(factory, momentun=0.9)


@pytest.mark.full
def test_b2_of_one_is_let_in_as_optax_does():
    """It is in use. The NaN shows what it does, in Optax too."""
    p, g = jnp.ones(3), jnp.array([1.0, -2.0, 3.0])
    for name in ("adam", "adamw", "lamb", "amsgrad", "adan", "adamax", "lion", "novograd"):
        with pytest.warns(UserWarning, match="b2 is 1: no gradient enters that average"):
            ours = getattr(gdjax, name)(0.1, b2=1.0)
        with relaxed():
            theirs = getattr(optax, name)(0.1, b2=1.0)
            wanted = theirs.update(g, theirs.init(p), p)[0]
        np.testing.assert_allclose(ours.update(g, ours.init(p), p)[0], wanted, rtol=1e-6)
    for array in (jnp.float32(1.0), np.float64(1.0)):
        with pytest.warns(UserWarning, match="b2 is 1"):
            gdjax.scale_by_adam(b2=array)
    for name, b in (
        ("adam", "b1"),
        ("rmsprop", "decay"),
        ("radam", "b2"),
        ("soap", "b2"),
        ("schedule_free_adamw", "b2"),
    ):
        with pytest.raises(ValueError, match=rf"^gdjax.{name}: {b} must be in \[0, 1\), got 1.0"):
            getattr(gdjax, name)(0.1, **{b: 1.0})


def test_a_schedule_of_none_is_let_in_as_optax_does():
    with pytest.warns(UserWarning, match="gdjax.scale_by_schedule: step_size_fn is None: update will raise an error"):
        tx = gdjax.scale_by_schedule(None)
    theirs = optax.scale_by_schedule(None).init(jnp.ones(2))
    assert gdjax.state_from_optax(theirs) == tx.init(jnp.ones(2))
    with pytest.raises(
        TypeError, match="gdjax.scale_by_schedule: .*step_size_fn is None: give a function of the count"
    ):
        tx.update(jnp.ones(2), theirs)
    with pytest.raises(TypeError, match="step_size_fn must be a function, got 0.1"):
        gdjax.scale_by_schedule(0.1)
