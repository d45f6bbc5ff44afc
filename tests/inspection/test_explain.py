"""`explain`: what each leaf goes through, why one is not updated, and what is probably a mistake."""

import warnings
from collections import Counter
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import gdjax
from gdjax import explain
from tests.cases import Case, every
from tests.support import relaxed

P = {
    "embed": jnp.ones((16, 4)),
    "layer": {"bias": jnp.ones(3), "kernel": jnp.ones((4, 3))},
}
PATHS = ["embed", "layer/bias", "layer/kernel"]
IS_KERNEL = gdjax.mask_by_path("kernel")


def by_path(tx: Any, params: Any = P, **extra: Any) -> dict[str, Any]:
    return {row.path: row for row in explain(tx, params, **extra)}


def steps(tx: Any, **extra: Any) -> list[str]:
    return explain(tx, P, **extra)["steps"]


def test_a_row_for_each_leaf():
    schedule = gdjax.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)
    table = explain(gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.adamw(schedule, mask=IS_KERNEL)), P)
    assert table["path"] == PATHS
    assert table["shape"] == [(16, 4), (3,), (4, 3)] and table["dtype"] == ["float32"] * 3
    assert table["steps"] == ["clip_by_global_norm, adam, rate"] * 2 + ["clip_by_global_norm, adam, decay, rate"]
    assert table["rate"] == ["schedule: 0.0 ..."] * 3
    assert table["decay"] == [None, None, 1e-4]
    assert table["state_bytes"] == [2 * 4 * n for n in (64, 3, 12)]
    assert table["why"] == ["its rate is 0 at the first step"] * 3
    assert not any(table["frozen"]) and table.warnings == ()


def test_shapes_are_enough_and_give_the_same():
    tx = gdjax.muon(1e-2)
    assert explain(tx, jax.eval_shape(lambda: P)) == explain(tx, P)


def test_groups():
    tx = gdjax.partition(
        {"slow": gdjax.sgd(0.1, momentum=0.9), "fast": gdjax.partition({"in": gdjax.adam(1.0)}, lambda p: "in")},
        {"embed": "slow", "layer": "fast"},
    )
    table = explain(tx, P)
    assert table["group"] == ["slow", "fast/in", "fast/in"]
    assert table["steps"] == ["trace, rate", "adam, rate", "adam, rate"]
    assert table["rate"] == [0.1, 1.0, 1.0]
    assert table["state_bytes"] == [4 * 64, 8 * 3, 8 * 12]


