"""Trains a small transformer language model on the bytes of real text.

    python examples/train_lm.py            # Python's own standard library: about a minute on two cores
    python examples/train_lm.py --long     # 2,400 steps of AdamW: some three minutes
    python examples/train_lm.py my_text/   # any text file, or folder of text files
    python examples/train_lm.py --optimizer soap --out out/soap
    python examples/train_lm.py --state-bits 8 --out out/8_bits

`optimizer` and `train_step` are all there is to gradient descent. The rest is what a real run needs: a held-out loss
and something to compare it with, a checkpoint from which the same command resumes bit for bit, a picture, a sample.
"""

import argparse
import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from lm import checkpoint, model, picture, text
from lm.options import IDENTITY, options

import gdjax
from gdjax.training.progress import Progress

HELD_OUT_WINDOWS = 256
EVALUATIONS = 8  # of the held-out loss, evenly spaced over the run
SAMPLE_BYTES, TEMPERATURE, MARK = 600, 0.7, "<|model|>"


class Run(NamedTuple):
    params: Any
    state: Any  # the optimizer's
    history: dict[str, np.ndarray]  # loss, grad_norm, held_out: (steps,) float32, NaN where a step has none


def optimizer(o: argparse.Namespace) -> tuple[Any, Callable[[Any], Any]]:
    """Clip, the method, warm-up and cosine; and the learning rate as a function of the step."""
    rate = gdjax.warmup_cosine_decay_schedule(
        init_value=o.learning_rate / 10,
        peak_value=o.learning_rate,
        warmup_steps=o.steps // 20,
        decay_steps=o.steps,
        end_value=o.learning_rate / 10,
    )
    if o.optimizer == "normuon":  # hidden matrices by role; AdamW for the embedding, the head and the gains
        method = gdjax.normuon(rate, weight_decay=o.weight_decay)
    elif o.optimizer == "soap":
        method = gdjax.soap(rate, weight_decay=o.weight_decay)
    else:
        method = gdjax.adamw(rate, b2=0.95, weight_decay=o.weight_decay, mask=is_matrix)
    if o.state_bits < 32:
        method = gdjax.quantize_state(method, bits=o.state_bits)
    method = gdjax.chain(gdjax.clip_by_global_norm(1.0), method)
    return gdjax.with_master_weights(method, remainder_bits=16) if o.params == "bfloat16" else method, rate


def is_matrix(params: Any) -> Any:
    """Which parameters decay: matrices do, the gains of the norms do not."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def train(o: argparse.Namespace, run: Run, start: int, stop: int, tx: Any, rates: np.ndarray, data: text.Text) -> Run:
    """Takes steps `start` to `stop`, with checkpoints on the way and at the end."""

    def train_step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any, jax.Array, jax.Array]:
        loss, grads = jax.value_and_grad(model.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return gdjax.apply_updates(params, updates), state, loss, gdjax.global_norm(grads)

    def batch(step: int) -> np.ndarray:
        return text.batch(data.train, o.batch, o.length, o.seed, step)

    params, state, history = run
    clock = time.perf_counter()
    step_fn = jax.jit(train_step, donate_argnums=(0, 1)).lower(params, state, batch(start)).compile()
    say("compiled", f"the training step in {time.perf_counter() - clock:.1f} s")

    training_s, shown = 0.0, {}
    with Progress(o.steps) as progress:
        for step in range(start, stop):
            clock = time.perf_counter()
            params, state, loss, norm = step_fn(params, state, batch(step))
            history["loss"][step], history["grad_norm"][step] = loss, norm  # waits for the step to end
            training_s += time.perf_counter() - clock
            if not np.isfinite(history["loss"][step]):
                raise SystemExit(f"step {step + 1}: the loss is {loss}; a lower --learning-rate may help")
            done = step + 1
            if done * EVALUATIONS // o.steps > step * EVALUATIONS // o.steps:
                history["held_out"][step] = held_out_loss(params, data, o.length)
                shown = {"held_out": history["held_out"][step]}
            if done % o.checkpoint_every == 0 or done == stop:
                about = {"step": done, "run": identity(o, data)}
                checkpoint.save(o.out / "checkpoint.npz", Run(params, state, history), about)
            speed = {"tokens/s": round((done - start) * o.batch * o.length / training_s)}
            progress.update(done, loss=loss, **shown, **speed, lr=rates[step], grad_norm=norm)
    tokens = (stop - start) * o.batch * o.length
    say("trained", f"on {tokens:,} bytes in {training_s:.1f} s: {tokens / training_s:,.0f} tokens (bytes) per second")
    return Run(params, state, history)


@jax.jit
def mean_loss(params: Any, windows: jax.Array) -> jax.Array:
    """The loss of (n, length + 1) windows, 32 at a time: quicker on a CPU than all at once."""
    return jnp.mean(jax.lax.map(lambda window: model.loss(params, window[None]), windows, batch_size=32))


def held_out_loss(params: Any, data: text.Text, length: int) -> float:
    return float(mean_loss(params, text.spread(data.held_out, HELD_OUT_WINDOWS, length)))


def identity(o: argparse.Namespace, data: text.Text) -> dict[str, Any]:
    digest = hashlib.sha256(data.train.tobytes() + data.held_out.tobytes()).hexdigest()
    return {name: getattr(o, name) for name in IDENTITY} | {"text": digest}


def resume(o: argparse.Namespace, run: Run, data: text.Text) -> tuple[Run, int]:
    """The run in the folder's checkpoint and its step; without a checkpoint, or with --fresh, `run` and 0."""
    path = o.out / "checkpoint.npz"
    if o.fresh or not path.exists():
        return run, 0
    about, wanted = checkpoint.about(path), identity(o, data)
    if odd := [name for name in wanted if about["run"].get(name) != wanted[name]]:
        raise SystemExit(f"{path} is of a run with another {', '.join(odd)}: start anew with --fresh, or choose --out")
    params, state, history = checkpoint.load(path, run)
    params, state = jax.tree.map(jnp.array, (params, state))
    step = about["step"]
    say("resuming" if step < o.steps else "finished", f"at step {step} of {o.steps}, from {path}; --fresh starts anew")
    return Run(params, state, history), step


