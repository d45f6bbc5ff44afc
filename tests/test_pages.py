"""The programs in the pages run, and what the page on devices says is so."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import assert_close

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ROOT / "docs" / "devices.md"
GUIDES = ["groups_and_rates", "write_a_rule", "write_a_wrapper", "write_a_matrix_method"]
sharding = jax.sharding
P = sharding.PartitionSpec
on_meshes = pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="this JAX has no types of arrays on meshes")


def programs(page: Path) -> list[Any]:
    """The programs of a page, compiled so that an error shows the line of the page."""
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [compile("\n" * text[: x.start(1)].count("\n") + x[1], str(page), "exec") for x in found]


def test_readme():
    ten_lines, own_rule = programs(ROOT / "README.md")
    names: dict[str, Any] = {}
    with relaxed():
        exec(ten_lines, names)
        params, state = names["params"], names["state"]
        for _ in range(20):
            params, state = names["step"](params, state)
        assert names["loss"](params) < names["loss"](names["params"])
    names = {"NamedTuple": NamedTuple, "Any": Any, "gdjax": gdjax, "jnp": jnp}
    exec(own_rule, names)
    tx, g = names["tx"], jnp.array([2.0, -3.0, 0.0])
    assert_close(tx.update(g, tx.init(g))[0], -1e-3 * jnp.sign(g))


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guides(guide: str):
    names: dict[str, Any] = {}
    with relaxed():  # a guide for wrappers has one around Optax's Adam
        for program in programs(ROOT / "docs" / f"{guide}.md"):
            exec(program, names)


TREE = {"a": jnp.arange(1.0, 13.0).reshape(3, 4) / 4, "b": jnp.ones(2)}
# After one infinite gradient: its own update, the others of its array, the next update of its own.
INFINITE = {
    "adam": "nan finite nan", "adagrad": "nan finite nan", "rmsprop": "nan finite nan", "adabelief": "nan finite nan",
    "sm3": "nan finite nan", "cocob": "nan finite nan", "lamb": "nan finite nan",
    "adafactor": "nan finite finite", "fromage": "nan finite finite", "galore": "nan finite finite",
    "lars": "nan finite nan", "novograd": "nan finite nan", "adaptive_grad_clip": "nan finite finite",
    "polyak_sgd": "nan finite finite", "dog": "nan finite finite",
    "muon": "nan nan nan", "momo": "nan nan nan", "prodigy": "nan nan nan",
    "clip_by_global_norm": "nan zero finite", "clip_by_block_rms": "nan zero finite", "normalize": "nan zero finite",
    "sgd": "inf finite finite", "trace": "inf finite inf",
    "lion": "finite finite finite", "signum": "finite finite finite", "clip": "finite finite finite",
}  # fmt: skip
CALLS = {"galore": {"learning_rate": 0.1, "rank": 2}, "trace": {"decay": 0.9}, "cocob": {}, "normalize": {}}


def kind(x: Any) -> str:
    if jnp.isnan(x).any():
        return "nan"
    return "inf" if jnp.isinf(x).any() else "zero" if (x == 0).all() else "finite"


@pytest.mark.parametrize("name", INFINITE)
def test_what_the_page_on_numbers_says_of_an_infinity(name: str):
    factory = getattr(gdjax, name)
    tx = factory(**CALLS[name]) if name in CALLS else factory(0.1)
    extra = {"value": 1.0} if name in ("polyak_sgd", "momo") else {}
    update = jax.jit(lambda g, s: tx.update(g, s, TREE, **extra))
    _, state = update(TREE, tx.init(TREE))
    first, state = update({**TREE, "a": TREE["a"].at[1, 2].set(jnp.inf)}, state)
    then, _ = update(TREE, state)
    own, others = first["a"][1, 2], jnp.delete(first["a"].ravel(), 6)
    assert f"{kind(own)} {kind(others)} {kind(then['a'][1, 2])}" == INFINITE[name]
    assert name in (ROOT / "docs" / "numbers.md").read_text("utf-8")


@on_meshes
@pytest.mark.parametrize("tx", [None, gdjax.sgd(0.1, momentum=0.9)], ids=["as written", "to scale"])
def test_the_programs_for_many_devices(tx: Any):
    names: dict[str, Any] = {}
    with relaxed():
        for program in programs(DEVICES):
            exec(program, names)
            names["tx"] = names["tx"] if tx is None else tx  # clipping and Adam hide a gradient 8 times too large
        loss, start, x, y = (names[name] for name in ("loss", "start", "x", "y"))
        params, state = start, names["tx"].init(start)
        for _ in range(5):
            params, state = jax.jit(names["step"])(params, state, x, y)
        own = [jax.grad(loss)(start, x[i : i + 8], y[i : i + 8]) for i in range(0, 64, 8)]
    for way in ("by_jit", "by_shard_map", "by_explicit_axes", "by_parts"):
        assert len(names[way]["w"].sharding.device_set) == 8
        assert_close(jax.device_get(names[way]), params)
    parts = [x.addressable_shards[0].data.shape for x in jax.tree.leaves(names["parts"])]
    assert parts.count((2, 8)) == (2 if tx is None else 1)
    matrices = [x for x in jax.tree.leaves((names["by_explicit_axes"], names["explicit_state"])) if x.ndim == 2]
    assert {str(jax.typeof(x)) for x in matrices} == {"float32[16@data,8]"} and len(matrices) == (
        3 if tx is None else 2
    )
    # What each device clips alone has another mean.
    assert all(gdjax.global_norm(g) > 1 for g in own)
    apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), names["clipped_before_the_mean"], params)
    assert max(jax.tree.leaves(apart)) > 1e-3


def mapped(f: Any, x: Any, w: Any, out_specs: Any) -> Any:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(sharding.AxisType.Auto,))
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P("data"), P()), out_specs=out_specs))(x, w)


@on_meshes
def test_gradients_inside_shard_map():
    x, w = jnp.arange(16.0), jnp.ones(())
    grad = jax.grad(lambda w, x: jnp.mean(w * x))
    assert_close(mapped(lambda x, w: jax.lax.pmean(grad(w, x), "data"), x, w, P()), 8 * jnp.mean(x))
    own = mapped(lambda x, w: grad(jax.lax.pcast(w, "data", to="varying"), x)[None], x, w, P("data"))
    assert_close(own, (x[::2] + x[1::2]) / 2)


@on_meshes
def test_own_gradients_with_a_common_state():
    tx, x, w = gdjax.sgd(1.0, momentum=0.5), jnp.arange(8.0), jnp.ones(1)

    def update(x: Any, w: Any) -> Any:
        return tx.update(x, tx.init(w), w)

    u, state = mapped(update, x, w, P("data"))
    assert_close(u, -x)
    assert_close(state[0].trace, x)
    with pytest.raises(ValueError, match="out_specs"):
        mapped(lambda x, w: gdjax.apply_updates(w, update(x, w)[0]), x, w, P())
    averaged = mapped(lambda x, w: gdjax.apply_updates(w, jax.lax.pmean(update(x, w)[0], "data")), x, w, P())
    assert_close(averaged, w - jnp.mean(x)[None])


@on_meshes
def test_what_the_states_on_explicit_axes_are():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(sharding.AxisType.Explicit,))
    p = jax.device_put(jnp.ones((16, 8)), sharding.NamedSharding(mesh, P("data")))

    def kinds(tx: Any) -> list[str]:
        return [str(jax.typeof(x)) for x in jax.tree.leaves(tx.init(p)) if x.ndim]

    divided, rows, columns = "float32[16@data,8]", "float32[16@data]", "float32[8]"
    with sharding.set_mesh(mesh):
        assert kinds(gdjax.adam(0.1)) == [divided] * 2
        assert {rows, columns} <= set(kinds(gdjax.adafactor(0.1, min_dim_size_to_factor=4)))
        assert set(kinds(gdjax.sm3(0.1))) == {rows, columns, divided}
        assert kinds(gdjax.scale_by_muon())[0] == divided
        assert kinds(gdjax.flatten(gdjax.adam(0.1))) == ["float32[128]"] * 2
        assert set(kinds(gdjax.galore(0.1, rank=2))) == {"float32[2,8]", "float32[16,2]"}
        assert kinds(gdjax.measure_with_ema(gdjax.global_norm, 0.9)) == []
        assert kinds(gdjax.monitor({"norm": gdjax.global_norm})) == []
        gdjax.set_to_zero().update(p, gdjax.EmptyState())
    for call in (
        lambda: gdjax.monitor({"norm": gdjax.global_norm}).init(p),
        lambda: gdjax.measure_with_ema(gdjax.global_norm, 0.9).init(p),
        lambda: gdjax.set_to_zero().update(p, gdjax.EmptyState()),
    ):
        with pytest.raises(ValueError, match="Please enter your `jit` into a mesh context via `jax.set_mesh`"):
            call()