WRAPPED = {
    "inject": (gdjax.inject_hyperparams(gdjax.adam)(0.1), "adam, rate"),
    "inject a schedule": (gdjax.inject_hyperparams(gdjax.adam)(gdjax.linear_schedule(0.1, 0.0, 5)), "adam, rate"),
    "MultiSteps": (gdjax.MultiSteps(gdjax.adam(0.1), 4), "MultiSteps, adam, rate"),
    "apply_if_finite": (gdjax.apply_if_finite(gdjax.adam(0.1), 3), "apply_if_finite, adam, rate"),
    "lookahead": (gdjax.lookahead(gdjax.adam(0.1), 5, 0.5), "lookahead, adam, rate"),
    "sam": (gdjax.sam(gdjax.adam(0.1), gdjax.sgd(0.05)), "sam, adam, rate"),
    "schedule_free": (gdjax.schedule_free(gdjax.sgd(0.1), 0.1), "rate, schedule_free"),
    "wrapper": (gdjax.cautious(gdjax.adam(0.1)), "adam, rate, cautious"),
    "named_chain": (gdjax.named_chain(("opt", gdjax.adam(0.1))), "adam, rate"),
    "from_optax": (gdjax.from_optax(gdjax.adam(0.1)), "adam, rate"),
    "flatten": (gdjax.flatten(gdjax.adam(0.1)), "flatten, adam, rate"),
    "transform": (gdjax.transform(lambda: gdjax.adam(0.1))(), "adam, rate"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_through_wrappers(name: str):
    tx, expected = WRAPPED[name]
    table = explain(tx, P)
    assert table["steps"] == [expected] * 3
    assert {str(rate).removeprefix("schedule: ").removesuffix(" ...") for rate in table["rate"]} == {"0.1"}
    assert table.warnings == () and not any(table["why"]) and not any(table["frozen"])


def test_lookahead_of_its_own_parameters():
    tx = gdjax.lookahead(gdjax.adam(0.1), 5, 0.5)
    assert explain(tx, gdjax.LookaheadParams.init_synced(P)) == explain(tx, P)


def test_muon_routes_by_itself():
    table = explain(gdjax.muon(1e-2, adam_learning_rate=1e-3), P)
    assert table["group"] == ["muon", "adam", "muon"]
    assert table["rate"] == [1e-2, 1e-3, 1e-2]
    assert table.warnings == (
        "muon takes embed for a matrix, and it looks like an embedding; give it to Adam, "
        "with matrices_by_role or label_by_role",
    )


def test_transforms_of_optax_are_names():
    with relaxed():
        assert steps(optax.chain(optax.clip(1.0), optax.adam(0.1))) == ["optax.chain"] * 3
        table = explain(gdjax.inject_hyperparams(optax.adamw)(0.1, weight_decay=0.01), P)
        assert table["steps"] == ["optax.adamw"] * 3 and table["rate"] == [0.1] * 3 and table["decay"] == [0.01] * 3
        table = explain(gdjax.chain(optax.scale_by_adam(), gdjax.scale_by_learning_rate(0.1)), P)
        assert table["steps"] == ["optax.scale_by_adam, rate"] * 3 and table["rate"] == [0.1] * 3
        assert explain(optax.adam(0.1), P)["rate"] == ["?"] * 3
        assert explain(optax.adam(0.1), P)["state_bytes"] == [8 * n for n in (64, 3, 12)]
        # Whether a leaf is frozen is read from the program, whoever wrote it.
        masked = optax.masked(optax.set_to_zero(), {"embed": True, "layer": False})
        assert explain(optax.chain(optax.sgd(0.1), masked), P)["frozen"] == [True, False, False]


# Why is this leaf not updated?


def test_frozen():
    found = by_path(gdjax.chain(gdjax.adam(0.1), gdjax.freeze(IS_KERNEL)))
    assert found["layer/kernel"].frozen and found["layer/kernel"].why == "frozen by freeze"
    assert not found["embed"].frozen and found["embed"].why == ""
    groups = {"on": gdjax.adam(0.1), "off": gdjax.set_to_zero()}
    found = by_path(gdjax.partition(groups, {"embed": "off", "layer": "on"}))
    assert found["embed"].why == "frozen by set_to_zero in the group 'off'"
    assert found["embed"].state_bytes == 0
    found = by_path(gdjax.selective_transform(gdjax.adam(0.1), freeze_mask={"embed": True, "layer": False}))
    assert [row.frozen for row in found.values()] == [True, False, False]
    # Decay moves what has been frozen before it.
    late = gdjax.chain(gdjax.freeze(IS_KERNEL), gdjax.add_decayed_weights(0.1), gdjax.scale_by_learning_rate(0.1))
    assert not any(row.frozen for row in by_path(late).values())


def test_masked_out():
    table = explain(gdjax.masked(gdjax.adam(0.1), IS_KERNEL), P)
    assert table["steps"] == ["", "", "adam, rate"]
    assert table["why"] == ["no step changes its gradient, which is added as it is"] * 2 + [""]
    (text,) = table.warnings
    assert text.startswith("the gradient of embed, layer/bias is added to it as it is, and goes up")


def test_a_rate_of_0():
    assert explain(gdjax.sgd(0.0), P)["why"] == ["its learning rate is 0"] * 3
    assert all(explain(gdjax.sgd(0.0), P)["frozen"])
    table = explain(gdjax.sgd(gdjax.linear_schedule(0.0, 1.0, 5)), P)
    assert table["why"] == ["its rate is 0 at the first step"] * 3 and not any(table["frozen"])
    # Of two factors one is 0.
    table = explain(gdjax.chain(gdjax.sgd(0.1), gdjax.scale_by_schedule(gdjax.linear_schedule(0.0, 1.0, 5))), P)
    assert table["rate"] == ["schedule: 0.0 ..."] * 3


@pytest.mark.parametrize("rate", [jnp.array(0.0), gdjax.constant_schedule(0.0)(0)])
@pytest.mark.parametrize("make", [gdjax.adam, gdjax.sgd, gdjax.lion, gdjax.inject_hyperparams(gdjax.adam)])
def test_a_rate_of_0_as_an_array(rate: Any, make: Any):
    table = explain(make(rate), P)
    assert table["rate"] == [0.0] * 3 and table["why"] == ["its learning rate is 0"] * 3


CLIP, ADAM = gdjax.clip_by_global_norm(1.0), gdjax.adam(0.1)
LABELS = {"embed": "a", "layer": {"bias": "b", "kernel": "c"}}
ALONE = "it takes the norm of that group alone"


@pytest.mark.parametrize(
    ("groups", "clipped"),
    [
        (dict.fromkeys("abc", gdjax.chain(CLIP, ADAM)), "abc"),
        ({"a": gdjax.chain(CLIP, ADAM), "b": ADAM, "c": gdjax.set_to_zero()}, "a"),
        ({"a": gdjax.chain(CLIP, ADAM), "b": gdjax.set_to_zero(), "c": gdjax.set_to_zero()}, ""),  # all that is trained
        (dict.fromkeys("abc", gdjax.chain(gdjax.clip_by_global_norm(1.0, groups={".*": 0}), ADAM)), ""),  # meant so
        (dict.fromkeys("abc", CLIP), ""),  # meant so
        (dict.fromkeys("abc", ADAM), ""),
    ],
)
def test_a_clip_inside_a_group(groups: Any, clipped: str):
    tx = gdjax.chain(gdjax.partition(groups, LABELS), gdjax.scale(1.0))
    told = [text for text in explain(tx, P).warnings if ALONE in text]
    assert [text.partition(": ")[0] for text in told] == [f"clip_by_global_norm in the group {x!r}" for x in clipped]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tx.init(P)
    wanted = f"clip_by_global_norm in the group {' and '.join(map(repr, clipped))}: {ALONE}"
    assert [wanted in str(w.message) for w in caught] == [True] * bool(clipped)


def test_a_clip_under_a_mask():
    rest = gdjax.mask_by_path("embed", "bias")
    one, other = gdjax.masked(gdjax.chain(CLIP, ADAM), IS_KERNEL), gdjax.masked(ADAM, rest)
    (told,) = [text for text in explain(gdjax.chain(one, other), P).warnings if ALONE in text]
    assert told.startswith("clip_by_global_norm in layer/kernel: ")
    for tx in (gdjax.chain(one, gdjax.freeze(rest)), gdjax.chain(gdjax.masked(CLIP, rest), ADAM)):
        assert ALONE not in " ".join(explain(tx, P).warnings)


STACKS = {"embed": jnp.ones((9, 4)), "layers": {"bias": jnp.ones((2, 8)), "kernel": jnp.ones((2, 4, 8))}}


@pytest.mark.full
@pytest.mark.parametrize(
    "make", [gdjax.lamb, gdjax.lars, gdjax.adafactor, gdjax.novograd, gdjax.came, gdjax.sm3, gdjax.stable_adamw]
)
def test_a_stack_for_one_array(make: Any):
    name = make.__name__
    told = f"{name} takes each of layers/bias, layers/kernel for one array, and it looks like a stack of layers"
    assert [text.partition(";")[0] for text in explain(make(0.1), STACKS).warnings] == [told]
    by_role = gdjax.matrices_by_role()
    assert explain(make(0.1, layer_axes=by_role), STACKS).warnings == ()
    assert explain(make(0.1, layer_axes=0), STACKS).warnings == ()  # told that none is a layer
    assert explain(make(0.1), {"embed": jnp.ones((9, 4)), "layer_0": jnp.ones((4, 8))}).warnings == ()
    assert explain(gdjax.adam(0.1), STACKS).warnings == ()


def test_a_stack_in_a_group():
    groups = {"a": gdjax.lamb(0.1), "b": gdjax.lamb(0.1, layer_axes=1)}
    tx = gdjax.partition(groups, {"embed": "a", "layers": {"bias": "a", "kernel": "b"}})
    (told,) = explain(tx, STACKS).warnings
    assert told.startswith("lamb takes each of layers/bias for one array")


@pytest.mark.full
@pytest.mark.parametrize("roles", [{"head": "head"}, {"head|w": gdjax.Matrix(0, 1)}])
def test_roles_by_patterns(roles: Any):
    params = {"w": jnp.ones((8, 8)), "head": jnp.ones((8, 5))}
    for tx in (
        gdjax.hyperball(gdjax.adam(0.1), 0.1, roles=roles), gdjax.scale_by_normuon(roles=roles),
        gdjax.masked(gdjax.scale_by_soap(roles={"head": gdjax.Matrix(0, 1)}), {"w": True, "head": True}),
    ):  # fmt: skip
        assert gdjax.explain(tx, params)["path"] == ["head", "w"]


def test_no_gradient():
    params = {
        "w": jnp.ones(2),
        "step": jnp.arange(3),
        "none": None,
        "hidden": gdjax.MaskedNode(),
        "key": jax.random.key(0),
    }
    table = explain(gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_learning_rate(0.1)), params)
    found = {row.path: (row.frozen, row.why) for row in table}
    assert found == {
        "w": (False, ""),
        "step": (True, "int32 takes no gradient"),
        "none": (True, "None stands for it: no gradient"),
        "hidden": (True, "MaskedNode stands for it: no gradient"),
        "key": (True, "key<fry> takes no gradient"),
    }


@pytest.mark.full
def test_an_update_that_needs_more():
    tx = gdjax.chain(gdjax.momo(0.1), gdjax.freeze(IS_KERNEL))
    table = explain(tx, P)
    assert table["frozen"] == [False, False, True] and "gdjax.momo: this transform needs value" in table.warnings[0]
    assert explain(tx, P, value=1.0).warnings == ()
    assert explain(tx, P, value=1.0)["frozen"] == [False, False, True]


# What is probably a mistake.


def only_warning(tx: Any, params: Any = P) -> str:
    (text,) = explain(tx, params).warnings
    return text


def test_a_group_without_leaves():
    groups = {"a": gdjax.adam(0.1), "b": gdjax.sgd(0.1)}
    assert (
        only_warning(gdjax.partition(groups, lambda p: jax.tree.map(lambda _: "a", p))) == "no leaf is in the group 'b'"
    )
    rules = gdjax.label_by_path({"nothing": "b", ".*": "a"})
    assert only_warning(gdjax.partition(groups, rules)) == "no leaf is in the group 'b'"
    assert explain(gdjax.muon(0.1), {"w": jnp.ones((2, 3))}).warnings == ()


def test_a_mask_that_is_false_everywhere():
    no = lambda p: jax.tree.map(lambda _: False, p)
    tx = gdjax.adamw(0.1, mask=no)
    assert only_warning(tx) == "the mask of decay is False everywhere: it does nothing"
    tx = gdjax.chain(gdjax.masked(gdjax.trace(0.9), no), gdjax.sgd(0.1))
    assert only_warning(tx) == "the mask of trace is False everywhere: it does nothing"
    assert explain(gdjax.chain(gdjax.sgd(0.1), gdjax.freeze(no)), P).warnings == ()


@pytest.mark.full
def test_rates():
    with pytest.warns(UserWarning, match="2 learning rates"):
        two = gdjax.chain(gdjax.adam(0.1), gdjax.sgd(0.1))
    assert only_warning(two).startswith("two learning rates or more for embed, layer/bias, layer/kernel")
    assert only_warning(gdjax.scale_by_adam()).startswith("no learning rate for embed")
    assert only_warning(gdjax.chain(gdjax.clip(1.0), gdjax.scale_by_adam())).startswith("no learning rate for embed")
    assert "negative" in only_warning(gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(0.1)))
    assert "negative" in only_warning(gdjax.scale_by_schedule(gdjax.constant_schedule(0.1)))
    for fine in (
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale(-0.1)),
        gdjax.chain(gdjax.adam(0.1), gdjax.scale(0.5)),
        gdjax.scale_by_schedule(gdjax.constant_schedule(-0.1)),
        gdjax.cocob(),
        gdjax.scale_by_cocob(),
        gdjax.normalize_by_update_norm(-0.1),
        gdjax.rprop(0.1),
    ):
        assert explain(fine, P).warnings == ()
    assert explain(gdjax.chain(gdjax.adam(0.1), gdjax.scale(0.5)), P)["rate"] == [0.05] * 3


