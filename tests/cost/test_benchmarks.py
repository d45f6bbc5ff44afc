"""The benchmarks compare like with like: a recipe's hand-written step is that of the library, and close to Optax's."""

import importlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

import gdjax
from tests.support import relaxed
from tests.trees import numbers

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
hand, recipes, trees, program_text, step_time, harness, transfer = map(
    importlib.import_module, ("hand", "recipes", "trees", "program_text", "step_time", "harness", "transfer")
)

TREE = {"a": (160, 130), "b": (16,), "c": (3, 3, 4, 8), "s": ()}  # one leaf that Adafactor factors
# How far Optax is where it has another default, see docs/from_optax.md.
OTHERWISE = {"adan": 1e-2, "yogi": 1e-5, "muon, bfloat16 products": 5e-5}
# A last bit of float32 turns one of bfloat16, and that by what Newton-Schulz multiplies small singular values with.
ROUNDED = {"muon, bfloat16 products": 5e-5}


def run(init: Any, step: Any, tree: Any, steps: int = 6) -> Any:
    params = trees.arrays(tree, 0, 0.5)
    state, step = init(params), jax.jit(step)
    for i in range(steps):
        params, state = step(params, state, trees.arrays(tree, i + 1, 1.0))
    return params


def distance(x: Any, y: Any) -> float:
    """The largest difference over the largest number."""
    xs, ys = numbers(x), numbers(y)
    return max(np.max(np.abs(a - b)) for a, b in zip(xs, ys, strict=True)) / max(np.max(np.abs(b)) for b in ys)


def test_every_recipe_has_a_step_by_hand():
    assert set(hand.STEPS) == set(recipes.RECIPES)


# One of each kind; the others in the slow sweeps.
KINDS = (
    "sgd", "nesterov", "adamw", "clip + adamw + cosine", "adan", "lamb", "adafactor", "accumulate 4, emitting",
    "finite guard + adamw", "gradient guard + adamw", "injected adamw", "schedule_free_adamw", "two groups", "muon",
)  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in KINDS else [pytest.mark.slow]) for n in recipes.RECIPES]
)
def test_the_step_by_hand_is_the_step_of_the_library(name: str):
    recipe = recipes.RECIPES[name]
    tree = {"w": (20, 12), "v": (12, 20)} if recipe.trees else TREE
    with relaxed():
        ours, by_hand = run(*recipes.step_of(gdjax, recipe), tree), run(*hand.STEPS[name](), tree)
        assert distance(by_hand, ours) < ROUNDED.get(name, 1e-6)
        assert distance(run(*recipes.step_of(optax, recipe), tree), ours) < OTHERWISE.get(name, 1e-6)


PROGRAM = """
%fused (a: f32[8,4]) -> f32[8,4] {
  ROOT %n = f32[8,4]{1,0} negate(%a)
}
ENTRY %main (p: f32[8,4], q: bf16[6]) -> (f32[8,4], bf16[6]) {
  %p = f32[8,4]{1,0} parameter(0)
  %q = bf16[6]{0} parameter(1)
  %start = ((f32[8,4]{1,0}), f32[2,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:2], [0:4]}
  %done = f32[2,4]{1,0:S(1)} slice-done(%start)
  %f = f32[8,4]{1,0} fusion(%p, %done), kind=kLoop, calls=%fused
  %c = bf16[6]{0} copy(%q)
  ROOT %t = (f32[8,4]{1,0}, bf16[6]{0}) tuple(%f, %c)
}
"""


def test_kernels_and_bytes_of_a_program():
    assert program_text.kernels(PROGRAM) == {"fusion": 1, "copy": 1}
    # The slice is read, into the chip's own memory; the fusion reads p and writes as much; the copy moves q twice.
    assert program_text.memory_bytes(PROGRAM) == 4 * 8 + 2 * 4 * 32 + 2 * 2 * 6


CONDITIONAL = """
%read (x: f32[6,4], i: s32[]) -> f32[1,4] {
  %x = f32[6,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %s = f32[1,4]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,4}
}
%write (x: f32[6,4], y: f32[1,4], i: s32[]) -> f32[6,4] {
  %x = f32[6,4]{1,0} parameter(0)
  %y = f32[1,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %u = f32[6,4]{1,0} dynamic-update-slice(%x, %y, %i, %i)
}
%turn (p: f32[6,4], i: s32[]) -> f32[6,4] {
  %p = f32[6,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %part = f32[1,4]{1,0} fusion(%p, %i), kind=kLoop, calls=%read
  ROOT %new = f32[6,4]{1,0} fusion(%p, %part, %i), kind=kLoop, calls=%write
}
%same (p: f32[6,4], i: s32[]) -> f32[6,4] {
  ROOT %p = f32[6,4]{1,0} parameter(0)
}
ENTRY %main (p: f32[6,4], i: s32[], due: pred[]) -> f32[6,4] {
  %p = f32[6,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %due = pred[] parameter(2)
  %c = f32[6,4]{1,0} conditional(%due, %p, %p), true_computation=%turn, false_computation=%same
  ROOT %n = f32[6,4]{1,0} copy(%c)
}
"""


def test_bytes_of_slices_and_of_conditions():
    assert program_text.memory_bytes(CONDITIONAL, conditional=False) == 2 * 96
    # A row is read and written, and that read and written over its place; with each goes the number of its place.
    assert program_text.memory_bytes(CONDITIONAL) == 2 * 96 + 4 * 16 + 2 * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_limit_is_a_pass_over_memory(dtype: str):
    params = {"w": np.ones((64, 32), dtype), "b": np.ones(32, dtype)}
    step, held = step_time.memory_pass(params)
    moved = step.lower(held).compile().cost_analysis()["bytes accessed"]
    assert 0 <= moved - 2 * sum(x.nbytes for x in params.values()) < 64  # what reads the factor
    assert all((x < 1).all() for x in jax.tree.leaves(step(held)))


def test_the_search_for_a_rate_ends_between_two_worse_ones_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The loss of seed s is least at 2^(s / 2 - 7.3): the first seed leads, the mean decides."""
    asked: list[tuple[int, int]] = []

    def trained(*_: Any) -> Any:
        def score(rate: Any, seed: int) -> float:
            asked.append((round(float(np.log2(rate))), seed))
            return float((np.log2(rate) + 7.3 - seed / 2) ** 2)

        return score

    monkeypatch.setattr(transfer, "trained", trained)
    path = tmp_path / "kept.json"
    search = lambda extra: transfer.search(
        "x", None, 64, "adamw", "standard", -4, extra, 3, harness.Results(path, again=False)
    )
    found = search(None)
    assert list(found) == [-8, -7, -6] and min(found, key=lambda k: found[k]) == -7
    np.testing.assert_allclose(found[-7], np.mean([(0.3 - s / 2) ** 2 for s in range(3)]), rtol=1e-5)
    assert len(asked) == len(set(asked)) and {k for k, seed in asked if seed} == {-8, -7, -6}
    before = list(asked)
    assert list(search(-2)) == [-8, -7, -6, -2] and asked == [*before, (-2, 0), (-2, 1), (-2, 2)]
    result = transfer.by_size({64: found, 128: {k - 1: y for k, y in found.items()}}, False)
    np.testing.assert_allclose(result.drift, -1)
    assert result.cost == found[-6] - found[-7] and not result.best[128].at_edge
