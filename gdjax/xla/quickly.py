"""Quick compilation of programs that run once, and may be slow."""

from typing import Any

# The compiler would take minutes to compute the zeros of some states.
_QUICK = {
    "xla_disable_hlo_passes": "constant_folding",
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
_SLOW = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # in half the time
_SMALL = 2**17  # up to so many numbers a slow program is fast enough


def compiled(lowered: Any, size: int) -> Any:
    """A lowered program, compiled for one run on `size` numbers."""
    try:
        return lowered.compile(compiler_options=_QUICK | _SLOW if size < _SMALL else _QUICK)
    except Exception:  # a compiler without these options
        return lowered.compile()