@pytest.mark.full
def test_clipping_after_the_direction():
    late = "{} comes after {}: it limits the step; put it first to limit the gradient"
    clip = gdjax.clip_by_global_norm(1.0)
    assert only_warning(gdjax.chain(gdjax.adam(0.1), clip)) == late.format("clip_by_global_norm", "adam")
    tx = gdjax.MultiSteps(gdjax.chain(gdjax.scale_by_lion(), gdjax.clip(1.0), gdjax.scale_by_learning_rate(0.1)), 2)
    assert only_warning(tx) == late.format("clip", "lion")
    assert explain(gdjax.adafactor(0.1, clipping_threshold=1.0), P).warnings == ()
    assert explain(gdjax.chain(gdjax.zero_nans(), clip, gdjax.adam(0.1)), P).warnings == ()
    tx = gdjax.params_ema(gdjax.chain(gdjax.scale_by_adam(), clip, gdjax.scale_by_learning_rate(0.1)), 0.9)
    assert only_warning(tx) == late.format("clip_by_global_norm", "adam")


@pytest.mark.parametrize(
    "optimizer",
    [gdjax.adamw(0.1), gdjax.muon(0.1), gdjax.soap(0.1), gdjax.lbfgs(0.1, linesearch=None), optax.adam(0.1)],
)
def test_clipping_between_a_correction_of_the_gradient_and_the_direction(optimizer: Any):
    """As MARS does: the clip limits a gradient, and would be wrong in front."""
    clip, params = gdjax.clip_by_global_norm(1.0), {"kernel": jnp.ones((4, 3))}
    with relaxed():
        assert explain(gdjax.chain(gdjax.trace(0.9), clip, optimizer), params).warnings == ()
    [late] = explain(gdjax.chain(gdjax.sgd(0.1, momentum=0.9), clip, gdjax.trace(0.9)), params).warnings
    assert "comes after trace" in late


