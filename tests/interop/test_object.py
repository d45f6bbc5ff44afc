"""The contract on the object: what other libraries do to a transform before they call it, and how they call it.

The numbers C1 to C35 in the names of tests are those of the contract; `test_the_contract_is_complete` lists them.
"""

import ast
import copy
import functools
import pickle
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import flax.struct
import jax
import jax.numpy as jnp
import optax
import pytest
import typeguard

import gdjax
from tests.cases import CASES, Case, every
from tests.trees import assert_close, assert_equal, random_tree, steps

PARAMS, GRADIENTS = random_tree(0), [random_tree(seed) for seed in (1, 2)]

# Parts of the contract that tests elsewhere ask of every transform.
TESTS = Path(__file__).parents[1]
ELSEWHERE = {
    10: ("contracts/test_contracts.py", "test_params_may_be_left_out"),
    24: ("contracts/test_contracts.py", "test_the_kit_finds_nothing_by_tracing"),
    33: ("core/test_values.py", "test_transforms_are_values"),
    34: ("contracts/test_contracts.py", "test_the_kit_finds_nothing_in_steps"),
}


def functions_in(path: Path) -> list[str]:
    return [node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]


def test_the_contract_is_complete():
    names = [name for path in sorted(Path(__file__).parent.glob("test_*.py")) for name in functions_in(path)]
    numbers = [re.match(r"test_((?:c\d+_)+)", name) for name in names]
    covered = {int(n) for found in numbers if found for n in re.findall(r"\d+", found[1])}
    assert [f for f, name in ELSEWHERE.values() if name not in functions_in(TESTS / f)] == []
    assert set(range(1, 36)) - covered - set(ELSEWHERE) == set()


@every(thin=4)
def test_c1_c2_it_is_an_instance_of_optax_classes(case: Case):
    tx = case.make()
    assert isinstance(tx, optax.GradientTransformation) and isinstance(tx, optax.GradientTransformationExtraArgs)
    assert isinstance(tx, gdjax.GradientTransformation) and type(tx) is gdjax.GradientTransformationExtraArgs
    assert optax.with_extra_args_support(tx) is tx  # by which Optax's wrappers decide


def test_c2_type_checkers_agree():
    @typeguard.typechecked
    def run(tx: optax.GradientTransformation) -> gdjax.GradientTransformation:
        return tx

    @functools.singledispatch
    def kind(x: Any) -> str:
        return "other"

    kind.register(optax.GradientTransformation, lambda x: "optimizer")
    assert run(gdjax.sgd(0.1)) == gdjax.sgd(0.1)
    assert kind(gdjax.sgd(0.1)) == "optimizer"


