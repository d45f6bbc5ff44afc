"""Burgers' equation by a physics-informed network, as in `examples/pinn.py`: all data in each step, no noise."""

from typing import Any

import pinn as example

from . import Task, all_data

WIDTH, DEPTH, POINTS, SECONDS = 20, 3, 500, 8.0


def single() -> Task:
    return _task("in float32")


def double() -> Task:
    return _task("in float64")


def _task(precision: str) -> Task:
    loss, error = example.losses(POINTS)

    def of(params: Any, batch: None) -> Any:
        return loss(params)

    def start(key: Any) -> Any:
        return example.network(key, WIDTH, DEPTH)

    return Task(
        f"Burgers' equation, {precision}, {SECONDS:.0f} seconds a run", 0, start, all_data, of, error, error,
        "relative error of the solution", seconds=SECONDS, drawn=False,
    )  # fmt: skip
