"""The tests of the tests are tested: on a rule with one mutant that changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.machine_room import BUGS, path_of_test, source_of
from tests.mutants.mutate import mutants
from tests.mutants.run import MODULES, ROOT, equivalent, stages

RULE = '''
"""A rule in plain Python."""


def rule(g, s, t, b1=0.5, b2=0.75, eps=1.0):
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    return debias(mu, b1, t) / (sqrt(nu) + eps) if t > 1 else -abs(b2)


def abs_sq(g):
    return g**2


def debias(x, b, t):
    return x / (1 - b**t)


def sqrt(x):
    return x**0.5
'''
TEST = """
import types

from gdjax.optimizers.rule import rule


def test_rule():
    s = types.SimpleNamespace(mu=8.0, nu=4.0)
    assert rule(4.0, s, 1) == -0.75
    assert rule(4.0, s, 2) == 6 / 0.75 / (7**0.5 + 1)
"""


def test_the_kinds_of_changes():
    texts = {m.text: m.kind for m in mutants("rule", RULE)}
    assert texts["mu = b1 * s.mu - (1 - b1) * g"] == "sign"
    assert texts["mu = b1 * s.mu"] == "term"
    assert texts["nu = b2 * s.nu + (1 - b1) * abs_sq(g)"] == "swap"
    assert texts["nu = b2 * s.nu + (1 - b2) * (g * g)"] == "conj"
    end = "/ (sqrt(nu) + eps) if t > 1 else -abs(b2)"
    assert texts[f"return debias(mu, b1, t + 1) {end}"] == "step"
    assert texts[f"return debias(s.mu, b1, t) {end}"] == "old"
    assert texts["return debias(mu, b1, t) / sqrt(nu + eps) if t > 1 else -abs(b2)"] == "eps"
    assert texts["return debias(mu, b1, t) / (sqrt(nu) + eps) if t > 1 else abs(b2)"] == "sign"


@pytest.mark.programs
def test_the_runner_kills_what_changes_and_keeps_what_does_not(tmp_path: Path):
    for name, text in {"gdjax/optimizers/rule": RULE, "tests/optimizers/test_rule": TEST}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
    (tmp_path / "gdjax" / "__init__.py").write_text("import gdjax.optimizers.rule\n", "utf-8")
    shutil.copytree(Path(__file__).parent, tmp_path / "tests" / "mutants")
    env = {name: x for name, x in os.environ.items() if name != "GDJAX_MUTANTS"}
    command = [sys.executable, "-m", "tests.mutants.run", "optimizers/rule", "--kinds", "sign,conj"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 1, run.stdout + run.stderr  # there are survivors
    log = map(json.loads, (tmp_path / "out" / "mutants.jsonl").read_text("utf-8").splitlines())
    how = {entry["name"].partition(": ")[2]: entry["how"] for entry in log}
    survivors = {text for text in how if how[text] == "survived"}
    assert survivors == {
        "nu = b2 * s.nu + (1 - b2) * (g * g)",
        "return debias(mu, b1, t) / (sqrt(nu) + eps) if t > 1 else -b2",
    }
    assert how["mu = b1 * s.mu - (1 - b1) * g"] == "killed by tests/optimizers/test_rule.py::test_rule"


def test_every_module_has_tests_to_run():
    assert [module for module in MODULES if not stages(module)[0]] == []


def test_every_bug_of_the_machine_room_is_one_of_the_code():
    assert len({bug.module for bug in BUGS}) == len(BUGS) >= 30
    assert [bug.module for bug in BUGS if source_of(bug).read_text("utf-8").count(bug.right) != 1] == []
    assert [bug.module for bug in BUGS if not (ROOT / path_of_test(bug)).is_file()] == []


def test_equivalent_mutants_exist():
    names = equivalent()
    assert names and all(names.values())
    sources = {module: (ROOT / "gdjax" / f"{module}.py").read_text("utf-8") for module in {n.split()[0] for n in names}}
    assert set(names) - {m.name for module, source in sources.items() for m in mutants(module, source)} == set()