@pytest.mark.full
def test_c1_without_optax_it_is_of_its_own_class_alone():
    code = """
import pickle, sys, types
import gdjax
tx = gdjax.adam(0.1)
assert "optax" not in sys.modules and tx.__class__ is gdjax.GradientTransformationExtraArgs
before = pickle.dumps(tx)
sys.modules["optax"] = types.ModuleType("optax")  # as it is while its import runs
assert tx.__class__ is gdjax.GradientTransformationExtraArgs
sys.modules["optax"] = None  # an import that is blocked
assert tx.__class__ is gdjax.GradientTransformationExtraArgs
del sys.modules["optax"]
import optax
assert isinstance(tx, optax.GradientTransformationExtraArgs) and pickle.loads(before) == tx
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_c1_a_module_in_the_place_of_optax(monkeypatch: Any):
    # `import gdjax as optax` for a whole program, and a mock in a test.
    monkeypatch.setitem(sys.modules, "optax", gdjax)
    assert gdjax.sgd(0.1).__class__ is gdjax.GradientTransformationExtraArgs
    monkeypatch.setitem(sys.modules, "optax", types.SimpleNamespace(GradientTransformationExtraArgs="a mock"))
    assert gdjax.sgd(0.1).__class__ is gdjax.GradientTransformationExtraArgs


@every(thin=4)
def test_c3_c5_c6_it_is_a_hashable_pair_that_jax_takes_apart(case: Case):
    tx = case.make()
    init, update = tx
    assert len(tx) == 2 and tx._fields == ("init", "update") and type(tx)(init, update) == tx
    again = jax.tree.map(lambda f: f, tx)
    assert type(again) is type(tx) and again == tx
    assert type(jax.tree.map(lambda f: 0, tx)) is type(tx)  # nothing is checked
    assert jax.tree.leaves(tx) == [init, update]  # no array among them
    assert hash(tx) == hash(type(tx)(init, update)) and {tx: 1}[case.make()] == 1
    replaced = tx._replace(init=len)
    assert type(replaced) is type(tx) and tuple(replaced) == (len, update)


class Named(gdjax.GradientTransformationExtraArgs):
    """As Kauldron's MultiGradientTransformation: a constructor of its own, and an attribute set from outside."""

    def __new__(cls, init: Any, update: Any, name: str) -> "Named":
        self = super().__new__(cls, init, update)
        self.name = name
        return self


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda tx: pickle.loads(pickle.dumps(tx)),
    "pickle0": lambda tx: pickle.loads(pickle.dumps(tx, 0)),
    "cloudpickle": lambda tx: cloudpickle.loads(cloudpickle.dumps(tx)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_c4_a_subclass_with_attributes(copied: Callable[[Any], Any]):
    tx: Any = Named(*gdjax.sgd(0.1), name="plain")
    tx.other = 3
    again = copied(tx)
    assert (type(again).__name__, again.name, again.other, again) == ("Named", "plain", 3, gdjax.sgd(0.1))
    assert isinstance(tx, gdjax.GradientTransformation) and isinstance(tx, optax.GradientTransformation)
    assert_equal(steps(gdjax.chain(tx), PARAMS, GRADIENTS)[0], steps(gdjax.sgd(0.1), PARAMS, GRADIENTS)[0])


def test_c6_an_array_among_the_hyperparameters():
    # Metadata of a treedef is compared: by value, an array would be an error from the second instance on.
    @flax.struct.dataclass
    class State:
        params: Any
        tx: Any = flax.struct.field(pytree_node=False)

    step = jax.jit(lambda state: state.tx.update(state.params, state.tx.init(state.params))[0])
    results = [step(State(PARAMS, gdjax.sgd(jnp.float32(rate)))) for rate in (0.5, 0.25)]
    assert_close(results[0], jax.tree.map(lambda u: 2 * u, results[1]))


def traced(update: Any, *args: Any) -> str:
    """The program that `update` is: equal text, but for addresses of functions, equal numbers."""
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(update)(*args)))


@pytest.mark.full
@every(sampled=True)
def test_c7_c9_calls_by_keyword_and_by_position_and_of_a_second_transform(case: Case):
    tx = case.make()
    state = tx.init(params=PARAMS)
    wanted = traced(lambda g, s, p: tx.update(g, s, p), GRADIENTS[0], state, PARAMS)
    again = case.make().update
    assert traced(lambda g, s, p: again(g, s, p), GRADIENTS[0], state, PARAMS) == wanted
    for call in (
        lambda g, s, p: tx.update(updates=g, state=s, params=p),
        lambda g, s, p: tx.update(g, s, params=p),
    ):
        assert traced(call, GRADIENTS[0], state, PARAMS) == wanted


EXTRA = {"value": 1.0, "grad": 1.0, "value_fn": len, "obj_fn": len, "loss": 1.0, "grad_norm": 1.0, "rng": 1.0}


