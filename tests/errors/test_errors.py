"""A clear error for each misuse, where the mistake is made.

What every transform rejects is in `test_rejected`, every argument of every factory in `test_arguments`.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.core import base, values
from tests.misuses import INIT, KERNEL, MAKE, MISUSES, PARAMS, UPDATE, USE, Misuse, dense


def table() -> list[Any]:
    return [pytest.param(m, id=m.id) for m in MISUSES]


@pytest.mark.parametrize("misuse", table())
def test_misuse(misuse: Misuse, monkeypatch: pytest.MonkeyPatch):
    reached = [MAKE]
    for cls, where in ((values.Value, USE), (base.Init, INIT), (base.Update, UPDATE)):

        def call(self: Any, *args: Any, f: Any = cls.__call__, where: str = where, **kwargs: Any) -> Any:
            reached.append(where)
            return f(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__call__", call)
    with pytest.raises(misuse.error, match=rf"^gdjax\.{misuse.message}"):
        misuse.call()
    assert max(reached, key=[MAKE, USE, INIT, UPDATE].index) == misuse.where


def test_ids_are_unique():
    assert len({m.id for m in MISUSES}) == len(MISUSES) > 150


# Numbers of the list that other files test for every transform.
ELSEWHERE = {
    29: "contracts/test_contracts.test_the_kit_finds_nothing_by_tracing",
    38: "contracts/test_contracts.test_any_container_of_any_leaf",  # a scalar among the leaves
    39: "contracts/test_contracts.test_any_container_of_any_leaf",  # leaves without elements
    51: "contracts/test_contracts.test_any_container_of_any_leaf",
    80: "contracts/test_contracts.test_extra_arguments_are_accepted",
    82: "numerics/test_hazards.test_n10_derivatives_through_an_update_at_a_zero_gradient",
    83: "contracts/test_contracts.test_the_kit_finds_nothing_in_steps",
    84: "contracts/test_contracts.test_state_is_a_fixed_point_of_control_flow",
    85: "contracts/test_variants.test_pmap_with_pmean_equals_one_device",
    95: "core/test_values.test_transforms_are_values",
    96: "core/test_values.test_repr_is_the_call",
}
TESTS = Path(__file__).parents[1]


def test_every_number_of_the_list_is_tested():
    found = {int(n) for m in MISUSES for n in re.findall(r"^A(\d+)", m.id)} | set(ELSEWHERE)
    for file in ("contracts/test_defined.py", "numerics/test_hazards.py"):
        names = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), re.MULTILINE)
        found |= {int(n) for name in names for n in re.findall(r"_a(\d+)(?=_)", name)}
    assert sorted(set(range(1, 97)) - found) == []


@pytest.mark.parametrize("name", ELSEWHERE.values())
def test_the_tests_elsewhere_are_there(name: str):
    file, _, test = name.partition(".")
    assert f"\ndef {test}(" in (TESTS / f"{file}.py").read_text()


def test_errors_are_the_same_under_jit():
    # A tracer has a shape and a dtype, and the checks read nothing else.
    tx = gdjax.adamw(0.1)
    with pytest.raises(ValueError, match=rf"^gdjax.adamw: params{KERNEL}: gradient shape \(1, 3\) does not match"):
        jax.jit(tx.update)(dense(kernel=jnp.ones((1, 3))), tx.init(PARAMS), PARAMS)


def test_a_chain_of_leaf_rules_is_one_call_a_leaf():
    tx = gdjax.adamw(0.1)
    for n in (1, 10):
        params = {str(i): jnp.ones((3, 2)) for i in range(n)}
        jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr
        assert sum(eqn.params.get("name", "").startswith("adamw") for eqn in jaxpr.eqns) == n
        assert len(jaxpr.eqns) - n < 8  # the count


SWAPPED = {
    "a chain": gdjax.adamw(0.1),
    "a named chain": gdjax.named_chain(("adam", gdjax.adam(0.1)), ("one", gdjax.scale(1.0))),
    "a chain of as many as the leaves": gdjax.chain(gdjax.trace(0.9)),
    "a rule": gdjax.trace(0.9),
    "a rule with a count": gdjax.scale_by_schedule(lambda t: 0.1),
    "groups": gdjax.partition({"a": gdjax.sgd(0.1)}, lambda tree: jax.tree.map(lambda x: "a", tree)),
    "a wrapper": gdjax.MultiSteps(gdjax.adam(0.1), 2),
    "injected": gdjax.inject_hyperparams(gdjax.adam)(0.1),
}


@pytest.mark.parametrize("params", [PARAMS, jnp.ones(2)], ids=["dict", "array"])
@pytest.mark.parametrize("tx", SWAPPED.values(), ids=SWAPPED)
def test_state_and_params_swapped(tx: Any, params: Any):
    with pytest.raises(ValueError, match=r"are state and params swapped\? Call update\(updates, state, params\)"):
        tx.update(params, params, tx.init(params))


def test_other_mistakes_are_not_called_a_swap():
    tx = gdjax.adam(0.1)
    for state in (list(tx.init(PARAMS)), {"0": {"count": 0, "mu": PARAMS, "nu": PARAMS}, "1": {}}, ()):
        try:
            tx.update(PARAMS, state, PARAMS)
        except ValueError as e:
            assert "swapped" not in str(e)
    with pytest.raises(ValueError, match="is missing") as e:
        tx.update(PARAMS, tx.init(PARAMS), {"dense": {}})
    assert "swapped" not in str(e.value)
