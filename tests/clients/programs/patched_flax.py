"""Flax's example `gemma` with `examples/patches/flax.patch`: `config.optimizer` names an optimizer of gdjax.

The whole of its `train_and_evaluate` runs, on a tiny Gemma. Data, tokenizer and writer are made here; the sampler, and
what the example imports for them, are mocks.
"""

import dataclasses
import functools
import types
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import train
from configs import tiny
from flax import nnx

import gdjax
from gdjax import Matrix

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
STEPS = 8
MODEL = dict(num_layers=2, embed_dim=16, hidden_dim=32, num_heads=4, head_dim=8, num_kv_heads=1)
MODEL |= dict(use_post_attn_norm=False, use_post_ffw_norm=False, attention_types=(1, 1), final_logit_softcap=None)
# Einsums of Gemma's have the heads first: NDH of queries, CKDH of keys and values, NHD of outputs.
ROLES = {
    "/q_einsum": Matrix(1, (0, 2)),
    "/kv_einsum": Matrix(2, (1, 3)),
    "/attn_vec_einsum": Matrix((0, 1), 2),
    "mlp/.*/kernel": Matrix(0, 1),
    ".*": "other",
}


def trained(monkeypatch, folder: Path, optimizer: str):
    """The optimizer at the end of a run, and the losses of its steps."""
    ids = np.random.default_rng(0).integers(2, 20, (4, 17))
    batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:], "inputs_position": np.arange(16)[None].repeat(4, 0)}
    encoder = mock.Mock(**{"vocab_size.return_value": 20, "pad_id.return_value": 0})
    writer, made = mock.Mock(), []

    def data(data_sharding, **_):
        placed = jax.device_put(jax.tree.map(jnp.int32, batch), data_sharding)
        return [placed] * STEPS, [placed], encoder

    monkeypatch.setattr(train.input_pipeline, "get_datasets", data)
    monkeypatch.setattr(train.tokenizer, "load_sentencepiece_processor", mock.Mock())
    monkeypatch.setattr(train.sampler_lib, "Sampler", mock.Mock())
    writers = mock.MagicMock(**{"create_default_writer.return_value": writer})
    monkeypatch.setattr(train, "metric_writers", writers)
    real = train.nnx.Optimizer
    monkeypatch.setattr(train.nnx, "Optimizer", lambda *args, **kw: made.append(real(*args, **kw)) or made[-1])
    config = dataclasses.replace(
        tiny.get_config(), optimizer=optimizer, transformer_params=MODEL, num_train_steps=STEPS, num_eval_steps=1,
        eval_every_steps=1, warmup_steps=2, learning_rate=3e-2, use_bfloat16=False,
    )  # fmt: skip
    train.train_and_evaluate(config, str(folder))
    scalars = [call.args[1] for call in writer.write_scalars.call_args_list]
    return made[0], [float(x["eval_loss"]) for x in scalars if "eval_loss" in x]


@pytest.mark.parametrize("name", ["normuon", "soap"])
def test_it_trains_as_the_optimizer_of_that_name(name, monkeypatch, tmp_path, numbers):
    """With the axes of all matrices written down, the run is the same; its checkpoint comes back."""
    optimizer, losses = trained(monkeypatch, tmp_path / name, name)
    assert losses[-1] < losses[0] - 0.3
    numbers(losses)
    resumed, none = trained(monkeypatch, tmp_path / name, name)  # from the last checkpoint, with no step left
    assert not none
    written = types.SimpleNamespace(written=functools.partial(getattr(gdjax, name), roles=ROLES))
    monkeypatch.setattr(train, "gdjax", written)
    same, expected = trained(monkeypatch, tmp_path / "written", "written")
    assert losses == expected
    for other in (resumed, same):
        states = [nnx.as_pure(x.opt_state) for x in (optimizer, other)]
        jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_default_is_as_it_was(monkeypatch, tmp_path):
    optimizer, losses = trained(monkeypatch, tmp_path / "adamw", "adamw")
    assert isinstance(optimizer.opt_state[0], optax.ScaleByAdamState) and losses[-1] < losses[0]
