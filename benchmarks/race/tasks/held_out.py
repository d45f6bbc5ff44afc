"""Two tasks that nothing is tuned on: each method runs on them once, at the point that does best over the others."""

from typing import Any

import jax
import jax.numpy as jnp
from _data import digits

from . import Task

# --- A convolutional network ------------------------------------------------------------------------------------------

CHANNELS, BATCH, STEPS = (1, 16, 32), 64, 500


def patches(images: Any) -> Any:
    """(n, h, w, c) to (n, h / 2, w / 2, 9 c): a convolution of 3 x 3 and stride 2 is a product with them."""
    found = jax.lax.conv_general_dilated_patches(
        images, (3, 3), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return found


def convolution() -> Task:
    """Digits in their frame, moved by a pixel at most: two convolutions and a head."""
    train, test = digits()
    x, y = jnp.asarray(train.x).reshape(-1, 8, 8, 1), jnp.asarray(train.y)
    held_out = (jnp.asarray(test.x).reshape(-1, 8, 8, 1), jnp.asarray(test.y))

    def start(key: Any) -> Any:
        a, b, c = jax.random.split(key, 3)
        flat = 4 * CHANNELS[2]
        return {
            "conv0": {
                "kernel": jax.random.normal(a, (9 * CHANNELS[0], CHANNELS[1])) / 3,
                "bias": jnp.zeros(CHANNELS[1]),
            },
            "conv1": {
                "kernel": jax.random.normal(b, (9 * CHANNELS[1], CHANNELS[2])) * (9 * CHANNELS[1] / 2) ** -0.5,
                "bias": jnp.zeros(CHANNELS[2]),
            },
            "head": {"kernel": jax.random.normal(c, (flat, 10)) * flat**-0.5, "bias": jnp.zeros(10)},
        }

    def loss(params: Any, batch: Any) -> Any:
        h, labels = batch
        for name in ("conv0", "conv1"):
            h = jax.nn.relu(patches(h) @ params[name]["kernel"] + params[name]["bias"])
        log_p = jax.nn.log_softmax(h.reshape(len(h), -1) @ params["head"]["kernel"] + params["head"]["bias"])
        return -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()

    def batch(key: Any, times: int = 1) -> Any:
        one, two = jax.random.split(key)
        chosen = jax.random.randint(one, (times * BATCH,), 0, len(y))
        by = jax.random.randint(two, (times * BATCH, 2), -1, 2)
        return jax.vmap(lambda image, by: jnp.roll(image, by, (0, 1)))(x[chosen], by), y[chosen]

    def judge(params: Any) -> Any:
        return loss(params, held_out)

    about = "digits moved by a pixel at most: two convolutions of 3 x 3, a head"
    return Task(about, STEPS, start, batch, loss, judge, judge, "nats an image, held out")


# --- A recurrent network ----------------------------------------------------------------------------------------------

LENGTH, WIDTH, SEQUENCES, LONG = 20, 32, 64, 1000


def recurrent() -> Task:
    """The adding problem: a gated unit reads numbers in [0, 1], two of them marked, and is to say the sum of these."""

    def start(key: Any) -> Any:
        a, b, c = jax.random.split(key, 3)
        return {
            "input": {"kernel": jax.random.normal(a, (2, 3 * WIDTH)) * 0.5, "bias": jnp.zeros(3 * WIDTH)},
            "hidden": {"kernel": jax.random.normal(b, (WIDTH, 3 * WIDTH)) * WIDTH**-0.5},
            "head": {"kernel": jax.random.normal(c, (WIDTH, 1)) * WIDTH**-0.5, "bias": jnp.zeros(1)},
        }

    def batch(key: Any, times: int = 1) -> Any:
        numbers, first, second = jax.random.split(key, 3)
        n, half = times * SEQUENCES, LENGTH // 2
        marks = jax.nn.one_hot(jax.random.randint(first, (n,), 0, half), LENGTH)
        marks += jax.nn.one_hot(half + jax.random.randint(second, (n,), 0, half), LENGTH)
        return jnp.stack([jax.random.uniform(numbers, (n, LENGTH)), marks], -1)

    def loss(params: Any, x: Any) -> Any:
        """The mean square of what is missing, over the sum's variance."""

        def read(h: Any, x: Any) -> Any:
            own = x @ params["input"]["kernel"] + params["input"]["bias"]
            z_in, r_in, n_in = jnp.split(own, 3, axis=-1)
            z_h, r_h, n_h = jnp.split(h @ params["hidden"]["kernel"], 3, axis=-1)
            z = jax.nn.sigmoid(z_in + z_h)
            return z * h + (1 - z) * jnp.tanh(n_in + jax.nn.sigmoid(r_in + r_h) * n_h), None

        h, _ = jax.lax.scan(read, jnp.zeros((len(x), WIDTH)), jnp.swapaxes(x, 0, 1))
        said = (h @ params["head"]["kernel"] + params["head"]["bias"])[:, 0]
        return 6 * jnp.mean((said - (x[..., 0] * x[..., 1]).sum(-1)) ** 2)

    held_out = batch(jax.random.key(7), 16)

    def judge(params: Any) -> Any:
        return loss(params, held_out)

    about = f"the adding problem over {LENGTH} numbers, a gated recurrent unit of width {WIDTH}"
    return Task(about, LONG, start, batch, loss, judge, judge, "unexplained share of the variance, held out")
