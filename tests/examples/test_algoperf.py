"""The AlgoPerf submission trains a small workload, with every optimizer of its settings, by the benchmark's calls."""

import importlib.util
import json
import sys
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "algoperf"
SETTINGS = [h for name in ("nadamw", "recipe", "shampoo") for h in json.loads((FOLDER / f"{name}.json").read_text())]


class Workload:
    """Two layers on ten classes, as its smallest one."""

    step_hint = 120

    def model_fn(self, params, batch, model_state, mode, rng, update_batch_norm, dropout_rate=0.0):
        assert mode == "train" and update_batch_norm
        hidden = jnp.tanh(batch["inputs"] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
        return hidden @ params["Dense_1"]["kernel"], {"seen": model_state["seen"] + 1}

    def loss_fn(self, label_batch, logits_batch, mask_batch: Any = None, label_smoothing=0.0):
        wanted = jax.nn.one_hot(label_batch, 10) * (1 - label_smoothing) + label_smoothing / 10
        losses = -jnp.sum(wanted * jax.nn.log_softmax(logits_batch), -1)
        return {"summed": jnp.sum(losses * mask_batch), "n_valid_examples": jnp.sum(mask_batch)}


@pytest.fixture
def submission(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = types.ModuleType("algoperf.spec")
    spec.__dict__["ForwardPassMode"] = types.SimpleNamespace(TRAIN="train")
    monkeypatch.setitem(sys.modules, "algoperf", types.ModuleType("algoperf"))
    monkeypatch.setitem(sys.modules, "algoperf.spec", spec)
    found = importlib.util.spec_from_file_location("submission", FOLDER / "submission.py")
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.programs
@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=lambda i: f"{SETTINGS[i]['method']}-{i}")
def test_the_loss_of_a_small_workload_falls(submission: Any, number: int):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, "float32")
    params = {
        "Dense_0": {"kernel": draw(20, 16), "bias": jnp.zeros(16)}, "Dense_1": {"kernel": draw(16, 10)},
    }  # fmt: skip
    x = jnp.asarray(rng.normal(size=(64, 20)), "float32")
    batch = {"inputs": x, "targets": jnp.argmax(x[:, :10], 1), "weights": jnp.ones(64)}
    settings = SETTINGS[number] | {"precondition_frequency": 5, "grad_clip": 1.0}
    h = namedtuple("Hyperparameters", settings)(**settings)
    workload, key, model_state = Workload(), jax.random.key(0), {"seen": 0}
    optimizer_state = submission.init_optimizer_state(workload, params, model_state, h, key)

    def value(p: Any) -> Any:
        logits, _ = workload.model_fn(p, batch, model_state, "train", key, True)
        return workload.loss_fn(batch["targets"], logits, batch["weights"])["summed"] / 64

    before = value(params)
    for step in range(120):
        queue = iter([batch])
        chosen = submission.data_selection(workload, queue, optimizer_state, params, model_state, h, step, key)
        optimizer_state, params, model_state = submission.update_params(
            workload=workload, current_param_container=params, current_params_types=None, model_state=model_state,
            hyperparameters=h, batch=chosen, loss_type=None, optimizer_state=optimizer_state, eval_results=[],
            global_step=step, rng=key,
        )  # fmt: skip
    optimizer_state, params, model_state = submission.prepare_for_eval(
        workload=workload, current_param_container=params, current_params_types=None, model_state=model_state,
        hyperparameters=h, loss_type=None, optimizer_state=optimizer_state, eval_results=[], global_step=120, rng=key,
    )  # fmt: skip
    assert model_state["seen"] == 120 and value(params) < 0.95 * before


def test_batches(submission: Any):
    assert submission.get_batch_size("imagenet_resnet") == 1024
    with pytest.raises(ValueError, match="wmt_post_ln"):
        submission.get_batch_size("wmt_post_ln")  # it is asked again for "wmt"
