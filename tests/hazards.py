"""Lists of hazards by number, and which test answers for each."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def missing(module: Mapping[str, Any], letter: str, wanted: Iterable[int], elsewhere: Mapping[int, str]) -> list[str]:
    """The numbers that no test answers for: `test_n5_...` in the module, or "file::name" in `elsewhere`."""
    own = {int(n) for name in module for n in re.findall(rf"_{letter}(\d+)(?=_)", name)}
    gone = [f"{letter}{n}: {where} is gone" for n, where in elsewhere.items() if not _exists(where)]
    return gone + [f"{letter}{n}" for n in wanted if n not in own and n not in elsewhere]


def _exists(where: str) -> bool:
    path, _, name = where.partition("::")
    return f"\ndef {name}(" in (TESTS / path).read_text()
