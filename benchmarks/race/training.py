"""Trains some runs of a method on a task at once: points and seeds differ, the program is one."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gdjax

from .methods import Method
from .spaces import Point
from .tasks import Task

LANES = 8  # runs at once; the length of every group, so that a cell compiles once
CHUNK = 50  # steps of a compiled call, and from one point of the curve to the next


class Trainer:
    """A method on a task: `run` trains up to LANES points and seeds for so many steps."""

    def __init__(self, task: Task, method: Method, say: Callable[[str], None]):
        self.task, self.method, self.say = task, method, say
        along = jax.vmap if method.mapped and task.seconds is None else one_by_one
        self._start = jax.jit(along(self._first))
        self._chunk = jax.jit(along(self._some_steps), donate_argnums=(0, 1))
        self._end = jax.jit(one_by_one(self._judged))

    def _transform(self, h: Any) -> Any:
        numbers, steps = h
        return self.method.make(numbers, steps)

    def _first(self, h: Any, seed: Any) -> Any:
        params = self.task.start(jax.random.key(seed))
        return params, self._transform(h).init(params)

    def _some_steps(self, params: Any, state: Any, h: Any, seed: Any, first: Any) -> Any:
        tx = self._transform(h)

        def step(carry: Any, t: Any) -> Any:
            params, state = carry
            batch = self.task.batch(jax.random.fold_in(jax.random.key(seed + 1_000_003), t))
            loss = lambda params: self.task.loss(params, batch)
            if self.method.searches:
                value, grads = gdjax.value_and_grad_from_state(loss)(params, state=state)
                updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
            else:
                extra = (self.task.extra_fns or {}) if self.method.residuals else {}
                updates, state = tx.update(jax.grad(loss)(params), state, params, **extra)
            return (gdjax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), first + jnp.arange(CHUNK))
        return params, state, self.task.glance(gdjax.eval_params(tx, state, params))

    def _judged(self, params: Any, state: Any, h: Any) -> Any:
        params = gdjax.eval_params(self._transform(h), state, params)
        return (self.task.judge(params), self.task.aside(params)) if self.task.aside else (self.task.judge(params),)

    def steps_in(self, seconds: float) -> int:
        """How many steps a run makes in so many seconds, compile time apart; a multiple of CHUNK. It is run to see:
        late steps of a search may take longer than early ones.
        """
        h = ({k: np.float32(v) for k, v in self.method.untuned.items()}, np.float32(1000))
        start, chunk = jax.jit(self._first), jax.jit(self._some_steps)
        seed, steps = np.int32(0), 0
        jax.block_until_ready(chunk(*start(h, seed), h, seed, np.int32(0)))
        params, state = start(h, seed)
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            params, state, seen = chunk(params, state, h, seed, np.int32(steps))
            jax.block_until_ready(seen)
            steps += CHUNK
        return steps

    def run(
        self, points: list[Point], seeds: list[int], steps: int
    ) -> tuple[list[list[float]], list[float], list[float]]:
        """The curve of each run, where it ends, and the second number of a task with one; infinite for NaN."""
        wanted, missing = len(points), LANES - len(points)
        points, seeds = points + points[-1:] * missing, seeds + seeds[-1:] * missing
        numbers = {name: np.array([p[name] for p in points], np.float32) for name in points[0]}
        h, key = (numbers, np.full(LANES, steps, np.float32)), np.array(seeds, np.int32)
        params, state = self._start(h, key)
        curves = []
        for first in range(0, steps, CHUNK):
            now = np.full(LANES, first, np.int32)
            params, state, seen = self._chunk(params, state, h, key, now)
            curves.append(np.asarray(seen))
            self.say(f"{first + CHUNK} of {steps} steps, {' '.join(f'{x:.3g}' for x in curves[-1][:wanted])}")
        ends, *aside = ([tidy(x) for x in np.asarray(found)[:wanted]] for found in self._end(params, state, h))
        return [[tidy(x) for x in c] for c in np.transpose(curves)[:wanted]], ends, aside[0] if aside else []


def one_by_one(f: Any) -> Any:
    """`jax.vmap` as a loop."""
    return lambda *args: jax.lax.map(lambda own: f(*own), args)


def tidy(x: Any) -> float:
    """Five digits; infinite if it is not a number."""
    return float(f"{float(x):.5g}") if math.isfinite(float(x)) else math.inf
