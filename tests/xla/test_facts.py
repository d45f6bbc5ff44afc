"""What is inferred from the traced rules of every declared transform, pinned: a new JAX must not change it unseen.

`python -m tests.xla.test_facts` writes the table anew.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.lift.one_leaf import OneLeaf
from gdjax.xla.facts import graph_of
from gdjax.xla.loops import UPDATE, plan
from tests.cases import CASES

TABLE = Path(__file__).with_name("facts.json")
SHAPE = (96, 128)  # large enough to be ordered


def facts(tx: Any, dtype: str) -> list[str]:
    """For each row of rules that sees a matrix its loops, with those they wait for and those they use."""
    found: list[str] = []
    traced = OneLeaf.traced

    def noted(self: Any, arguments: Any) -> Any:
        result = traced(self, arguments)
        if arguments[0].shape == SHAPE and (line := shown(self.kernels, arguments, result.plan)) not in found:
            found.append(line)
        return result

    params = {"matrix": jax.ShapeDtypeStruct(SHAPE, dtype)}
    value = lambda p: sum(jnp.sum(jnp.square(x)).astype("float32") for x in jax.tree.leaves(p))  # noqa: E731
    extra = {"value": jnp.float32(1), "loss": jnp.float32(1), "value_fn": value, "obj_fn": value}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(OneLeaf, "traced", noted)
        warnings.simplefilter("ignore")
        jax.clear_caches()
        state = jax.eval_shape(tx.init, params)
        jax.eval_shape(lambda g, s, p: tx.update(g, s, p, grad=g, **extra), params, state, params)
    return found


def shown(kernels: Any, arguments: Any, how: Any) -> str:
    names = ["update"]
    for kernel, mine, numbers in zip(kernels, arguments[2], arguments[4], strict=True):
        fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
        names += [f for f, x in zip(fields, mine, strict=False) for _ in jax.tree.leaves(x)]
    name = lambda i: names[i] if i < len(names) else str(i)  # noqa: E731
    words = []
    for loop in how.loops:
        line = name(loop.index)
        line += f" after {', '.join(map(name, loop.waits))}" if loop.waits else ""
        line += f" from {', '.join(map(name, loop.uses))}" if loop.uses else ""
        words.append(line + " anew" * loop.again + " held" * loop.held + " unrelated" * loop.unrelated)
    return f"{' + '.join(dict.fromkeys(k.name for k in kernels))}: {'; '.join(words)}{' | keeps' * how.keeps}"


def table() -> dict[str, dict[str, list[str]]]:
    return {dtype: {case.name: facts(case.make(), dtype) for case in CASES} for dtype in ("float32", "bfloat16")}


@pytest.mark.skipif(jax.__version_info__ < (0, 7), reason="another JAX traces some rules otherwise")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_facts_are_those_of_the_table(dtype: str):
    known = json.loads(TABLE.read_text("utf-8"))[dtype]
    found = {case.name: facts(case.make(), dtype) for case in CASES}
    assert {k: x for k, x in found.items() if known.get(k) != x} == {}
    assert set(known) == set(found)


def test_the_facts_are_those_of_the_papers():
    """Read by hand from the formulas."""
    of = lambda tx: facts(tx, "float32")[0].partition(": ")[2]  # noqa: E731
    assert of(gdjax.scale_by_lion()) == "update; mu after update"  # c_t is of the old mu
    assert of(gdjax.scale_by_adam()) == "mu; nu; update from mu, nu"
    assert of(gdjax.scale_by_adadelta()) == "e_g; update from e_g; e_x after update from e_g anew"
    assert of(gdjax.scale_by_adan()).endswith("; g after v, n unrelated; m from g; update from m, v, n")


def test_a_circle_of_loops_and_an_output_that_is_an_input():
    def swapped(g: Any, a: Any, b: Any) -> Any:
        return g, b + g, a + g

    x = jnp.ones(3)
    graph = graph_of(jax.make_jaxpr(swapped)(x, x, x))
    how = plan(graph, graph.inputs[0], None, graph.inputs[1:], "params")
    waits = {loop.index: loop.waits for loop in how.loops}
    assert sorted(waits) == [UPDATE, 1, 2]
    assert (waits[1], waits[2]) in (((), (1,)), ((2,), ()))  # one overwrites what the other read; the other is copied


if __name__ == "__main__":
    rows = {
        d: "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(x)}" for k, x in t.items()) + "\n }"
        for d, t in table().items()
    }
    TABLE.write_text("{\n" + ",\n".join(f' "{d}": {text}' for d, text in rows.items()) + "\n}\n", "utf-8")


def test_only_large_leaves_are_put_in_order():
    """A copy of a small one costs less than what makes a loop wait: a comparison of a number with NaN."""
    tx = gdjax.lion(1e-3)

    def waits(size: int) -> int:
        params = jax.ShapeDtypeStruct((size,), "float32")
        text = jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params).as_text()
        return text.count("0x7FC00000")

    assert waits(2**13) == 0 < waits(2**13 + 1)
