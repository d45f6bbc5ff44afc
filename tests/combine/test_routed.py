"""What `init` and `explain` say of leaves that a matrix method or the Adam inside it gets by mistake."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax

SHAPES = {
    "embed": (30, 8), "attn/query/kernel": (8, 2, 4), "attn/query/bias": (2, 4), "attn/out/kernel": (2, 4, 8),
    "mlp/up/kernel": (8, 32), "mlp/up/bias": (32,), "norm/scale": (8,), "head/kernel": (8, 30),
}  # fmt: skip
ATTENTION = ("attn/out/kernel", "attn/query/kernel")
ROLES = gdjax.matrices_by_role()
REST = gdjax.adamw(1e-3)
by_role = functools.partial(gdjax.muon, 0.02, muon_weight_dimension_numbers=ROLES)


def tree_of(shapes: dict[str, tuple[int, ...]]) -> Any:
    tree: Any = {}
    for path, shape in shapes.items():
        *places, last = path.split("/")
        part = tree
        for key in places:
            part = part.setdefault(key, {})
        part[last] = jnp.ones(shape)
    return tree


MODEL = tree_of(SHAPES)


def said(tx: Any, params: Any = MODEL) -> str:
    """What `init` warns of, in one warning at most."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        jax.eval_shape(lambda params: tx.init(params), params)  # a function of its own: JAX keeps traces of equal ones
    assert len(found) < 2
    return str(found[0].message) if found else ""


def by_path(tx: Any, pattern: str = "kernel$") -> Any:
    return gdjax.partition({"m": tx, "rest": REST}, gdjax.label_by_path({pattern: "m", ".*": "rest"}))


BY_ADAM = "its Adam gets, at the rate of the matrices, what look like hidden matrices with other than two axes: "
REMEDY = ". Pass muon_weight_dimension_numbers=gdjax.matrices_by_role() and adam_learning_rate, or make groups with "
REMEDY += "gdjax.label_by_role()"


def test_labels_by_path_on_kernels_of_three_axes():
    tx = by_path(gdjax.muon(0.02))
    left, head = BY_ADAM + ", ".join(ATTENTION), "it takes for hidden matrices, at their rate: head/kernel (head)"
    assert said(tx) == f"gdjax.muon: {left}; {head}{REMEDY}"
    table = gdjax.explain(tx, MODEL)
    assert f"muon: {left}{REMEDY}" in table.warnings
    assert any(text.startswith("muon takes head/kernel for a matrix") for text in table.warnings)
    # Optax's transform around ours, or the rate injected, changes nothing.
    groups: Any = {"m": gdjax.muon(0.02), "rest": REST}
    assert said(optax.partition(groups, gdjax.label_by_path({"kernel$": "m", ".*": "rest"}))) == said(tx)
    assert said(by_path(gdjax.inject_hyperparams(gdjax.muon)(0.02))) == said(tx)


def test_a_head_in_the_adam_inside():
    """Roles inside, labels by path."""
    text = "its Adam gets, at the rate of the matrices, which is too large for them: head/kernel (head). "
    text += "Pass adam_learning_rate, or make groups with gdjax.label_by_role()"
    tx = by_path(by_role())
    assert said(tx) == f"gdjax.muon: {text}" and gdjax.explain(tx, MODEL).warnings == (f"muon: {text}",)
    for method in (gdjax.dion, gdjax.dion2, gdjax.soap_muon):
        assert "(embedding), head/kernel (head). Pass adam_learning_rate" in said(method(0.02))
        assert said(method(0.02, adam_learning_rate=1e-3)) == said(method(0.02, others=REST)) == ""
    # A function or a tree says None: the routing is meant, and the rate is still one for matrices.
    numbers = jax.tree.map(lambda _: None, MODEL)
    for given in (numbers, lambda _: numbers):
        tx = gdjax.muon(0.02, muon_weight_dimension_numbers=given)
        assert "attn/out/kernel (matrix), attn/query/kernel (matrix), embed (embedding)" in said(tx)
        assert said(gdjax.muon(0.02, adam_learning_rate=1e-3, muon_weight_dimension_numbers=given)) == ""


def test_heads_and_embeddings_in_a_method():
    params = tree_of({k: v for k, v in SHAPES.items() if "attn" not in k})
    taken = "gdjax.muon: it takes for hidden matrices, at their rate: embed (embedding), head/kernel (head)"
    assert said(gdjax.muon(0.02), params) == taken + REMEDY
    assert said(gdjax.muon(0.02, adam_learning_rate=1e-3), params).startswith(f"{taken}. Pass muon_weight")
    one = gdjax.muon(0.02, muon_weight_dimension_numbers=gdjax.Matrix())  # of all leaves alike
    assert "head/kernel (head)" in said(by_path(one), params)
    # Vectors of attention and of stacks have two axes.
    assert "attn/query/bias (bias)" in said(gdjax.muon(0.02))
    assert "layers/scale (norm)" in said(gdjax.muon(0.02), tree_of({"layers/scale": (3, 8), "layers/w": (3, 8, 8)}))


