"""What `init` and `explain` say of leaves that a matrix method or the Adam inside it gets by mistake."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from tests.strategies import Layer

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


RATE = "the learning rate of the matrices"
SEVERAL_AXES = "and they look like hidden matrices of more than two axes: "
BY_ADAM = f"its Adam trains these leaves at {RATE}, {SEVERAL_AXES}"
TAKEN = "it trains these leaves as hidden matrices, and they look like something else: "
PASS = "muon_weight_dimension_numbers=gdjax.matrices_by_role()"
REMEDY = f". Pass {PASS} and adam_learning_rate"
IN_GROUP = f". Do both: make the groups with gdjax.label_by_role(), and pass {PASS}"


@pytest.mark.full
def test_labels_by_path_on_kernels_of_three_axes():
    tx = by_path(gdjax.muon(0.02))
    left, head = BY_ADAM + ", ".join(ATTENTION), f"{TAKEN}head/kernel (head)"
    assert said(tx) == f"gdjax.muon: {left}; {head}{IN_GROUP}"
    table = gdjax.explain(tx, MODEL)
    assert f"muon: {left}{IN_GROUP}" in table.warnings
    assert any(text.startswith("muon takes head/kernel for a matrix") for text in table.warnings)
    # Optax's transform around ours, or the rate injected, changes nothing.
    groups: Any = {"m": gdjax.muon(0.02), "rest": REST}
    assert said(optax.partition(groups, gdjax.label_by_path({"kernel$": "m", ".*": "rest"}))) == said(tx)
    assert said(by_path(gdjax.inject_hyperparams(gdjax.muon)(0.02))) == said(tx)


@pytest.mark.full
def test_a_head_in_the_adam_inside():
    """Roles inside, labels by path."""
    text = f"its Adam trains these leaves at {RATE}, which is too large for Adam: head/kernel (head). "
    text += "Pass adam_learning_rate"
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
    taken = f"gdjax.muon: {TAKEN}embed (embedding), head/kernel (head)"
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
    text = f"muon: its Adam trains these leaves, {SEVERAL_AXES}" + ", ".join(ATTENTION)
    assert said(tx, params) == ""
    assert gdjax.explain(tx, params).warnings == (f"{text}. Pass {PASS}",)


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


@pytest.mark.full
@pytest.mark.parametrize("name", FINE)
def test_no_false_alarm(name: str):
    tx, params = FINE[name]
    assert said(tx, params) == ""
    assert not any(RATE in text for text in gdjax.explain(tx, params).warnings)


@pytest.mark.full
def test_it_is_said_at_init_alone_and_by_transformed_ones():
    tx = gdjax.muon(0.02)
    for init in (jax.jit(lambda p: tx.init(p)), jax.vmap(lambda p: tx.init(p), axis_size=2, in_axes=None)):
        with pytest.warns(UserWarning, match=SEVERAL_AXES):
            state = init(MODEL)
    with pytest.warns(UserWarning, match=SEVERAL_AXES):
        state = tx.init(MODEL)
    jax.eval_shape(tx.update, MODEL, state, MODEL)  # a warning would be an error
    gdjax.tree.map_params(tx, lambda x: x, state)


# In a group a method sees its own leaves alone; `explain` sees all.

NAMELESS = tree_of({
    "Embed_0/embedding": (12, 8), "Dense_0/kernel": (8, 12), "Dense_0/bias": (12,), "attn/out/kernel": (2, 4, 8),
    **{f"attn/{name}/kernel": (8, 2, 4) for name in ("query", "key", "value")},
})  # fmt: skip
HIDDEN = gdjax.label_by_role(only=("matrix",))
with_rate = functools.partial(by_role, adam_learning_rate=1e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    "method", [with_rate, functools.partial(gdjax.normuon, 1e-3), functools.partial(gdjax.soap, 1e-3)]
)
def test_explain_tells_of_a_head_that_a_group_cannot_know(method: Any):
    """A head without a telling name is known by the shape of an embedding, which labels by path hide."""
    (text,) = gdjax.explain(by_path(method()), NAMELESS).warnings
    assert " takes Dense_0/kernel for a matrix, and it looks like a head; make the groups with label_by_role" in text
    assert gdjax.explain(gdjax.partition({"matrix": method(), "rest": REST}, HIDDEN), NAMELESS).warnings == ()
    frozen = gdjax.chain(by_path(method()), gdjax.freeze(gdjax.mask_by_path("Dense_0")))
    assert gdjax.explain(frozen, NAMELESS).warnings == ()


def test_the_remedy_in_a_group_is_enough():
    """Each half of it leaves something: roles alone the head, labels alone the kernels of three axes."""
    assert said(by_path(gdjax.muon(0.02)), NAMELESS).endswith(IN_GROUP)
    alone = gdjax.partition({"matrix": gdjax.muon(0.02), "rest": REST}, HIDDEN)
    assert said(alone, NAMELESS).endswith(IN_GROUP)
    both = gdjax.partition({"matrix": by_role(), "rest": REST}, HIDDEN)
    assert said(both, NAMELESS) == "" and gdjax.explain(both, NAMELESS).warnings == ()
    assert said(by_role(adam_learning_rate=1e-3), NAMELESS) == ""  # without groups roles are enough


def test_a_head_by_the_override_of_labels_is_meant():
    meant = gdjax.label_by_role({"Dense_0/kernel": "matrix"}, only=("matrix",))
    assert gdjax.explain(gdjax.partition({"matrix": by_role(), "rest": REST}, meant), NAMELESS).warnings == ()


@pytest.mark.full
def test_explain_tells_where_no_head_was_found():
    table = gdjax.roles(PLAIN)
    for tx in (
        gdjax.partition({"matrix": by_role(), "rest": REST}, HIDDEN), gdjax.muon(0.02), gdjax.normuon(1e-3),
        by_path(gdjax.normuon(1e-3)),
    ):  # fmt: skip
        assert gdjax.explain(tx, PLAIN).warnings == table.warnings and len(table.warnings) == 1
    # Whoever says what the last layer is, in the labels or to the method, or freezes it, knows it.
    last = gdjax.label_by_role({"l2/kernel": "head"}, only=("matrix",))
    for tx in (
        gdjax.partition({"matrix": by_role(), "rest": REST}, last), by_path(gdjax.normuon(1e-3), "l1/kernel"),
        gdjax.normuon(1e-3, roles={"l2/kernel": "head"}), gdjax.adamw(1e-3),
    ):  # fmt: skip
        assert gdjax.explain(tx, PLAIN).warnings == ()


@pytest.mark.full
def test_explain_tells_of_what_roles_leave_unknown_outside_the_group():
    params = tree_of({"x/kernel": (2, 4, 8), "x/bias": (8,), "w": (8, 8), "head": (8, 3)})
    tx = gdjax.partition({"matrix": by_role(), "rest": REST}, HIDDEN)
    with pytest.warns(UserWarning, match="it cannot be known"):
        tx.init(params)
    assert gdjax.explain(tx, params).warnings == gdjax.roles(params).warnings
    assert "{'x/kernel': gdjax.Matrix((0, 1), 2)}" in gdjax.roles(params).warnings[0]
    one = {"x/kernel": gdjax.Matrix((0, 1), 2)}
    roles = gdjax.matrices_by_role(one)
    inside = gdjax.muon(0.02, muon_weight_dimension_numbers=roles)
    tx = gdjax.partition({"matrix": inside, "rest": REST}, gdjax.label_by_role(one, only=("matrix",)))
    assert said(tx, params) == "" and gdjax.explain(tx, params).warnings == ()
    away = gdjax.label_by_role({"x/kernel": "other"}, only=("matrix",))
    assert gdjax.explain(gdjax.partition({"matrix": by_role(), "rest": REST}, away), params).warnings == ()


def test_a_group_of_outputs_of_attention_alone():
    """Without the query it may be a stack as well; a shape that tells is read, and one that does not is warned of."""

    def group(pattern: str, out: tuple[int, ...], method: Any, *layers: int) -> str:
        (*heads, width), place = out, "layers/attn" if layers else "attn"
        shapes = {f"{place}/{name}/kernel": (*layers, width, *heads) for name in ("query", "key", "value")}
        shapes |= {f"{place}/out/kernel": (*layers, *out), f"{place}/out/bias": (*layers, width)}
        return said(by_path(method, pattern), tree_of(shapes))

    soap, kernel = gdjax.soap(1e-3), "out/kernel"
    assert group(kernel, (8, 8, 64), soap) == group("out", (8, 8, 64), soap) == group(kernel, (8, 8, 64), soap, 3) == ""
    assert group(kernel, (12, 768), soap, 3) == ""  # a stack by its name
    for method in (soap, gdjax.muon(1e-3, muon_weight_dimension_numbers=gdjax.matrices_by_role())):
        text = group(kernel, (8, 64, 32), method)
        assert "an axis of heads, as a mask hides the query" in text
        assert "{'attn/out/kernel': gdjax.Matrix((0, 1), 2)}" in text
    assert "gdjax.Matrix((1, 2), 3)" in group(kernel, (8, 64, 32), soap, 3)
    assert "which of its axes are inputs, as its bias" in group("out", (8, 64, 32), soap)
    told = gdjax.soap(1e-3, roles={"out/kernel": gdjax.Matrix((0, 1), 2)})
    assert group(kernel, (8, 64, 32), told) == group("out", (8, 64, 32), told) == ""


@pytest.mark.full
def test_an_idle_override_is_told_once():
    tx = with_rate(muon_weight_dimension_numbers=gdjax.matrices_by_role({"krnel": "matrix"}))
    with pytest.warns(UserWarning) as found:
        state = tx.init(NAMELESS)
    assert ["'krnel'" in str(w.message) for w in found] == [True]
    tx.update(NAMELESS, state, NAMELESS)  # a warning would be an error


@pytest.mark.parametrize("name", ["soap", "shampoo", "kl_soap", "psgd_kron", "soap_muon", "muon"])
def test_a_module_without_matrices(name: str):
    params = Layer(jnp.ones(3), jnp.ones(3))  # no dict, list or tuple
    with warnings.catch_warnings(action="ignore"):
        tx = getattr(gdjax, name)(0.1)
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
    assert float(updates.kernel[0]) < 0