@pytest.mark.full
@pytest.mark.parametrize(
    ("path", "shape", "why"),
    [
        ("wte", (100, 8), "an embedding"),
        ("embedding/table", (8, 8), "an embedding"),
        ("blocks/bias", (4, 8), "a stack of biases"),
        ("token_table", (100, 4), "an embedding"),
        ("token_mixer", (8, 8), None),
        ("member", (8, 8), None),
        ("kernel", (100, 4), None),
    ],
)
def test_what_is_no_matrix(path: str, shape: tuple[int, ...], why: str | None):
    params: Any = jnp.ones(shape)
    for key in reversed(path.split("/")):
        params = {key: params}
    for tx in (gdjax.muon(0.1), gdjax.galore(0.1, rank=2)):
        assert [f"it looks like {why}" in text for text in explain(tx, params).warnings] == ([True] if why else [])
    assert explain(gdjax.adam(0.1), params).warnings == ()


# All transforms there are.


@pytest.mark.full
@every(thin=4)
def test_every_transform_is_explained(case: Case):
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((2, 3))}
    table = explain(case.make(), params)
    assert table["path"] == ["a", "b"] and isinstance(repr(table), str)
    texts = [text for text in table.warnings if "traced" in text]
    assert texts == []
    # The bytes of the leaves are part of the state's.
    assert sum(table["state_bytes"]) <= gdjax.state_bytes(case.make(), params)
    kinds = Counter(text.partition(" ")[0] for text in table.warnings)
    assert kinds["two"] == kinds["clip"] == 0


