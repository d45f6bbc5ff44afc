"""What has grown between two models, which leaf is the head, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.transfer_laws.factors import Growth
from gdjax.transfer_laws.small_model import SmallModel
from tests.transfer_laws.models import BASE, DEEP, WIDE, V, changed, factors


def test_counterparts():
    small = SmallModel("transfer", {"embed": jnp.ones((9, 4)), "blocks": [{"w": jnp.ones((4, 4))}]}, None, "fold")
    assert small.counterpart("blocks/7/w").path == "blocks/0/w" and small.counterpart("embed").path == "embed"
    with pytest.raises(ValueError, match="transfer: params has other, the base has blocks/0/w, embed"):
        small.counterpart("other")
    two = SmallModel("transfer", [{"w": jnp.ones((4, 4))}, {"w": jnp.ones((4, 8))}], None, "fold")
    with pytest.raises(ValueError, match=r"2/w may be like 0/w of shape \(4, 4\) and 1/w of shape \(4, 8\)"):
        two.counterpart("2/w")


def test_growths():
    growths = SmallModel("transfer", BASE, None, "fold").growths(DEEP)
    up, down, embed, bias = (growths[f"{path}"] for path in ("blocks/5/mlp/up", "blocks/5/mlp/down", "embed", "head"))
    assert up == Growth("matrix", 4, 4, 4, "inside", ((4, 16), (16, 64)))
    assert down == Growth("matrix", 4, 4, 4, "last", ((16, 4), (64, 16)))
    assert embed == Growth("embedding", 1, 4, 1, "", ((V, 4), (V, 16)))
    assert bias == Growth("head", 4, 1, 1, "", ((4, V), (16, V)))
    assert growths["blocks/5/mlp/up_bias"].outputs == 4 and growths["blocks/5/attn/gain"].inputs == 1


def test_a_depth_that_is_none():
    with pytest.raises(ValueError, match="depth='folded' is neither 'fold' nor 'forward', and matches none of "):
        SmallModel("transfer", BASE, None, "folded")
    with pytest.raises(ValueError, match="transfer: the base has no leaves"):
        SmallModel("transfer", {}, None, None)


def test_a_branch_whose_end_is_not_known():
    blocks = lambda number: [{"mlp": {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 4))}} for _ in range(number)]
    base, deep = ({"embed": jnp.ones((9, 4)), "blocks": blocks(n), "head": jnp.ones((4, 9))} for n in (1, 2))
    with pytest.raises(ValueError, match=r"which are the last matrices of the 1 residual branches with blocks/0/mlp/a"):
        gdjax.transfer(gdjax.adam(0.1), base, depth="fold").init(deep)
    assert factors(gdjax.adam(0.1), deep, base, depth="mlp/b")["b"][0] == 0.5


REFUSED = {
    "another structure": (BASE, changed(WIDE, other=jnp.ones(3)), {}, r"params has other, the base has blocks/0"),
    "an axis that shrinks": (WIDE, BASE, {}, r"blocks/0/attn/gain shrinks from \(16,\) to \(4,\)"),
    "a tied head": (
        changed(BASE, head=None), changed(WIDE, head=None), {},
        r"no leaf is the head, so embed of shape \(32, 4\), now \(32, 16\), .* Multiply the logits by 4 / 16",
    ),
    "other axes": (BASE, changed(WIDE, head=jnp.ones((16, 2, 9))), {}, r"head has shape .*, and \(4, 32\) in the base"),
    "no rule": (
        changed(BASE, a_log=jnp.ones((4, 4))), changed(WIDE, a_log=jnp.ones((4, 16))), {},
        r"no rule covers a_log, which grows from \(4, 4\) to \(4, 16\): give its role",
    ),
    "a role that differs": (
        changed(BASE, block={"gate": jnp.ones((4, 4))}), changed(WIDE, block={"gate": jnp.ones((16, 4))}), {},
        r"block/gate is a matrix of shape \(4, 4\) in the base and a router",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models(name: str):
    base, params, more, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        gdjax.transfer(gdjax.adamw(0.1), base, **more).init(params)


def layers(*shapes: Any, torch: bool = False) -> list[Any]:
    """Layers of some inputs and outputs."""
    return [jax.ShapeDtypeStruct(s[::-1] if torch else s, "float32") for s in shapes]


def named(names: str, *shapes: Any, torch: bool = False) -> Any:
    leaf = "weight" if torch else "kernel"
    return {name: {leaf: x} for name, x in zip(names.split(), layers(*shapes, torch=torch), strict=True)}


# Models of width n, and the path of the head that no name tells.
HEADLESS = {
    "Flax": (lambda n: named("conv1 conv2 fc", (3, 3, 3, n), (3, 3, n, n), (n, 10)), ["fc/kernel"]),
    "PyTorch": (
        lambda n: {"conv1.weight": layers((3, 3, 3, n), torch=True)[0], "fc.weight": layers((n, 10), torch=True)[0]}
        | {"layer1.0.conv2.weight": layers((3, 3, n, n), torch=True)[0]},
        ["fc.weight"],
    ),
    "Equinox": (
        lambda n: {"layers": [{"weight": x} for x in layers((8, n), (n, n), (n, 10), torch=True)]}, ["layers/2/weight"]
    ),
    "Linen": (
        lambda n: {"params": named("Dense_0 Dense_1 Dense_2", (8, n), (n, n), (n, 10))}, ["params/Dense_2/kernel"]
    ),
    "Haiku": (lambda n: {f"mlp/~/linear_{i}": {"w": x} for i, x in enumerate(layers((8, n), (n, n), (n, 10)))},
              ["mlp/~/linear_2/w"]),
    "in layers": (lambda n: {"layers": [{"linear": {"kernel": x}} for x in layers((8, n), (n, n), (n, 9))]},
                  ["layers/2/linear/kernel"]),
    "one output": (lambda n: named("fc1 fc2 fc3", (8, n), (n, n), (n, 1)), ["fc3/kernel"]),
    "two losses": (lambda n: named("l1 l2 policy value", (8, n), (n, n), (n, 4), (n, 1)),
                   ["policy/kernel", "value/kernel"]),
    "beside a name": (lambda n: named("l1 l2 head fc", (8, n), (n, n), (n, 4), (n, 5)), ["fc/kernel", "head/kernel"]),
    "as many inputs": (lambda n: named("up mid fc", (10, n), (n, n), (n, 10)), ["fc/kernel"]),
    "a table": (lambda n: {"embed": jnp.ones((V, n))} | named("fc1 c_fc fc", (n, 4 * n), (4 * n, n), (n, 10)),
                ["fc/kernel"]),
    "patches": (
        lambda n: named("patch fc", (48, n), (n, 10))
        | {"blocks": [named("q up down", (n, n), (n, 4 * n), (4 * n, n)) for _ in range(2)]}, ["fc/kernel"],
    ),
    "a middle of one size": (lambda n: named("conv fc1 fc2", (3, 3, 3, n), (16 * n, 64), (64, 10)), []),
    "wider feed-forward": (
        lambda n: {"embed": jnp.ones((V, 16)), "blocks": [named("up down", (16, n), (n, 16)) for _ in range(2)]}
        | named("head", (16, V)), ["head/kernel"],
    ),
    "LoRA": (lambda n: {name: {"lora_a": jnp.ones((n, 8)), "lora_b": jnp.ones((8, n))} for name in "qv"}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADLESS)
def test_a_last_matrix_of_which_only_the_inputs_grow_is_a_head(name: str):
    make, heads = HEADLESS[name]
    tx, base, wide = gdjax.adamw(0.1), make(4), make(16)
    rows = gdjax.transfer_table(tx, wide, base).rows
    assert [r.path for r in rows if r.role == "head"] == heads
    assert {(r.rate, r.decay, r.eps, r.start) for r in rows if r.path in heads and r.grown} <= {(0.25, 4, 1, 0.25)}
    assert all(r.role == "matrix" for r in rows if "fc1" in r.path or "c_fc" in r.path)
    arrays = jax.tree.map(lambda x: jnp.ones(x.shape), wide)
    for path, x in gdjax.core.paths.paths_of(gdjax.transfer_init(arrays, base)):
        if any(r.path == path and r.grown for r in rows if r.role == "head"):
            np.testing.assert_allclose(x, 0.5)


def test_a_head_that_cannot_be_known_is_asked_for_remedy_first():
    make = lambda n: named("a1 a2 b1 b2", (9, n), (n, 2), (2, n), (n, 9))
    with pytest.raises(ValueError, match=r"say which leaf is the head, by roles={'b2/kernel': 'head'}: no name .* a2/"):
        gdjax.transfer(gdjax.adam(0.1), make(4)).init(make(16))
    rows = gdjax.transfer_table(gdjax.adam(0.1), make(16), make(4), roles={"b2/kernel": "head"}).rows
    assert [r.role for r in rows] == ["matrix", "matrix", "matrix", "head"]
    bare = lambda n: {"w1": jnp.ones((8, n)), "w2": jnp.ones((n, 1))}
    with pytest.raises(ValueError, match=r"transfer: say roles={'w2': 'head'} if w2 is the head: no rule covers it"):
        gdjax.transfer(gdjax.adam(0.1), bare(4)).init(bare(16))


def test_a_tied_head_may_be_told():
    base, wide = (changed(tree, head=None, wpe=jnp.ones((9, n))) for tree, n in ((BASE, 4), (WIDE, 16)))
    assert factors(gdjax.adam(0.1), wide, base, roles={"embed": "embedding"})["embed"][0] == 1.0


def test_growing_heads_are_a_warning():
    attention = lambda n, k: {"query": {"kernel": jnp.ones((n, 4, k))}}
    base, wide = (tree | {"attn": attention(n, k)} for tree, n, k in ((BASE, 4, 2), (WIDE, 16, 8)))
    with pytest.warns(UserWarning, match=r"the heads of attn/query/kernel grow from 2 to 8 numbers"):
        gdjax.transfer(gdjax.adam(0.1), base, roles={"query": gdjax.Matrix(-3, (-2, -1))}).init(wide)


@pytest.mark.parametrize("name", ["encoderblock", "decoder/block", "ScanBlock_0"])
def test_layers_stacked_under_any_name_are_layers(name: str):
    def stack(layers: int) -> Any:
        block = {
            "up": jnp.ones((layers, 4, 8)),
            "down": jnp.ones((layers, 8, 4)),
            "ln": {"scale": jnp.ones((layers, 4))},
        }
        for key in reversed(name.split("/")):
            block = {key: block}
        return {"embed": jnp.ones((V, 4)), **block, "head": jnp.ones((4, V))}

    rows = gdjax.transfer_table(gdjax.adam(0.1), stack(8), stack(2), depth="fold").rows
    found = {r.path.removeprefix(f"{name}/"): (r.grown, r.rate, r.eps) for r in rows}
    assert found["down"] == ("layers x 4", 0.25, 1.0) and found["up"] == found["ln/scale"] == ("layers x 4", 1.0, 0.25)
    with pytest.raises(ValueError, match=f"there are 4 times the layers of the base with {name}/"):
        gdjax.transfer(gdjax.adam(0.1), stack(2)).init(stack(8))


@pytest.mark.parametrize("experts", [{"experts": {}}, {"mlp": {"router": jnp.ones((4, 0))}}])
def test_more_stacked_experts_make_no_deeper_model(experts: Any):
    ((name, inside),) = experts.items()
    of = lambda k: {name: {"up": jnp.ones((k, 4, 4)), **{x: jnp.ones((4, k)) for x in inside}}}
    rows = gdjax.transfer_table(gdjax.adam(0.1), BASE | of(8), BASE | of(2)).rows
    (up,) = [r for r in rows if r.path == f"{name}/up"]
    assert (up.role, up.grown, up.rate) == ("matrix", "", 1.0)


def llama(n: int, layers: int, **more: Any) -> Any:
    """Attention and MLP beside each other in one dictionary a layer."""
    shapes = {k: (n, n) for k in ("wq", "wk", "wv", "wo")} | {"w1": (n, 4 * n), "w3": (n, 4 * n), "w2": (4 * n, n)}
    blocks = [{k: jnp.ones(shape) for k, shape in shapes.items()} | more for _ in range(layers)]
    return {"embed": jnp.ones((V, n)), "layers": blocks, "lm_head": jnp.ones((n, V))}


def test_both_branches_of_a_flat_layer_have_an_end():
    rows = gdjax.transfer_table(gdjax.adam(0.1), llama(4, 8), llama(4, 2), depth="fold").rows
    assert {r.path.split("/")[-1] for r in rows if r.rate == 0.25} == {"wo", "w2"}
    others = {"q": "wq", "k": "wk", "v": "wv", "out": "wo", "expand": "w1", "contract": "w2"}
    named = lambda k: [{new: x[old] for new, old in others.items()} for x in llama(4, k)["layers"]]
    with pytest.raises(ValueError, match="which are the last matrices of the 2 residual branches with layers/0/"):
        gdjax.transfer(gdjax.adam(0.1), {"layers": named(2)}, depth="fold").init({"layers": named(8)})


@pytest.mark.parametrize(
    ("path", "role"), [("time_embedding/linear_1/kernel", "embedding"), ("pre_head/kernel", "head")]
)
def test_an_embedding_or_a_head_whose_two_axes_grow_is_a_question(path: str, role: str):
    layer, *rest, leaf = path.split("/")
    of = lambda n: {layer: {rest[0]: {leaf: jnp.ones((n, n))}} if rest else {leaf: jnp.ones((n, n))}}
    base, wide = BASE | of(4), WIDE | of(16)
    with pytest.raises(
        ValueError, match=rf"both axes of {path} grow, from \(4, 4\) to \(16, 16\), as those of no {role}"
    ):
        gdjax.transfer(gdjax.adam(0.1), base).init(wide)
    (row,) = [r for r in gdjax.transfer_table(gdjax.adam(0.1), wide, base, roles={path: "matrix"}) if r.path == path]
    assert (row.rate, row.start) == (0.25, 0.5)
    (row,) = [r for r in gdjax.transfer_table(gdjax.adam(0.1), wide, base, roles={path: role}) if r.path == path]
    assert row.rate == (1.0 if role == "embedding" else 0.25)
    positions = [tree | {"wpe": jnp.ones((n, n))} for tree, n in ((BASE, 4), (WIDE, 16))]
    assert factors(gdjax.adam(0.1), positions[1], positions[0])["wpe"][0] == 1.0  # a longer context


@pytest.mark.full
@pytest.mark.parametrize("axis", [True, False])
def test_a_matrix_for_each_head_grows_by_itself(axis: bool):
    """The queries change as much at each width where one head is one matrix."""
    size, given = 8, True if axis else 8
    tx = gdjax.muon(
        1.0, consistent_rms=0.2, adam_learning_rate=1.0,
        muon_weight_dimension_numbers=gdjax.matrices_by_role(per_head=given),
    )  # fmt: skip
    query = lambda n: {"attn": {"query": {"kernel": jnp.ones((n, n // size, size) if axis else (n, n))}}}
    own = gdjax.transfer(tx, query(32))

    def change(n: int) -> float:
        x, d = (jax.random.normal(jax.random.key(n + i), (4, n)) for i in range(2))
        g = jax.tree.map(lambda p: (x.T @ d).reshape(p.shape), query(n))
        u, _ = own.update(g, own.init(query(n)), query(n))
        return float(jnp.sqrt(jnp.mean((x @ u["attn"]["query"]["kernel"].reshape(n, n)) ** 2)))

    assert change(128) == pytest.approx(change(32), rel=0.1)


def test_more_experts_make_no_deeper_model():
    experts = lambda n, k: {"router": jnp.ones((n, k)), "experts": [{"up": jnp.ones((n, n))} for _ in range(k)]}
    base, wide = (tree | {"moe": experts(n, k)} for tree, n, k in ((BASE, 4, 2), (WIDE, 16, 8)))
    rows = [r for r in gdjax.transfer_table(gdjax.adam(0.1), wide, base) if "experts" in r.path]
    assert len(rows) == 8 and {(r.role, r.rate, r.grown) for r in rows} == {("matrix", 0.25, "inputs x 4, outputs x 4")}
