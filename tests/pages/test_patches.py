"""The patches under `examples/patches/`: whole diffs of the clients' pinned commits, with public names only.

`make patches` applies them to checkouts, and trains there.
"""

import re
from pathlib import Path

import pytest

import gdjax
from tests.clients.rows import CLIENTS

PATCHES = {path.stem: path for path in (Path(__file__).parents[2] / "examples" / "patches").glob("*.patch")}


def test_there_are_patches():
    assert set(PATCHES) == {"flax", "levanter", "maxtext"}


@pytest.mark.parametrize("name", sorted(PATCHES))
def test_patch(name):
    text = PATCHES[name].read_text("utf-8")
    (client,) = (c for c in CLIENTS if c.name == name)
    assert client.url in text and client.commit in text

    heads = list(re.finditer(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n((?:[ +-].*\n)+)", text, re.M))
    assert len(heads) == text.count("\n@@ ")
    for head in heads:
        lines = head[3].splitlines()
        for sign, number in (("-", head[1]), ("+", head[2])):
            assert sum(line[0] in (" ", sign) for line in lines) == int(number or 1), head[0]

    lines = [line for head in heads for line in head[3].splitlines()]
    added = "\n".join(line[1:] for line in lines if line[0] == "+")
    assert 5 < added.count("\n") < 60
    assert sum(line[0] != "+" for line in lines) < 20, "no more of the client's text than a diff needs"
    used = set(re.findall(r"gdjax[._](\w+)", added))
    assert used and used <= set(gdjax.__all__)
