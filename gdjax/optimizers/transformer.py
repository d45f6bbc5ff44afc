"""A whole optimizer for a transformer, in one call."""

from typing import Annotated, Any

from gdjax.combine.chain import chain
from gdjax.combine.groups import routed
from gdjax.core import checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import RATE, AtLeast
from gdjax.core.types import Decay, Floating, Params, Roles, Scalar, Size
from gdjax.leaf_roles.plan import routing
from gdjax.optimizers.adam import adam
from gdjax.optimizers.normuon import scale_by_normuon
from gdjax.schedules.warmup import warmup_linear_decay_schedule
from gdjax.transfer_laws.transfer import transfer
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.hyperball import hyperball
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["transformer_optimizer"]

LABEL = "gdjax.transformer_optimizer"


@transform
def transformer_optimizer(
    learning_rate: Annotated[Scalar, RATE], steps: Annotated[int, AtLeast(1)],
    *, adam_learning_rate: Annotated[Scalar, RATE] | None = None,
    warmup_steps: Annotated[int, AtLeast(1)] | None = None, weight_decay: Size = 0.1,
    hyperball_learning_rate: Annotated[Scalar, RATE] | None = None, adam_b1: Decay = 0.9, adam_b2: Decay = 0.95,
    adam_eps: Size = 1e-8, ns_dtype: Floating | None = None, roles: Roles = None, consistent_rms: Size | None = 0.2,
    base: Params = None,
) -> GradientTransformation:  # fmt: skip
    """NorMuon for hidden matrices, Adam for the rest, cautious weight decay, a warm-up and a line to 0: one call.

    It is this chain, and nothing that could not be written so:

        rate = warmup_linear_decay_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps, steps)
        hidden = chain(scale_by_normuon(), add_decayed_weights(0.1, cautious=True), scale_by_learning_rate(rate))
        rest = adam(adam_rate, adam_b1, adam_b2)  # adam_rate is alike, with a peak of its own

    NorMuon's polar factors are Polar Express, and its updates have a root mean square of 0.2 rates, about that of
    AdamW's: rates that are right for AdamW are a good start for both. `explain(tx, params)` shows which leaf gets what.

    Such rates are too large for a wider model, as AdamW's are. With `base` they are those of a small model, on which
    they were tuned, and `transfer` scales them for the one that is trained.

    Args:
      learning_rate: the peak of the rate of the matrices, a number.
      steps: of the whole run, at least 2; from update `steps` + 1 on the rate is 0.
      adam_learning_rate: the peak of Adam's rate; `learning_rate` by default.
      warmup_steps: a twentieth of the steps by default.
      weight_decay: of the matrices, times their rate, where the step itself moves a number towards 0; no other leaf
        decays.
      hyperball_learning_rate: the peak of the rate of `hyperball`, in the place of the decay and of the matrices' own
        rate: hidden matrices and the head keep their norms. It is the share of its norm that a matrix moves by.
      adam_b1, adam_b2, adam_eps: Adam's.
      ns_dtype: the dtype that factors of the products of polar factors are rounded to: "bfloat16" on accelerators; None
        rounds nothing.
      roles: which leaves are hidden matrices: None, by their paths and shapes; a dict from patterns of paths to roles,
        which overrides that; a tree, or a function from the parameters to one. With `base`, None or such a dict.
      consistent_rms: see above; None for updates of the size of Muon's, whose largest singular value is the rate times
        sqrt(max(1, outputs / inputs)): such a rate of the matrices carries over to another width, Adam's does not.
      base: the parameters of the model that the rates were tuned on, or their shapes.

    Raises:
      ValueError: steps below 2, warmup_steps below 1, or a warm-up that is not shorter than the run.
      ValueError: as `transfer`, with `base`.
      TypeError: steps or warmup_steps are no ints; a rate is a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"embed": jnp.ones((9, 4)), "mlp": {"kernel": jnp.eye(4)}}
      >>> tx = gdjax.transformer_optimizer(3e-3, steps=1000, adam_learning_rate=1e-3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print((1e5 * updates["embed"][0]).round())  # a 50th of the rate: it warms up
      [-2. -2. -2. -2.]

    Reference:
      Li et al. 2025, NorMuon, https://arxiv.org/abs/2510.05491;
      Amsel et al. 2025, The Polar Express, https://arxiv.org/abs/2505.16932;
      Chen et al. 2025, Cautious weight decay, https://arxiv.org/abs/2510.12402;
      Bergsma et al. 2025, Straight to zero, https://arxiv.org/abs/2502.15938;
      Wen et al. 2026, Hyperball, https://arxiv.org/abs/2606.16899
    """
    steps = checks.structural(LABEL, "steps", steps, 2)
    warmup = max(1, steps // 20) if warmup_steps is None else checks.structural(LABEL, "warmup_steps", warmup_steps, 1)
    if warmup >= steps:
        raise ValueError(f"{LABEL}: warmup_steps is {warmup}, and the run has {steps} steps")
    numbers = routing(roles)

    def rate(peak: Scalar) -> Any:
        if callable(peak):
            raise TypeError(f"{LABEL}: a rate is a number, the peak of a schedule that is made here, got {peak!r}")
        return warmup_linear_decay_schedule(peak / warmup, peak, warmup, steps)

    matrices = [scale_by_normuon(consistent_rms=consistent_rms, ns_dtype=ns_dtype, roles=numbers)]
    if hyperball_learning_rate is None:
        matrices.append(add_decayed_weights(weight_decay, cautious=True))
    adam_rate = rate(learning_rate if adam_learning_rate is None else adam_learning_rate)
    groups = {
        "matrix": chain(*matrices, scale_by_learning_rate(rate(learning_rate))),
        "other": adam(adam_rate, adam_b1, adam_b2, adam_eps),
    }
    tx = routed(LABEL, groups, numbers)
    tx = tx if hyperball_learning_rate is None else hyperball(tx, rate(hyperball_learning_rate), roles)
    return tx if base is None else transfer(tx, base, roles=roles)