def test_errors():
    with pytest.raises(TypeError, match=r"gdjax.explain: argument tx is .*call it: adam"):
        explain(gdjax.adam, P)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gdjax.explain: params is None"):
        explain(gdjax.adam(0.1), None)
    with pytest.raises(TypeError, match=r"gdjax.explain: params\['f'\] is the function <lambda>, not an array"):
        explain(gdjax.adam(0.1), {"f": lambda x: x})
    with pytest.raises(TypeError, match=r"gdjax.explain: params is 'params' \(str\), not an array"):
        explain(gdjax.adam(0.1), "params")
    # A prefix that does not fit is an error, as it is of `init`.
    with pytest.raises(ValueError, match="the mask is not a prefix"):
        explain(gdjax.masked(gdjax.adam(0.1), {"other": True}), P)


def test_the_group_is_told_where_other_steps_come_first():
    """And stacks of vectors are found under the short names of plain dictionaries."""
    params = {"w": jnp.ones((2, 4, 4)), "b": jnp.ones((3, 4)), "scale": jnp.ones((3, 4))}
    rest = gdjax.partition({"all": gdjax.muon(0.1)}, {"w": "all", "b": "all", "scale": "all"})
    table = gdjax.explain(gdjax.chain(gdjax.clip_by_global_norm(1.0), rest), params)
    assert [row.group.split("/")[0] for row in table.rows] == ["all"] * 3
    assert [w.partition(" for a matrix")[0] for w in table.warnings] == ["muon takes b", "muon takes scale"]


