"""Why a test passes with one library only: (client, a part of the test's name) -> the reason.

A difference without a reason here is shown on the page with its error.
"""

REASONS: dict[tuple[str, str], str] = {
    ("equinox", "test_train_rnn[model]"): (
        "the notebook's model has an `int` among its leaves, whose gradient is None: Optax 0.2.8 fails in `cast_like`"
    ),
    ("optax", "test_labels_mismatch"): "the same error, when `partition` is built and not first in `init`",
    ("optax", "test_lion_invalid_mode"): "the same error, when the optimizer is built and not first in `update`",
    ("optax", "test_scale_by_polyak_l1_norm"): "`update` without `value` is a ValueError here, a TypeError there",
    ("optax", "test_value_and_grad_from_state"): "two line searches in a state are a ValueError here, a KeyError there",
    ("optax", "raises_on_unused_extra_args"): (
        "every update here takes extra arguments it has no use for; Optax's line searches refuse them"
    ),
    ("optax", "test_mu_dtype_controls_moment_dtype"): (
        "second moments of bfloat16 parameters are float32 here; in bfloat16 they stop decaying"
    ),
    (
        "optax",
        "test_explicit_dtype",
    ): "a real `mu_dtype` loses the imaginary part of Optax's momentum; it stays complex here",
    ("optax", "test_hyperparam_d"): "hyperparameters in the state are float32 at least; b2 = 0.999 is 1 in bfloat16",
    ("optax", "test_inject_hyperparams_starts_with_step_count_zero"): "a gradient of integers is refused here",
    ("optax", "test_extra_args"): "a gradient of integers is refused here",
    ("optax", "LBFGSTest::test_against_plain_implementation"): (
        "pairs of negative curvature have no part in H here; Optax keeps them, and H is indefinite"
    ),
    ("optax", "bad_structure"): "the same error in other words",
    ("optax", "test_mask_compatible_callable_pytree"): "a part of it calls a helper of Optax's private modules",
    ("optax", "test_tree_random_like"): "16-bit samples are drawn in float32 and rounded here",
    ("optax", "test_tree_vdot"): "equal up to one rounding of float32; the test asks for none",
    ("optax", "if_type_annotated_as_such1"): (
        "`schedule_free_sgd` and `schedule_free_adamw` refuse a schedule beside `warmup_steps`: two warmups"
    ),
    ("optax", "test_probability_validation"): "the same error in other words",
    ("optax", "test_raises_on_invalid_microbatches"): "the same error in other words",
}


def reason_of(client: str, test: str) -> str | None:
    return next((why for (name, part), why in REASONS.items() if name == client and part in test), None)
