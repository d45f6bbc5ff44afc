"""Why a test passes with Optax and not with gdjax: (client, a part of the test's name) -> the reason.

A difference without a reason here is shown on the page with its error.
"""

REASONS: dict[tuple[str, str], str] = {}


def reason_of(client: str, test: str) -> str | None:
    return next((why for (name, part), why in REASONS.items() if name == client and part in test), None)
