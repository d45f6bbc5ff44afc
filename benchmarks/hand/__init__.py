"""A step written by hand for each recipe: what somebody would write who has only that one to make fast."""

from hand import leaf, whole

STEPS = {name: lambda hand=hand: leaf.step_of(hand) for name, hand in leaf.HAND.items()} | {
    "adafactor": whole.adafactor,
    "accumulate 4, emitting": whole.accumulation,
    "accumulate 4, other": whole.accumulation,
    "finite guard + adamw": lambda: whole.finite_guard(outputs=True),
    "gradient guard + adamw": whole.finite_guard,
    "injected adamw": whole.injected_adamw,
    "schedule_free_adamw": whole.schedule_free_adamw,
    "muon": whole.muon,
    "muon, bfloat16 products": whole.muon_bfloat16,
}