RATES = {"embed": 10.0, "bias": 0.0}


@pytest.mark.parametrize(
    "tx",
    [
        gdjax.adam(gdjax.per_leaf(0.1, RATES)),
        gdjax.chain(gdjax.adam(0.1), gdjax.scale(gdjax.per_leaf(1.0, RATES))),
        gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(gdjax.per_leaf(0.1, RATES))),
        gdjax.adam(gdjax.per_leaf(gdjax.per_leaf(0.1, {"embed": 5.0, "bias": 0.0}), {"embed": 2.0})),
        gdjax.adam(gdjax.per_leaf(0.1, {"embed": 10.0, "layer": {"bias": 0.0, "kernel": jnp.ones((4, 1))}})),
    ],
    ids="optimizer scale rate twice tree".split(),
)
def test_the_rate_of_each_leaf(tx: Any):
    table = explain(tx, P)
    assert table["rate"] == [1.0, 0.0, 0.1]
    assert table["frozen"] == [False, True, False] and table["why"] == ["", "its learning rate is 0", ""]


@pytest.mark.full
def test_a_schedule_of_each_leaf():
    line = gdjax.linear_schedule(0.0, 1.0, 5)
    assert explain(gdjax.adam(gdjax.per_leaf(line, RATES)), P)["rate"] == [
        "10 x schedule: 0.0 ...", 0.0, "schedule: 0.0 ...",
    ]  # fmt: skip
    table = explain(gdjax.adam(gdjax.per_leaf(line, {"embed": 10.0})), P)
    assert table["why"] == ["its rate is 0 at the first step"] * 3
    down = gdjax.chain(
        gdjax.adam(gdjax.linear_schedule(0.5, 1.0, 5)), gdjax.scale(gdjax.per_leaf(1.0, {"embed": -3.0}))
    )
    table = explain(down, P)
    assert table["rate"] == ["3 x schedule: -0.5 ...", "schedule: 0.5 ...", "schedule: 0.5 ..."]
    assert table.warnings == ("the rate of embed is negative: its updates go up the gradient",)


def test_a_factor_that_differs_within_a_leaf():
    factors = {"kernel": jnp.array([[1.0], [2.0], [3.0], [4.0]])}
    table = explain(gdjax.adamw(gdjax.per_leaf(0.1, factors), weight_decay=gdjax.per_leaf(0.2, factors)), P)
    assert table["rate"] == [0.1, 0.1, "1 to 4 x 0.1"] and table["decay"] == [0.2, 0.2, "1 to 4 x 0.2"]


@pytest.mark.full
def test_the_factors_of_the_leaves_that_a_group_or_a_mask_leaves():
    tx = gdjax.partition(
        {"a": gdjax.adam(gdjax.per_leaf(0.1, RATES)), "b": gdjax.sgd(1.0)},
        {"embed": "b", "layer": {"bias": "a", "kernel": "a"}},
    )
    assert explain(tx, P)["rate"] == [1.0, 0.0, 0.1]
    decay = gdjax.adamw(0.1, weight_decay=gdjax.per_leaf(0.5, {"kernel": 2.0, "bias": 0.0}))
    assert explain(decay, P)["decay"] == [0.5, 0.0, 1.0]
    masked = gdjax.adamw(0.1, weight_decay=gdjax.per_leaf(0.5, {"kernel": 2.0}), mask=IS_KERNEL)
    assert explain(masked, P)["decay"] == [None, None, 1.0]


@pytest.mark.parametrize(
    "method", [gdjax.adam, partial(gdjax.lion, weight_decay=0), gdjax.rmsprop, partial(gdjax.sgd, momentum=0.9)]
)
def test_frozen_before_the_method(method: Any):
    """Moments that start at 0 and see no gradient stay at 0."""
    for tx in (gdjax.chain(gdjax.freeze(IS_KERNEL), method(0.1)), gdjax.chain(method(0.1), gdjax.freeze(IS_KERNEL))):
        table = explain(tx, P)
        assert table["frozen"] == [False, False, True] and table["why"] == ["", "", "frozen by freeze"]


def test_frozen_before_a_decay():
    table = explain(gdjax.chain(gdjax.freeze(IS_KERNEL), gdjax.adamw(0.1)), P)
    assert not any(table["frozen"])
    why = "freeze makes its gradient 0, and what comes after that may move it: put freeze last"
    assert table["why"] == ["", "", why]
