"""Optimistic gradient descent and optimistic Adam."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import ScalarOrSchedule
from gdjax.lift.leafwise import Hyper, Reduced, leafwise
from gdjax.lift.slots import Shared
from gdjax.numerics import Array
from gdjax.optimizers.adam import scale_by_adam
from gdjax.transforms.scaling import scale_by_learning_rate


class ScaleByOptimisticGradientState(NamedTuple):
    """State of `scale_by_optimistic_gradient`."""

    is_initial_step: Array  # () bool, whether no update has been made
    previous_gradient: Any  # like params


def _first(s: Any, t: Any) -> dict[str, Any]:
    return {"is_initial_step": False, "first": s.is_initial_step}


@leafwise(ScaleByOptimisticGradientState, numbers=_first, is_initial_step=Shared(True, jnp.bool_))
def scale_by_optimistic_gradient(
    g: Array, s: Any, p: Any, t: Any, alpha: Hyper = 1.0, beta: Hyper = 1.0, *, first: Reduced = None
) -> Any:
    """Adds the change of the gradient: u_t = alpha g_t + beta (g_t - g_{t-1}), with g_0 = g_1.

    Args:
      alpha: weight of the gradient.
      beta: weight of its change, as much as is expected of the next one. 0 is plain descent.

    Reference:
      Mokhtari, Ozdaglar & Pattathil 2020, A unified analysis of extra-gradient and optimistic gradient methods for
      saddle point problems, equation 8, https://arxiv.org/abs/1901.08511
    """
    before = jnp.where(first != 0, g, s.previous_gradient)
    return (alpha + beta) * g - beta * before, s._replace(previous_gradient=g)


@transform
def optimistic_gradient_descent(
    learning_rate: ScalarOrSchedule, alpha: ScalarOrSchedule = 1.0, beta: ScalarOrSchedule = 1.0
) -> GradientTransformation:
    """Optimistic gradient descent: x_{t+1} = x_t - lr (alpha g_t + beta (g_t - g_{t-1})), with g_0 = g_1.

    For games and saddle points, around which plain descent circles.

    Args:
      learning_rate: lr, a scalar or a schedule.
      alpha: weight of the gradient, a scalar or a schedule.
      beta: weight of its change, a scalar or a schedule.

    Reference:
      Mokhtari, Ozdaglar & Pattathil 2020, equation 8, https://arxiv.org/abs/1901.08511
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@transform
def optimistic_adam(
    learning_rate: ScalarOrSchedule,
    optimism: ScalarOrSchedule | None = None,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam with the rate inside: x_{t+1} = x_t - (learning_rate u_t + optimism (u_t - u_{t-1})).

    u_t is Adam's direction. Optax deprecates this form, and takes no schedules in it; `optimistic_adam_v2` has the rate
    outside.

    Args:
      learning_rate: weight of the direction, a scalar or a schedule.
      optimism: weight of its change, by default learning_rate, as in the reference.
      b1, b2, eps, eps_root, mu_dtype, nesterov: see `adam`. The reference has no Nesterov momentum: `nesterov=False`.

    Reference:
      Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with optimism, Algorithm 1,
      https://arxiv.org/abs/1711.00141
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, learning_rate if optimism is None else optimism),
        scale_by_learning_rate(1.0),
    )


@transform
def optimistic_adam_v2(
    learning_rate: ScalarOrSchedule,
    *,
    alpha: ScalarOrSchedule = 1.0,
    beta: ScalarOrSchedule = 1.0,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    eps_root: ScalarOrSchedule = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformation:
    """Optimistic Adam: x_{t+1} = x_t - lr (alpha u_t + beta (u_t - u_{t-1})), where u_t is Adam's direction.

    Args:
      learning_rate: lr, a scalar or a schedule.
      alpha: weight of the direction.
      beta: weight of its change.
      b1, b2, eps, eps_root, mu_dtype, nesterov: see `adam`. The reference has no Nesterov momentum: `nesterov=False`.

    Reference:
      Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with optimism, Algorithm 1,
      https://arxiv.org/abs/1711.00141
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
