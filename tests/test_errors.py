"""A clear error for each misuse. The numbers are those of the list of adversarial inputs the project began with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax import EmptyState

PARAMS = {"dense": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones((3,))}}


def update(tx: Any, updates: Any, params: Any = PARAMS, *, made_for: Any = None) -> Any:
    return tx.update(updates, tx.init(params if made_for is None else made_for), params)


def dense(**leaves: Any) -> Any:
    return {"dense": {**PARAMS["dense"], **leaves}}


def leaf(x: Any) -> Any:
    return gdjax.adam(0.1).init({"dense": {"kernel": x}})


def injected_wait() -> Any:
    tx = gdjax.inject_hyperparams(gdjax.perturbed_gradient_descent)(0.1)
    return update(tx, PARAMS)


def traced_wait(wait: Any) -> Any:
    return gdjax.perturbed_gradient_descent(0.1, wait=wait).init(PARAMS)


class Misuse(NamedTuple):
    id: str
    call: Callable[[], Any]
    error: type[Exception]
    message: str  # a regular expression for the start of it


KERNEL, BIAS = r"\['dense'\]\['kernel'\]", r"\['dense'\]\['bias'\]"
adam, sgd = gdjax.adam, gdjax.sgd
warmup_cosine, piecewise = gdjax.warmup_cosine_decay_schedule, gdjax.piecewise_constant_schedule

MISUSES = [
    Misuse("A1", lambda: adam(None), TypeError, r"gdjax.adam: learning_rate must be a number, a scalar .* got None"),
    Misuse("A1-sgd", lambda: sgd(None), TypeError, r"gdjax.sgd: learning_rate must be .* got None"),
    Misuse("A1-part", lambda: gdjax.scale_by_learning_rate(None), TypeError, r"gdjax.scale_by_learning_rate: .* None"),
    Misuse("A2", lambda: adam("0.1"), TypeError, r"gdjax.adam: learning_rate must be a number.* got '0.1'"),
    Misuse("A3-nan", lambda: adam(float("nan")), ValueError, r"gdjax.adam: learning_rate must be finite .* got nan"),
    Misuse("A3-inf", lambda: adam(np.float32("inf")), ValueError, r"gdjax.adam: learning_rate must be finite .*inf"),
    Misuse("A4", lambda: adam(-0.1), ValueError, r"gdjax.adam: learning_rate .* at least 0 .*gdjax.scale.* got -0.1"),
    Misuse("A6", lambda: sgd(jnp.ones(2)), ValueError, r"gdjax.sgd: learning_rate must be a scalar, got shape \(2,\)"),
    Misuse("A6-numpy", lambda: sgd(np.ones(3)), ValueError, r"gdjax.sgd: learning_rate .* scalar, got shape \(3,\)"),
    Misuse("A7", lambda: adam(True), TypeError, r"gdjax.adam: learning_rate must be a number.* got True"),
    Misuse("A8-1", lambda: adam(0.1, b1=1.0), ValueError, r"gdjax.adam: b1 must be in \[0, 1\).* got 1.0"),
    Misuse("A8-negative", lambda: gdjax.lion(0.1, b1=-0.1), ValueError, r"gdjax.lion: b1 must be in \[0, 1\).* -0.1"),
    Misuse("A9", lambda: adam(0.1, b2=1.5), ValueError, r"gdjax.adam: b2 must be in \[0, 1\).* got 1.5"),
    Misuse("A9-float32", lambda: adam(0.1, b2=1 - 1e-9), ValueError, r"gdjax.adam: b2 .* below 1 in float32 too"),
    Misuse("A10", lambda: adam(0.1, eps=-1e-8), ValueError, r"gdjax.adam: eps must be .* at least 0, got -1e-08"),
    Misuse("A11", lambda: gdjax.adamw(0.1, weight_decay=-1.0), ValueError, r"gdjax.adamw: weight_decay .* got -1.0"),
    Misuse("A12-1", lambda: sgd(0.1, momentum=1.0), ValueError, r"gdjax.sgd: momentum must be in \[0, 1\).* got 1.0"),
    Misuse("A12-negative", lambda: gdjax.rmsprop(0.1, momentum=-0.5), ValueError, r"gdjax.rmsprop: momentum .* -0.5"),
    Misuse("A13", lambda: sgd(0.1, nesterov=True), ValueError, r"gdjax.sgd: nesterov=True needs a momentum, got None"),
    Misuse("A13-rmsprop", lambda: gdjax.rmsprop(0.1, nesterov=True), ValueError, r"gdjax.rmsprop: nesterov=True needs"),
    Misuse("A14", lambda: gdjax.clip_by_global_norm(-1.0), ValueError, r"gdjax.clip_by_global_norm: max_norm .* -1.0"),
    Misuse("A14-nan", lambda: gdjax.clip_by_global_norm(np.nan), ValueError, r"gdjax.clip_by_global_norm: .* got nan"),
    Misuse("A15", lambda: gdjax.clip(-1.0), ValueError, r"gdjax.clip: max_delta must be at least 0, got -1.0"),
    Misuse("A16", lambda: adam(0.1, mu_dtype="float31"), TypeError, r"gdjax.adam: mu_dtype .* a dtype, got 'float31'"),
    Misuse("A16-int", lambda: adam(0.1, mu_dtype="int8"),
           ValueError, r"gdjax.adam: mu_dtype .* floating dtype, got int8"),
    Misuse("A19", lambda: gdjax.add_noise(-0.1, 0.5, 0), ValueError, r"gdjax.add_noise: eta .* at least 0, got -0.1"),
    Misuse("A19-key", lambda: gdjax.noisy_sgd(0.1),
           ValueError, r"gdjax.(noisy_sgd|add_noise): key is None; pass a PRNG key"),
    Misuse("A20", lambda: warmup_cosine(0.0, 1.0, 20, 10),
           ValueError, r"gdjax.warmup_cosine_decay_schedule: .*decay_steps=10 .*warmup_steps=20"),
    Misuse("A21", lambda: gdjax.linear_schedule(1.0, 0.0, 0),
           ValueError, r"gdjax.linear_schedule: transition_steps .*0"),
    Misuse("A22", lambda: piecewise(1.0, {-1: 0.1}), ValueError, r"gdjax.piecewise_constant_schedule: .*boundar.*-1"),
    Misuse("A23", lambda: gdjax.join_schedules([lambda t: t], [1]), ValueError, r"gdjax.join_schedules: .*1.*1"),
    Misuse("A24", lambda: gdjax.exponential_decay(1.0, 10, 0.0),
           ValueError, r"gdjax.exponential_decay: decay_rate .*0"),
    Misuse("A25", lambda: jax.jit(traced_wait)(3), TypeError, r"gdjax.\w+: wait .* cannot be traced; .* static_args"),
    Misuse("A25-inject", injected_wait, TypeError, r"gdjax.\w+: wait .* static_args"),
    Misuse("A25-type", lambda: traced_wait(1.5), TypeError, r"gdjax.\w+: wait must be an int, got 1.5"),
    Misuse("A25-value", lambda: traced_wait(-1), ValueError, r"gdjax.\w+: wait must be at least 0, got -1"),
    Misuse("A26", lambda: adam(0.1, beta1=0.9),
           TypeError, r"gdjax.adam: .*'beta1'; its arguments are learning_rate, b1"),
    Misuse("A27-shape", lambda: update(sgd(lambda t: jnp.ones(1)), PARAMS), ValueError,
           r"gdjax.sgd: the schedule of learning_rate returned shape \(1,\), expected a scalar"),
    Misuse("A27-string", lambda: update(sgd(lambda t: "x"), PARAMS), TypeError,
           r"gdjax.sgd: the schedule of learning_rate returned 'x'"),
    Misuse("A30", lambda: adam(0.1).init(None), ValueError, r"gdjax.adam.init: params is None"),
    Misuse("A32", lambda: gdjax.chain(sgd(0.1), 0.1),
           TypeError, r"gdjax.chain: argument 1 is 0.1, .* no init and update"),
    Misuse("A32-masked", lambda: gdjax.masked(0.1, True), TypeError, r"gdjax.masked: argument 0 is 0.1"),
    Misuse("A32-partition", lambda: gdjax.partition({"a": 1}, "a"), TypeError, r"gdjax.partition: argument 'a' is 1"),
    Misuse("A32-named_chain", lambda: gdjax.named_chain(sgd(0.1)),
           TypeError, r"gdjax.named_chain: argument 0 is .* pair"),
    Misuse("A33", lambda: update(adam(0.1), {"dense": {"kernel": jnp.ones((3, 1))}}), ValueError,
           rf"gdjax.adam: params{BIAS} has no counterpart in the updates"),
    Misuse("A33-stateless", lambda: update(sgd(0.1), {"dense": {"kernel": jnp.ones((3, 1))}}), ValueError,
           rf"gdjax.sgd: params{BIAS} has no counterpart in the updates"),
    Misuse("A34", lambda: update(sgd(0.1), dense(extra=jnp.ones(2))), ValueError,
           r"gdjax.sgd: params\['dense'\]\['extra'\] is missing"),
    Misuse("A35", lambda: update(sgd(0.1), [jnp.ones(2)], (jnp.ones(2),)), ValueError,
           r"gdjax.sgd: updates .*\[\*\].* and params .*\(\*,\).* are of different types"),
    Misuse("A36", lambda: update(adam(0.1), dense(bias=None)), ValueError, rf"gdjax.adam: params{BIAS} has no counter"),
    Misuse("A40", lambda: update(gdjax.adamw(0.1), dense(kernel=jnp.ones((1, 3)))), ValueError,
           rf"gdjax.adamw: params{KERNEL}: gradient shape \(1, 3\) does not match parameter shape \(3, 1\)"),
    Misuse("A40-apply", lambda: gdjax.apply_updates(PARAMS, dense(kernel=jnp.ones((1, 3)))), ValueError,
           rf"gdjax.apply_updates: params{KERNEL}: update shape \(1, 3\) does not match \(3, 1\)"),
    Misuse("A42-int", lambda: update(adam(0.1), dense(bias=jnp.ones(3, int))), TypeError,
           rf"gdjax.adam: params{BIAS}: gradient has dtype int32; mask or freeze"),
    Misuse("A42-bool", lambda: update(sgd(0.1), dense(bias=jnp.ones(3, bool))), TypeError,
           rf"gdjax.sgd: params{BIAS}: gradient has dtype bool; mask or freeze"),
    Misuse("A42-params", lambda: update(adam(0.1), PARAMS, dense(bias=jnp.ones(3, "uint8"))), TypeError,
           rf"gdjax.adam: params{BIAS} has dtype uint8, and takes no gradient: mask or freeze"),
    Misuse("A44", lambda: update(adam(0.1), dense(bias=jnp.ones(3, "complex64"))), TypeError,
           rf"gdjax.adam: params{BIAS}: complex gradient \(complex64\) for a real parameter \(float32\)"),
    Misuse("A45", lambda: leaf(jnp.ones(3, "float8_e4m3fn")), TypeError,
           rf"gdjax.adam: params{KERNEL} has dtype float8_e4m3fn: keep the parameters in bfloat16 or wider"),
    Misuse("A45-int4", lambda: leaf(jnp.ones(3, "int4")), TypeError, rf"gdjax.adam: params{KERNEL} has dtype int4"),
    Misuse("A46", lambda: leaf(jax.random.key(0)), TypeError, rf"gdjax.adam: params{KERNEL} is a PRNG key"),
    Misuse("A47-string", lambda: leaf("relu"),
           TypeError, rf"gdjax.adam: params{KERNEL} is 'relu' \(str\), .*eqx.filter"),
    Misuse("A47-function", lambda: leaf(jax.nn.relu), TypeError, rf"gdjax.adam: params{KERNEL} is .*relu.*eqx.filter"),
    Misuse("A55", lambda: adam(0.1).update(PARAMS, sgd(0.1, 0.9).init(PARAMS), PARAMS), ValueError,
           r"gdjax.adam: state has fields \('trace',\), expected ScaleByAdamState with fields \('count', 'mu', 'nu'\)"),
    Misuse("A56", lambda: adam(0.1).update(PARAMS, gdjax.adamw(0.1).init(PARAMS), PARAMS), ValueError,
           r"gdjax.adam: state has 3 entries for 2 transforms"),
    Misuse("A57", lambda: adam(0.1).update(PARAMS, [{"count": 0, "mu": {}, "nu": {}}, None], PARAMS), ValueError,
           r"gdjax.adam: state has type dict, expected ScaleByAdamState .*init\(params\) as its target"),
    Misuse("A57-dict", lambda: gdjax.named_chain(("a", sgd(0.1))).update(PARAMS, {"b": ()}, PARAMS), ValueError,
           r"gdjax.named_chain: state is dict, not what init made for 1 transforms .* init\(params\) as its target"),
    Misuse("A58", lambda: update(adam(0.1), PARAMS, made_for={"dense": {"kernel": jnp.ones((3, 1))}}), ValueError,
           rf"gdjax.adam: state.mu{BIAS} is missing"),
    Misuse("A58-shape", lambda: update(adam(0.1), PARAMS, made_for=dense(bias=jnp.ones(4))), ValueError,
           rf"gdjax.adam: params{BIAS}: state.mu has shape \(4,\), the gradient \(3,\); init\(params\) anew"),
    Misuse("A59", lambda: adam(0.1).update(PARAMS, None, PARAMS), ValueError, r"gdjax.adam: state is None"),
    Misuse("A59-leafwise", lambda: gdjax.scale_by_adam().update(PARAMS, None), ValueError,
           r"gdjax.scale_by_adam: state is None; call init\(params\) first"),
    Misuse("A78", lambda: gdjax.adamw(0.1).update(PARAMS, gdjax.adamw(0.1).init(PARAMS)), ValueError,
           r"gdjax.adamw: this transform needs params"),
    Misuse("A89", lambda: gdjax.masked(sgd(0.1), {"dense": {"kernel": True, "typo": True}}).init(PARAMS), ValueError,
           r"gdjax.masked: the mask is not a prefix of the tree: only the mask has \['dense/typo'\], "
           r"only the tree has \['dense/bias'\]"),
    Misuse("A89-update", lambda: update(gdjax.adamw(0.1, mask={"dens": True}), PARAMS), ValueError,
           r"gdjax.\w+: the mask is not a prefix of the tree: only the mask has \['dens'\]"),
    Misuse("A89-array", lambda: gdjax.masked(sgd(0.1), {"dense": jnp.ones(3)}).init(PARAMS), TypeError,
           r"gdjax.masked: mask\['dense'\] must be a bool, got"),
    Misuse("A89-bools", lambda: gdjax.masked(sgd(0.1), {"dense": np.ones(3, bool)}).init(PARAMS), TypeError,
           r"gdjax.masked: mask\['dense'\] must be a bool, got"),
    Misuse("A89-tracer", lambda: jax.jit(lambda m: gdjax.masked(sgd(0.1), {"dense": m}).init(PARAMS))(True), TypeError,
           r"gdjax.masked: mask\['dense'\] must be a bool, got"),
    Misuse("A90", lambda: gdjax.partition({"a": sgd(0.1)}, {"dense": {"kernel": "a", "bias": "b"}}).init(PARAMS),
           ValueError, r"gdjax.partition: no transform for dense/bias: 'b'; there are \['a'\]"),
    Misuse("A90-paths", lambda: gdjax.label_by_path({"kernel": "a"})(PARAMS), ValueError,
           r"gdjax.label_by_path: no rule matches dense/bias; the rules are 'kernel'"),
    Misuse("A90-mask", lambda: gdjax.mask_by_path("weight")(PARAMS), ValueError,
           r"gdjax.mask_by_path: 'weight' matches none of dense/bias, dense/kernel"),
    Misuse("A91", lambda: gdjax.named_chain(("a", sgd(0.1)), ("a", sgd(0.1))), ValueError,
           r"gdjax.named_chain: names \['a'\] occur more than once"),
    Misuse("inject-static", lambda: gdjax.inject_hyperparams(adam, "beta"), ValueError,
           r"gdjax.inject_hyperparams: static_args \['beta'\] are not among \['learning_rate', 'b1'"),
    Misuse("inject-value", lambda: gdjax.inject_hyperparams(adam)(-0.1),
           ValueError, r"gdjax.adam: learning_rate .* -0.1"),
    Misuse("lion-mode", lambda: update(gdjax.scale_by_lion(mode="soft"), PARAMS), ValueError,
           r"gdjax.scale_by_lion: mode must be one of hard, smooth, refined, got 'soft'"),
    Misuse("complex-mu", lambda: adam(0.1, mu_dtype="bfloat16").init({"x": jnp.ones(2, "complex64")}),
           TypeError, r"gdjax.adam: params\['x'\]: mu_dtype bfloat16 .* complex64"),
]  # fmt: skip


def table() -> list[Any]:
    return [pytest.param(m, id=m.id) for m in MISUSES]


@pytest.mark.parametrize("misuse", table())
def test_misuse(misuse: Misuse):
    with pytest.raises(misuse.error, match=rf"^{misuse.message}"):
        misuse.call()


def test_ids_are_unique():
    assert len({m.id for m in MISUSES}) == len(MISUSES) > 70


def test_errors_are_the_same_under_jit():
    # A tracer has a shape and a dtype, and the checks read nothing else.
    tx = gdjax.adamw(0.1)
    with pytest.raises(ValueError, match=rf"^gdjax.adamw: params{KERNEL}: gradient shape \(1, 3\) does not match"):
        jax.jit(tx.update)(dense(kernel=jnp.ones((1, 3))), tx.init(PARAMS), PARAMS)


def equations(jaxpr: Any) -> list[str]:
    """The names of a jaxpr's operations, those inside calls included, and the calls themselves left out."""
    names: list[str] = []
    for eqn in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(eqn.params) if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        for x in inner:
            names += equations(getattr(x, "jaxpr", x))
        names += [] if inner else [eqn.primitive.name]
    return names


def test_checks_add_no_operation():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((5,))}
    # Traced outside the eager call: three products of a number and an array would be three operations.
    scaled = jax.make_jaxpr(gdjax.scale(2.0).update)(params, EmptyState(), params)
    assert equations(scaled.jaxpr) == ["mul", "mul"]
    decayed = jax.make_jaxpr(gdjax.add_decayed_weights(0.1).update)(params, EmptyState(), params)
    assert sorted(equations(decayed.jaxpr)) == ["add", "add", "mul", "mul"]


def test_a_chain_of_leaf_rules_is_one_call_a_leaf():
    tx = gdjax.adamw(0.1)
    for n in (1, 10):
        params = {str(i): jnp.ones((3, 2)) for i in range(n)}
        jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr
        assert sum(eqn.params.get("name", "").startswith("adamw") for eqn in jaxpr.eqns) == n
        assert len(jaxpr.eqns) - n < 8  # the count