@gdjax.transform
def listening(heard: Any) -> Any:
    """Notes the names of the extra arguments that reach it."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        heard.append(sorted(extra))
        return updates, state

    return gdjax.GradientTransformation(gdjax.init_empty_state, update)


def everywhere(tree: Any) -> Any:
    return jax.tree.map(lambda x: True, tree)


# Each wrapper around a transform, and the parameters that it takes.
OUR_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "chain": lambda tx: gdjax.chain(gdjax.identity(), tx),
    "named_chain": lambda tx: gdjax.named_chain(("a", tx)),
    "masked": lambda tx: gdjax.masked(tx, everywhere),
    "partition": lambda tx: gdjax.partition({True: tx}, everywhere),
    "selective_transform": lambda tx: gdjax.selective_transform(
        tx, freeze_mask=lambda tree: jax.tree.map(lambda x: False, tree)
    ),
    "inject_hyperparams": lambda tx: gdjax.inject_hyperparams(lambda rate: gdjax.chain(tx, gdjax.scale(rate)))(1.0),
    "escape_saddles": lambda tx: gdjax.escape_saddles(tx, 0.1, 0.0, 1, key=0),
    "MultiSteps": lambda tx: gdjax.MultiSteps(tx, 1),
    "apply_if_finite": lambda tx: gdjax.apply_if_finite(tx, 2),
    "conditionally_transform": lambda tx: gdjax.conditionally_transform(tx, lambda step: True),
    "conditionally_mask": lambda tx: gdjax.conditionally_mask(tx, lambda step: jnp.bool_(True)),
    "flatten": gdjax.flatten,
    "split_real_and_imaginary": gdjax.split_real_and_imaginary,
    "mechanize": lambda tx: gdjax.mechanize(tx),
    "schedule_free": lambda tx: gdjax.schedule_free(tx, 0.1),
    "lookahead": lambda tx: gdjax.lookahead(tx, 2, 0.5),
    "sam": lambda tx: gdjax.sam(tx, gdjax.sgd(0.1), 1),
    "with_extra_args_support": gdjax.with_extra_args_support,
    "to_optax": gdjax.to_optax,
    "from_optax": gdjax.from_optax,
}


def trained(wrapper: str, params: Any, lib: Any = gdjax) -> Any:
    """The parameters that the wrapper of that library wants."""
    return lib.LookaheadParams.init_synced(params) if wrapper == "lookahead" else params


@pytest.mark.parametrize("wrapper", OUR_WRAPPERS)
def test_c11_extra_arguments_go_inwards(wrapper: str):
    heard: list[Any] = []
    tx = OUR_WRAPPERS[wrapper](listening(heard))
    params = trained(wrapper, PARAMS)
    jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **EXTRA), GRADIENTS[0], tx.init(params), params)
    assert heard and all(names == sorted(EXTRA) for names in heard)


@pytest.mark.full
def test_c12_no_hook_by_accident():
    # EasyDeL calls it where it is.
    assert [case.name for case in CASES if hasattr(case.make(), "apply_updates_hook")] == []


@every(sampled=True)
def test_c33_states_pickle_and_transforms_cloudpickle(case: Case):
    tx = case.make()
    state = tx.init(PARAMS)
    leaves, structure = jax.tree.flatten(state)
    assert pickle.loads(pickle.dumps(structure)) == structure
    if not case.random:  # a typed PRNG key pickles as its data only
        assert_equal(pickle.loads(pickle.dumps(state)), state)
    again = cloudpickle.loads(cloudpickle.dumps(tx))
    assert again == tx and type(again) is type(tx)
    assert_equal(again.init(PARAMS), state)
    assert len(leaves) == structure.num_leaves


@pytest.mark.full
def test_c35_the_functions_have_names():
    names = {(case.name, f.__name__) for case in CASES for f in case.make()}
    assert names == {(case.name, name) for case in CASES for name in ("init", "update")}


def test_c35_kauldron_names_the_call():
    tx = gdjax.adam(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        update = jax.named_call(tx.update)
    assert_equal(update(GRADIENTS[0], tx.init(PARAMS)), tx.update(GRADIENTS[0], tx.init(PARAMS)))
