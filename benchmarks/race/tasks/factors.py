"""A matrix whose singular values span three decades, as the product of two factors: badly scaled, and no noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import Task, all_data

SIZE, RANK, STEPS = 64, 32, 1000


def make() -> Task:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(SIZE, RANK)))[0] for _ in range(2))
    wanted = jnp.asarray(left * np.logspace(0, -3, RANK)[None] @ right.T, jnp.float32) * SIZE

    def start(key: Any) -> Any:
        u, v = (jax.random.normal(k, (SIZE, RANK)) * RANK**-0.5 for k in jax.random.split(key))
        return {"u": {"kernel": u}, "v": {"kernel": v}}

    def loss(params: Any, batch: None = None) -> Any:
        missing = params["u"]["kernel"] @ params["v"]["kernel"].T - wanted
        return jnp.sum(missing**2) / jnp.sum(wanted**2)

    about = "factorisation of a 64 x 64 matrix of condition 1000, all data in each step"
    return Task(
        about,
        STEPS,
        start,
        all_data,
        loss,
        loss,
        loss,
        "relative squared error",
        drawn=False,
    )
