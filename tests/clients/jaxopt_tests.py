"""Runs JAXopt's own tests with gdjax in the place of its solvers and functions, by `support/jaxopt_adapter.py`.

    make clients                                  once, for the environment
    .venv-clients/bin/python tests/clients/jaxopt_tests.py
    ... jaxopt_tests.py --sources DIR             with the checkout DIR/jaxopt
    ... jaxopt_tests.py prox loss                 some files, printed only

A test counts as ported if it called an adapter, and asks for nothing that only JAXopt's inside has (`REASONS`). The
result is a table in `docs/from_jaxopt.md`.
"""

import argparse
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path

from results import Result, read
from rows import CLIENTS
from run import OUT, ROOT
from sources import checkout

FILES = (
    "prox projection loss tree_util perturbations proximal_gradient projected_gradient gradient_descent block_cd bfgs "
    "lbfgs lbfgsb nonlinear_cg gauss_newton levenberg_marquardt mirror_descent anderson anderson_wrapper polyak_sgd "
    "optax_wrapper"
).split()
# What gdjax has not, so that JAXopt's own would run.
LEFT_OUT = "sparse_simplex inv_hessian_product residuals_minimizer"
PAGE = ROOT / "docs" / "from_jaxopt.md"
BEGIN, END = "<!-- tests -->\n", "<!-- end -->"
LIMIT = 900  # seconds for a file
# Why a test fails, by a part of its name.
REASONS = {
    "test_sin_fixed_point": "calls NumPy in the map, so that it cannot be traced",
    "BlockCoordinateDescentTest::test_raise_exception": "wants an error for a plain function, which is welcome here",
    "test_n_calls": "counts calls of the loss without `jit`; `solve` traces it a few times, however many steps",
    "test_noise_iid": "other samples: their noise was 1.04e-2, where the test asks for 1e-2",
    "BfgsTest::test_correctness": "the first H is 1 / \\|g\\| here, where JAXopt's is the identity",
    "LbfgsTest::test_correctness": "the first H is 1 / \\|g\\| here, where JAXopt's is the identity",
    "test_zero_history": "a history of no steps is refused, as by Optax",
    "test_rosenbrock_x32": "wants JAXopt's own point after 14 steps, 5e-5 from the minimum; this one is 1e-5 from it",
}


def tested(name: str, source: Path) -> tuple[dict[str, Result], set[str]]:
    """The results of a file's tests, and which of them called an adapter."""
    xml = OUT / "results" / f"jaxopt_tests.{name}.xml"
    xml.unlink(missing_ok=True)
    support = Path(__file__).parent / "support"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{support}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    chosen = " and ".join(f"not {part}" for part in LEFT_OUT.split())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "jaxopt_adapter", "-c", os.devnull]
    command += ["-k", chosen, f"--rootdir={source}", f"--junitxml={xml}", f"tests/{name}_test.py"]
    with xml.with_suffix(".log").open("w") as log:
        subprocess.run(command, cwd=source, env=env, stdout=log, stderr=log, timeout=LIMIT)
    return read(xml), reached(xml)


def reached(xml: Path) -> set[str]:
    """The tests that called an adapter."""
    return {
        f"{case.get('classname')}::{case.get('name')}"
        for case in ET.parse(xml).iter("testcase")
        for p in case.iter("property")
        if p.get("name") == "gdjax_calls" and int(p.get("value", "0"))
    }


def report(found: dict[str, tuple[dict[str, Result], set[str]]]) -> str:
    rows, failed, total, passed = [], [], 0, 0
    for name, (results, ours) in found.items():
        ran = {test: r for test, r in results.items() if test in ours and r.outcome != "skipped"}
        good = sum(r.outcome == "passed" for r in ran.values())
        rows.append(f"| `{name}_test.py` | {len(ran)} | {good} |")
        failed += [(test.rpartition(".")[2], r) for test, r in ran.items() if r.outcome != "passed"]
        total, passed = total + len(ran), passed + good
    share = passed / max(total, 1)
    head = f"On {date.today()}: of the {total} tests that call what is replaced, {passed} pass, {share:.1%}.\n"
    table = ["| file | tests | pass |", "| --- | ---: | ---: |", *rows]
    why = [
        "| test that fails | reason |",
        "| --- | --- |",
        *(f"| `{test}` | {reason(test, r)} |" for test, r in failed),
    ]
    return "\n".join([head, *table, "", *why]) + "\n"


def reason(test: str, result: Result) -> str:
    told = re.sub(r"[|`]", "'", result.reason)[:200]
    return next((why for part, why in REASONS.items() if part in test), f"`{told}`")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help=", ".join(FILES))
    parser.add_argument("--sources", type=Path, default=OUT / "sources", help="a folder with a checkout `jaxopt`")
    args = parser.parse_args()
    (OUT / "results").mkdir(parents=True, exist_ok=True)
    args.sources.mkdir(parents=True, exist_ok=True)
    source = checkout(next(c for c in CLIENTS if c.name == "jaxopt"), args.sources.resolve())
    found = {}
    for name in args.files or FILES:
        found[name] = tested(name, source)
        print(f"{name:20} {sum(r.outcome == 'passed' for r in found[name][0].values())} passed", flush=True)
    text = report(found)
    print(text)
    if not args.files:
        before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
