"""The optimizers of public models, under the names of the methods that they are made of."""

from gdjax import recipes
from tests.declare import Case, supplied


def _kimi_k2(learning_rate: float, weight_decay: float) -> object:
    """With no logits: the trees of the contract tests have no attention."""
    return supplied(recipes.kimi_k2(learning_rate, weight_decay=weight_decay), max_logits={})


_RATES, _STILL = {"learning_rate": 0.1, "weight_decay": 1e-2}, {"weight_decay": 0.0}
_OF_MATRICES, _OF_ADAM = {"matrix_learning_rate": 0.1}, {"adam_learning_rate": 0.01}
_OF_EACH = _OF_MATRICES | {"embedding_learning_rate": 0.1, "head_learning_rate": 0.01, "scalar_learning_rate": 0.1}

CASES = (
    Case("muon/kimi_k2", _kimi_k2, _RATES, quiet=_STILL, needs_params=True, slow=True),
    Case("muon/deepseek_v4", recipes.deepseek_v4, _RATES, quiet=_STILL, needs_params=True, slow=True),
    Case("muon/glm_5", recipes.glm_5, _RATES, quiet=_STILL, needs_params=True, slow=True),
    Case("hyperball/marin", recipes.marin, {"learning_rate": 0.1, "adam_learning_rate": 0.01, "b1": 0.9, "b2": 0.95},
         needs_params=True, slow=True),
    Case("transformer_optimizer/nanochat", recipes.nanochat, _OF_EACH, {"steps": 200, "width": 768},
         quiet=dict.fromkeys(_OF_EACH, 0.0), needs_params=True, scheduled=False, slow=True),
    Case("transformer_optimizer/modded_nanogpt", recipes.modded_nanogpt, _OF_MATRICES | _OF_ADAM, {"steps": 200},
         quiet=dict.fromkeys(_OF_MATRICES | _OF_ADAM, 0.0), needs_params=True, scheduled=False, slow=True),
)  # fmt: skip
TWINS = ()