def sample(o: argparse.Namespace, params: Any, data: text.Text) -> str:
    """Held-out text, a mark, and what the model writes after it."""
    middle = len(data.held_out) // 2
    context = data.held_out[middle : middle + o.length]
    generate = jax.jit(model.generate, static_argnums=(3, 4))
    drawn = generate(params, jax.random.key(o.seed), context, SAMPLE_BYTES, TEMPERATURE)
    return f"{text.printable(context)}{MARK}{text.printable(np.asarray(drawn))}"


def say(what: str, detail: str) -> None:
    print(f"{what:10} {detail}", flush=True)


def nats(loss: float) -> str:
    return f"{loss:.3f} nats = {loss / np.log(2):.3f} bits per byte"


def main(argv: list[str] | None = None) -> None:
    clock = time.perf_counter()
    o = options(argv)
    try:
        data = text.read(o.text)
        windows = text.spread(data.held_out, HELD_OUT_WINDOWS, o.length)
        params = jax.jit(model.init, static_argnums=(1, 2, 3))(jax.random.key(o.seed), o.width, o.layers, o.heads)
        params = jax.tree.map(lambda p: p.astype(o.params), params)
    except ValueError as e:
        raise SystemExit(str(e)) from None
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    bigram = text.bigram_loss(data.train, windows)
    say("text", f"{data.name}, {data.files} files: {len(data.train):,} bytes, and {len(data.held_out):,} held out")
    say("model", f"{size:,} parameters, {o.layers} layers; {o.steps} steps of {o.batch} x {o.length} bytes")
    say("bigram", f"{nats(bigram)}, held out: what a table of byte pairs reaches")

    tx, rate = optimizer(o)
    rates = np.asarray(rate(jnp.arange(o.steps)))
    history = {name: np.full(o.steps, np.nan, np.float32) for name in ("loss", "grad_norm", "held_out")}
    o.out.mkdir(parents=True, exist_ok=True)
    run, start = resume(o, Run(params, tx.init(params), history), data)
    stop = min(o.steps, o.stop_at or o.steps)
    if start < stop:
        try:
            run = train(o, run, start, stop, tx, rates, data)
        except KeyboardInterrupt:
            raise SystemExit("\ninterrupted: the same command goes on from the last checkpoint") from None

    if stop < o.steps:
        say("stopped", f"at step {stop} of {o.steps}; without --stop-at the same command goes on")
    loss = held_out_loss(run.params, data, o.length)
    written = sample(o, run.params, data)
    (o.out / "sample.txt").write_text(written, encoding="utf-8")
    encoding = sys.stdout.encoding or "utf-8"
    shown = written.encode(encoding, "replace").decode(encoding)  # a console may not know every character
    say("sample", f"held-out text and, after {MARK}, what the model makes of it:\n\n{shown}\n")
    side = "under" if loss < bigram else "ABOVE"
    seconds = time.perf_counter() - clock
    say("reached", f"{nats(loss)}, held out: {abs(bigram - loss):.3f} nats {side} the bigram table, in {seconds:.0f} s")
    if importlib.util.find_spec("matplotlib") is None:
        say("picture", "none: matplotlib is missing; pip install 'gdjax[plot]', then the same command draws it")
    else:
        title = f"{data.name}: a transformer of {size:,} parameters"
        picture.draw(o.out / "loss.png", run.history, rates, bigram, title)
        say("picture", f"{o.out / 'loss.png'}; the checkpoint and the sample are beside it")
    say("next", "make train ARGS=--long for four times the steps; ARGS=my_text/ for a text of yours; docs/choose.md")


if __name__ == "__main__":
    main()
