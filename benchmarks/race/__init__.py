"""The race: which optimizer trains best, each tuned alike; docs/race.md has the protocol."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples")]
