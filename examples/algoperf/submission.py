"""An AlgoPerf submission for JAX with optimizers of gdjax: NadamW, the recipe for transformers, or Shampoo.

With a GPU, in a checkout of mlcommons/algorithmic-efficiency with its data, and gdjax installed beside it:

    cp -r examples/algoperf <checkout>/algorithms/gdjax && cd <checkout>
    python submission_runner.py --framework=jax --workload=ogbg --data_dir=$DATA/ogbg --experiment_dir=$OUT \
        --submission_path=algorithms/gdjax/submission.py --tuning_search_space=algorithms/gdjax/shampoo.json

The three .json files hold the settings: nadamw.json, recipe.json and shampoo.json, whose first five points are those
of the winner of 2024. The functions have the names and arguments that the benchmark calls.
"""

import functools
import importlib
from collections.abc import Iterator
from typing import Any

import jax

import gdjax

BATCH_SIZES = {
    "criteo1tb": 262_144, "fastmri": 32, "imagenet_resnet": 1024, "imagenet_resnet_silu": 512,
    "imagenet_resnet_gelu": 512, "imagenet_vit": 1024, "librispeech_conformer": 256, "librispeech_deepspeech": 256,
    "ogbg": 512, "wmt": 128, "mnist": 1024,
}  # fmt: skip


def get_batch_size(workload_name: str) -> int:
    """The batch over all devices. For a variant that is not listed the benchmark asks again, by its workload."""
    if workload_name not in BATCH_SIZES:
        raise ValueError(f"no batch size for {workload_name}")
    return BATCH_SIZES[workload_name]


def nadamw(h: Any, steps: int, warmup: int) -> Any:
    rate = gdjax.warmup_cosine_decay_schedule(0.0, h.learning_rate, warmup, steps)
    return gdjax.nadamw(rate, 1 - h.one_minus_beta1, h.beta2, weight_decay=h.weight_decay)


def recipe(h: Any, steps: int, warmup: int) -> Any:
    rates = {"learning_rate": h.learning_rate, "adam_learning_rate": h.adam_learning_rate}
    return gdjax.transformer_optimizer(**rates, steps=steps, warmup_steps=warmup, weight_decay=h.weight_decay)


def shampoo(h: Any, steps: int, warmup: int) -> Any:
    """The winner's for hidden matrices, NadamW's step for the rest; where the setting says so, momentum around both."""
    b1, b2 = 1 - h.one_minus_beta1, 1 - h.one_minus_beta2
    momentum = 1 - h.one_minus_momentum if h.use_momentum else 0.0
    rate = gdjax.warmup_cosine_decay_schedule(0.0, h.learning_rate * (1 - momentum), warmup, steps)
    direction = gdjax.shampoo(
        1.0, b1, b2, h.epsilon, gdjax.constant_schedule(h.precondition_frequency), weight_decay=h.weight_decay,
        start_preconditioning_step=h.precondition_frequency, root=h.inv_root_override or None,
        grafting=h.grafting_type.lower(), grafting_b2=b2, grafting_eps=h.grafting_epsilon,
        block_size=h.max_preconditioner_dim, nesterov=h.use_nadam,
        others=gdjax.nadamw(1.0, b1, b2, weight_decay=h.weight_decay),
    )  # fmt: skip
    return gdjax.chain(direction, gdjax.trace(momentum, nesterov=True), gdjax.scale_by_schedule(rate))


METHODS = {"nadamw": nadamw, "recipe": recipe, "shampoo": shampoo}


def init_optimizer_state(workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any) -> Any:
    """The state, and the optimizer, which stays the same object: a step compiles once."""
    h = hyperparameters
    steps = int(workload.step_hint * getattr(h, "step_hint_factor", 1.0))
    tx = METHODS[h.method](h, steps, max(1, int(steps * h.warmup_factor)))
    return tx.init(model_params), tx


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3, 4))
def train_step(
    workload: Any, tx: Any, state: Any, params: Any, model_state: Any, batch: Any, rng: Any, settings: dict[str, Any]
) -> tuple[Any, Any, Any]:
    spec = importlib.import_module("algoperf.spec")  # of the checkout that this file lies in

    def loss_fn(params: Any) -> Any:
        more = {"dropout_rate": settings["dropout_rate"]} if "dropout_rate" in settings else {}
        logits, new_model_state = workload.model_fn(
            params, batch, model_state, spec.ForwardPassMode.TRAIN, rng, update_batch_norm=True, **more
        )
        smoothing = settings.get("label_smoothing", 0.0)
        loss = workload.loss_fn(batch["targets"], logits, batch.get("weights"), label_smoothing=smoothing)
        return loss["summed"] / loss["n_valid_examples"], new_model_state

    grads, model_state = jax.grad(loss_fn, has_aux=True)(params)
    if "grad_clip" in settings:
        grads = gdjax.clip_by_global_norm(settings["grad_clip"]).update(grads, gdjax.EmptyState())[0]
    updates, state = tx.update(grads, state, params)
    return state, gdjax.apply_updates(params, updates), model_state


def update_params(
    *, workload: Any, current_param_container: Any, model_state: Any, hyperparameters: Any, batch: dict[str, Any],
    optimizer_state: Any, rng: Any, **_: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """A step. The runner lays the batch over the devices, and the compiler sums the gradients."""
    names = "dropout_rate", "label_smoothing", "grad_clip"
    settings = {name: getattr(hyperparameters, name) for name in names if hasattr(hyperparameters, name)}
    state, tx = optimizer_state
    state, params, model_state = train_step(
        workload, tx, state, current_param_container, model_state, batch, rng, settings
    )
    return (state, tx), params, model_state


def prepare_for_eval(*, current_param_container: Any, model_state: Any, optimizer_state: Any, **_: Any) -> Any:
    return optimizer_state, current_param_container, model_state


def data_selection(workload: Any, input_queue: Iterator[dict[str, Any]], *_: Any) -> dict[str, Any]:
    return next(input_queue)
