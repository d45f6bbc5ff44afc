"""What a GPU or a TPU would run: it can be lowered for them, and gives on a CPU what the CPU's own way gives."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gdjax
from gdjax.lift.one_leaf import kernel_of
from tests.cases import Case, by_name, every
from tests.trees import assert_close, random_tree, steps

SHAPES = {"a": (3, 4), "b": [(2, 8), (8, 2)], "c": (5,), "d": ()}


@pytest.mark.full
@every(thin=4, platform=["tpu", "cuda"])
def test_the_update_is_lowered_for(case: Case, platform: str):
    tx, params = case.make(), random_tree(0)
    state = jax.eval_shape(tx.init, params)
    lowered = jax.jit(tx.update).trace(params, state, params).lower(lowering_platforms=(platform,))
    same = jax.tree.map(lambda x: (x.shape, x.dtype), lowered.out_info)
    assert same == jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))


def forget() -> None:
    kernel_of.cache_clear()
    jax.clear_caches()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every function that depends on the device is what it is for those that are not named."""

    def default_of(*args: Any, default: Any, **others: Any) -> Any:
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", default_of)
    forget()
    yield
    forget()


NAMES = "adamw lion adan muon muon/spectral schedule_free clip_by_block_rms clip_by_global_norm adaptive_grad_clip"
NAMES += " normalize MultiSteps mechanize"


def run(name: str) -> Any:
    tx = by_name(name).make()
    params, gradients = random_tree(0, shapes=SHAPES), [random_tree(i, shapes=SHAPES) for i in (1, 2, 3)]
    return steps(tx, params, gradients)


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return {name: run(name) for name in NAMES.split()}


@pytest.mark.programs
@pytest.mark.filterwarnings("ignore:gdjax.muon")  # that the tree has stacks of biases
@pytest.mark.usefixtures("elsewhere")
def test_the_way_of_other_devices_gives_the_same(here: dict[str, Any]):
    for name, wanted in here.items():
        assert_close(run(name), wanted, 2e-5, 2e-6)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_of_extremes_elsewhere(scale: float):
    x = {"a": jnp.array([3.0, 0.0]) * scale, "b": jnp.array(-4.0) * scale}
    assert_close(gdjax.global_norm(x) / scale, jnp.float32(5.0), 1e-6)
    assert_close(gdjax.safe_norm(x["a"], 0.0) / scale, jnp.float32(3.0), 1e-6)
    unit = gdjax.normalize()
    assert_close(unit.update(x, unit.init(x))[0], {"a": jnp.array([0.6, 0.0]), "b": jnp.array(-0.8)}, 1e-6)
