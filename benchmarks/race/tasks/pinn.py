"""Burgers' equation by a physics-informed network, as in `examples/pinn.py`: all data in each step, no noise.

There are more points than weights: else the equation holds at the points, and the error is what lies between them.
"""

from typing import Any

import pinn as example

from . import Task, all_data

WIDTH, DEPTH, POINTS, SECONDS = 20, 3, 1000, 10.0


def single() -> Task:
    return _task("in float32")


def double() -> Task:
    return _task("in float64")


def _task(precision: str) -> Task:
    loss, error = example.losses(POINTS)
    residual_fn, jacobian_fn = example.residuals(POINTS)

    def of(params: Any, batch: None) -> Any:
        return loss(params)

    def start(key: Any) -> Any:
        return example.network(key, WIDTH, DEPTH)

    return Task(
        f"Burgers' equation, {precision}, {SECONDS:.0f} seconds a run", 0, start, all_data, of, error, error,
        "relative error of the solution", seconds=SECONDS, drawn=False,
        extra_fns={"residual_fn": residual_fn, "jacobian_fn": jacobian_fn},
    )  # fmt: skip