def test_many_leaves_are_counted():
    params = tree_of({f"attn_{i}/query/kernel": (8, 2, 4) for i in range(9)})
    assert "attn_3/query/kernel and 5 more. Pass" in said(gdjax.muon(0.02), params)


def test_where_adam_has_its_own_rate_explain_alone_tells_of_matrices():
    params = tree_of({k: v for k, v in SHAPES.items() if k.startswith("attn") and "bias" not in k})
    tx = gdjax.muon(0.02, adam_learning_rate=1e-3)
    text = "muon: its Adam gets what look like hidden matrices with other than two axes: " + ", ".join(ATTENTION)
    assert said(tx, params) == ""
    assert gdjax.explain(tx, params).warnings == (
        f"{text}. Pass muon_weight_dimension_numbers=gdjax.matrices_by_role(), or make groups with "
        "gdjax.label_by_role()",
    )


def test_frozen_leaves_are_not_told_of():
    tx = gdjax.chain(by_role(), gdjax.freeze(gdjax.mask_by_path("head/kernel", "embed")))
    assert gdjax.explain(tx, MODEL).warnings == ()


PLAIN = tree_of({"l1/kernel": (4, 8), "l1/bias": (8,), "l2/kernel": (8, 3), "l2/bias": (3,)})
PER_LEAF = gdjax.per_leaf(0.02, {"head|embed": 0.05})
FINE = {
    "a plain network": (gdjax.muon(0.02), PLAIN),
    "and a rate for Adam": (gdjax.muon(0.02, adam_learning_rate=1e-3), PLAIN),
    "by path": (by_path(gdjax.muon(0.02)), PLAIN),
    "arrays without names": (gdjax.muon(0.02), [jnp.ones((4, 8)), jnp.ones((8, 3)), jnp.ones(3)]),
    "one array": (gdjax.muon(0.02), jnp.ones((4, 8))),
    "no array": (gdjax.muon(0.02), {}),
    "integers": (gdjax.muon(0.02), {"head": jnp.ones((4, 4), int), "n": None}),
    "vectors": (gdjax.muon(0.02), tree_of({"embed": (8,), "norm/scale": (8,), "head/bias": (8,)})),
    "no role": (gdjax.muon(0.02), tree_of({"layers/mixer/A_log": (4, 8, 2), "conv/kernel": (3, 3, 1, 8)})),
    "roles": (by_role(adam_learning_rate=1e-3), MODEL),
    "a rate for each leaf": (gdjax.muon(PER_LEAF, muon_weight_dimension_numbers=ROLES), MODEL),
    "groups": (gdjax.partition({"matrix": by_role(), "rest": REST}, gdjax.label_by_role(only=("matrix",))), MODEL),
    "rates of Adam's size": (by_role(consistent_rms=0.2), MODEL),
    "transformer_optimizer": (gdjax.transformer_optimizer(1e-3, 100), MODEL),
    "normuon": (gdjax.normuon(1e-3), MODEL),
    "soap": (gdjax.soap(1e-3), MODEL),
    "psgd_kron": (gdjax.psgd_kron(1e-3), MODEL),
    "scion": (gdjax.scion(1e-3), MODEL),
    "galore": (gdjax.galore(1e-3), tree_of({"head/kernel": (8, 30)})),
    "a head on purpose": (
        gdjax.muon(0.02, muon_weight_dimension_numbers=gdjax.matrices_by_role({"head": "matrix"})),
        tree_of({"head/kernel": (8, 30), "w": (8, 8)}),
    ),
    "hidden by a mask": (gdjax.masked(gdjax.muon(0.02), gdjax.mask_by_path("mlp")), MODEL),
}  # fmt: skip


@pytest.mark.parametrize("name", FINE)
def test_no_false_alarm(name: str):
    tx, params = FINE[name]
    assert said(tx, params) == ""
    assert not any("rate of the matrices" in text for text in gdjax.explain(tx, params).warnings)


def test_it_is_said_at_init_alone_and_by_transformed_ones():
    tx = gdjax.muon(0.02)
    for init in (jax.jit(lambda p: tx.init(p)), jax.vmap(lambda p: tx.init(p), axis_size=2, in_axes=None)):
        with pytest.warns(UserWarning, match="what look like hidden matrices"):
            state = init(MODEL)
    with pytest.warns(UserWarning, match="what look like hidden matrices"):
        state = tx.init(MODEL)
    jax.eval_shape(tx.update, MODEL, state, MODEL)  # a warning would be an error
    gdjax.tree.map_params(tx, lambda x: x, state)
