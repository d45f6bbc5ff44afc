"""What a run of pytest found, read from its JUnit file, and how two runs differ."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

RTOL = 1e-3  # between the numbers that a program records with either library


class Result(NamedTuple):
    """outcome: passed, failed or skipped. reason: the first line of the error. numbers: what a program recorded."""

    outcome: str
    reason: str = ""
    numbers: tuple[float, ...] = ()


def read(xml: Path) -> dict[str, Result]:
    """The result of each test, by module, class and name."""
    return {
        f"{case.get('classname', '')}::{case.get('name')}": _result(case) for case in ET.parse(xml).iter("testcase")
    }


def _result(case: ET.Element) -> Result:
    numbers = [p.get("value", "") for p in case.iter("property") if p.get("name") == "numbers"]
    values = tuple(float(x) for x in " ".join(numbers).split())
    for kind in ("failure", "error"):
        for element in case.iter(kind):
            return Result("failed", _error(element), values)
    return Result("skipped" if case.find("skipped") is not None else "passed", "", values)


def _error(element: ET.Element) -> str:
    """The first line of the last exception, and the line after it if the first says nothing but its name."""
    lines = [line[4:].strip() for line in (element.text or "").splitlines() if line.startswith("E   ")]
    lines = [line for line in lines if not line.startswith(("----", "For simplicity, JAX has removed"))]
    raised = [i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Warning|Failure)\b", line)]
    chosen = lines[raised[-1] : raised[-1] + 3] if raised else (element.get("message") or "").splitlines()[:2]
    first = chosen[0] if chosen else ""
    return first if len(first) > 40 else " ".join(x for x in chosen if x)


def differences(optax: dict[str, Result], gdjax: dict[str, Result]) -> dict[str, str]:
    """Every test that passes with Optax and not with gdjax, or with other numbers, and why."""
    found = {}
    for test, one in optax.items():
        other = gdjax.get(test)
        if one.outcome != "passed":
            continue
        if other is None:
            found[test] = "not found with gdjax"
        elif other.outcome != "passed":
            found[test] = other.reason or other.outcome
        elif not _close(one.numbers, other.numbers):
            found[test] = f"numbers differ: {_last(one.numbers)} with Optax, {_last(other.numbers)} with gdjax"
    return found


def _close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=RTOL) for x, y in zip(a, b, strict=True))


def _last(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{x:.6g}" for x in numbers[-3:])
