"""Why a test passes with one library only: (client, a part of the test's name) -> the reason.

A difference without a reason here is shown on the page with its error.
"""

REASONS: dict[tuple[str, str], str] = {
    ("equinox", "test_train_rnn[model]"): (
        "the notebook's model has an `int` among its leaves, whose gradient is None: Optax 0.2.8 fails in `cast_like`"
    ),
}


def reason_of(client: str, test: str) -> str | None:
    return next((why for (name, part), why in REASONS.items() if name == client and part in test), None)
