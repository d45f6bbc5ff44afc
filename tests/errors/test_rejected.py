"""What every transform rejects: trees and states that do not fit. The checks cost nothing in the compiled step."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax import EmptyState
from gdjax.core import checks, domains
from tests.cases import Case, every
from tests.trees import random_tree

PARAMS = random_tree(0)


def place(case: Case) -> str:
    """The leaf that is spoilt: one that the transform looks at."""
    return "bias" if case.covers == "selective_transform" else "kernel"


def spoilt(case: Case, f: Callable[[Any], Any]) -> Any:
    dense = PARAMS["dense"]
    return {**PARAMS, "dense": {**dense, place(case): f(dense[place(case)])}}


def without(case: Case) -> Any:
    return {**PARAMS, "dense": {k: x for k, x in PARAMS["dense"].items() if k != place(case)}}


def update(case: Case, updates: Any, params: Any = PARAMS, made_for: Any = PARAMS) -> Any:
    tx = case.make()
    state = jax.eval_shape(tx.init, made_for)
    return jax.eval_shape(tx.update, updates, state, params)


def string(case: Case) -> Any:
    tx = case.make()
    return tx.update(spoilt(case, lambda x: "relu"), tx.init(PARAMS), PARAMS)


def another_state(case: Case) -> Any:
    tx = case.make()
    return tx.update(PARAMS, (gdjax.ScaleByLionState(jnp.zeros((), jnp.int32), PARAMS),) * 7, PARAMS)


def no_state(case: Case) -> Any:
    return jax.eval_shape(case.make().update, PARAMS, None, PARAMS)


def longer(x: Any) -> Any:
    return jnp.ones((*x.shape[:-1], 5))


def keys(x: Any) -> Any:
    return jax.random.split(jax.random.key(0), x.shape)


# kind: what is done, and what the message tells besides the transform: the leaf and both sides.
KINDS: dict[str, tuple[Callable[[Case], Any], str]] = {
    "shape": (lambda c: update(c, spoilt(c, longer)), r"\['{}'\].* shape \(.*5,?\).* shape \(.*\)"),
    "rank": (lambda c: update(c, spoilt(c, lambda x: x[None])), r"\['{}'\].* shape \(1, .*\).* shape \(.*\)"),
    "missing": (lambda c: update(c, without(c)), r"\['{}'\] (has no counterpart in the updates|is missing)"),
    "extra": (lambda c: update(c, {**PARAMS, "more": PARAMS["scale"]}), r"\['more'\] (is missing|has no counterpart)"),
    "integer": (lambda c: update(c, spoilt(c, lambda x: x.astype(int))), r"\['{}'\].* gradient has dtype int32"),
    "integer-params": (lambda c: update(c, PARAMS, spoilt(c, lambda x: x.astype(int))), r"\['{}'\] has dtype int32"),
    "key": (lambda c: update(c, spoilt(c, keys)), r"\['{}'\] is a PRNG key"),
    "string": (string, r"\['{}'\] is 'relu' \(str\)"),
    "complex": (
        lambda c: update(c, spoilt(c, lambda x: x.astype("complex64"))),
        r"\['{}'\].*complex gradient \(complex64\) for a real parameter \(float32\)",
    ),
    "no-state": (no_state, r"state is None; call init\(params\) first"),
    "another-state": (another_state, r"state (has fields|has type|has 7 entries|is tuple)"),
}
# Which leaves are theirs depends on the shape and dtype: one that no longer fits is missed in the state instead.
BY_SHAPE = {"masked", "multi_transform", "partition", "scale_by_muon", "selective_transform"}
MOVED = r"state\.mu\['dense'\]\['{}'\] has no counterpart in the updates"
UNCHECKED = {
    "identity": "whatever the tree holds",
    "set_to_zero": "whatever the tree holds",
    "stateless": "its function gets the trees as they are",
    "stateless_with_tree_map": "its function gets the leaves as they are",
    "lookahead": "the wrapper of the tests takes the state apart first",
}


# These work as with Optax: they read neither parameters nor a state with arrays like them,
READ_UPDATES_ALONE = {
    "centralize", "clip", "clip_by_block_rms", "clip_by_global_norm", "normalize", "normalize_by_update_norm", "scale",
    "scale_by_polyak", "scale_by_schedule", "scale_by_sign", "zclip",
}  # fmt: skip
# or no state.
READ_NO_STATE = READ_UPDATES_ALONE - {"scale_by_schedule", "zclip"} | {
    "adaptive_grad_clip", "add_decayed_weights", "scale_by_learning_rate", "scale_by_param_block_norm",
    "scale_by_param_block_rms", "scale_by_trust_ratio",
}  # fmt: skip
WORK = {kind: READ_UPDATES_ALONE for kind in ("shape", "rank", "missing", "extra")}
WORK |= {kind: READ_NO_STATE for kind in ("no-state", "another-state")}
# A mask by shape freezes a leaf of another rank,
WORK["rank"] = READ_UPDATES_ALONE | {"selective_transform"}
# and one for matrices, of the tests, hides a string. It is passed through, or missed in a state that keeps stacks.
WORK["string"] = {"masked", "scale_by_apollo", "scale_by_dion", "scale_by_dion2", "scale_by_muon", "scale_by_normuon"}
STACKS = {
    "matrixwise", "scale_by_kl_shampoo", "scale_by_kl_soap", "scale_by_psgd_kron", "scale_by_shampoo", "scale_by_soap",
    "scale_by_soap_muon",
}  # fmt: skip


@every(lambda case: case.covers not in UNCHECKED, sampled=True, kind=list(KINDS))
def test_what_does_not_fit_is_an_error_that_tells_where(case: Case, kind: str):
    call, told = KINDS[kind]
    if kind == "string" and case.covers in ("dpsgd", "differentially_private_aggregate"):
        return  # what stands before it in the tests fails first
    if case.covers in WORK.get(kind, ()):
        call(case)
        return
    if kind == "string" and case.covers in STACKS:
        told = r"no blocks \(no gradient for .*\['{}'\]"
    # Those three make transforms of the tests, one of them behind a mask.
    own = {"leafwise": "", "matrixwise": r"(gdjax\.)?", "transform": ""}.get(case.covers, r"gdjax\.")
    told = f"({told}|{MOVED})" if case.covers in BY_SHAPE else told
    with pytest.raises((ValueError, TypeError), match=rf"^{own}\w+: .*{told.replace('{}', place(case))}"):
        call(case)


def test_a_structure_that_does_not_fit_stateless_with_tree_map():
    tx = gdjax.stateless_with_tree_map(lambda g, p: g)
    with pytest.raises(ValueError, match=r"^gdjax.stateless_with_tree_map: params\['b'\] has no counterpart in the up"):
        tx.update({"a": 1.0}, EmptyState(), {"a": 1.0, "b": 2.0})


@every(sampled=True)
def test_parameters_changed_after_init(case: Case):
    changed, state = spoilt(case, longer), jax.eval_shape(case.make().init, PARAMS)
    kept = PARAMS["dense"][place(case)].shape in [x.shape for x in jax.tree.leaves(state)]
    try:
        update(case, changed, changed)
    except (ValueError, TypeError) as e:
        leaf = "" if case.covers == "flatten" else rf".*\['{place(case)}'\]"
        assert re.match(rf"(gdjax\.)?\w+: {leaf}", str(e))
    else:
        assert not kept  # only a state that keeps an array of the old shape can notice


@every(lambda case: not case.complex)
def test_a_transform_of_real_numbers_says_so(case: Case):
    params = random_tree(0, "complex64")
    told = r"\['dense'\]\['bias'\]: .*does not support complex numbers.*complex64"
    with pytest.raises(TypeError, match=rf"^gdjax\.\w+: params{told}"):
        update(case, params, params, params)


def equations(jaxpr: Any) -> list[str]:
    """The names of a jaxpr's operations, those inside calls included, and the calls themselves left out."""
    names: list[str] = []
    for eqn in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(eqn.params) if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
        for x in inner:
            names += equations(getattr(x, "jaxpr", x))
        names += [] if inner else [eqn.primitive.name]
    return names


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of `checks` and `domains` without its checks: what is left is what the others return."""
    values: dict[str, Callable[..., Any]] = {
        "structural": lambda label, name, value, low: value,
        "flatten_like": lambda label, names, structure, like, tree: structure.flatten_up_to(tree),
        "scalar": lambda label, name, value: jnp.asarray(value),
        "extra": lambda label, name, value: jnp.asarray(value),
        "is_function": checks.is_function,
        "typed": checks.typed,
    }
    for module in (checks, domains):
        for name, f in list(vars(module).items()):
            if inspect.isfunction(f) and f.__module__ == module.__name__:
                monkeypatch.setattr(module, name, values.get(name, lambda *args, **kwargs: None))


@pytest.mark.full
@every(sampled=True)
def test_checks_add_no_operation(case: Case, monkeypatch: pytest.MonkeyPatch):
    def operations() -> Any:
        tx = case.make()
        return equations(jax.make_jaxpr(tx.update)(PARAMS, jax.eval_shape(tx.init, PARAMS), PARAMS).jaxpr)

    with_checks = operations()
    unchecked(monkeypatch)
    assert operations() == with_checks
    assert with_checks or case.covers in ("identity", "snapshot"), "nothing was traced"


def test_no_operation_that_the_mathematics_does_not_ask_for():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones((5,))}
    # Traced outside the eager call: three products of a number and an array would be three operations.
    scaled = jax.make_jaxpr(gdjax.scale(2.0).update)(params, EmptyState(), params)
    assert equations(scaled.jaxpr) == ["mul", "mul"]
    decayed = jax.make_jaxpr(gdjax.add_decayed_weights(0.1).update)(params, EmptyState(), params)
    assert sorted(equations(decayed.jaxpr)) == ["add", "add", "mul", "mul"]
