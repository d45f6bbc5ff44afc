"""`solve_constrained` beside SciPy's SLSQP and trust-constr on problems of Hock & Schittkowski 1981, from their starts.

    python benchmarks/hock_schittkowski.py [--quick] [--problems 71 117] [--again]

All in float64, `solve_constrained` with its defaults. SciPy gets exact gradients, Jacobians and, for trust-constr,
Hessians, and tolerances of 1e-10 or less. trust-constr has a gtol of 0: it ends by any other one whatever its barrier
is, and by default stops far from the minimum where an inequality holds.
A problem is solved where the value is within 1e-6 max(1, |f*|) of the known minimum f*, or below it, and no constraint
or bound is broken by more than 1e-6. Writes hock_schittkowski.json and .md, and goes on where it was broken off unless
--again is given.
"""

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from harness import Results, markdown_table, say
from hs_problems import PROBLEMS, Problem

import gdjax

TOLERANCE, STEPS = 1e-6, 10000
TIGHT = {"gtol": 0, "xtol": 1e-14, "barrier_tol": 1e-10}
QUICK = 6, 71


def ours(p: Problem) -> tuple[Any, int, str]:
    def found(x: Any) -> Any:
        return gdjax.solve_constrained(
            p.f, x, equality=p.equality, inequality=p.inequality, bounds=p.bounds, steps=STEPS
        )

    solution = jax.jit(found)(jnp.asarray(p.start))
    return solution.params, int(solution.steps), solution.message


def slsqp(p: Problem) -> tuple[Any, int, str]:
    kinds = {"eq": p.equality, "ineq": p.inequality}
    constraints = [
        {"type": kind, "fun": jax.jit(c), "jac": jax.jit(jax.jacrev(c))} for kind, c in kinds.items() if c is not None
    ]
    return scipys(p, "SLSQP", constraints, {"maxiter": STEPS, "ftol": 1e-12}, None)


def trust_constr(p: Problem) -> tuple[Any, int, str]:
    def constraint(c: Any, most: float) -> Any:
        hessian = jax.jit(lambda x, v: jax.hessian(lambda x: c(x) @ v)(x))
        return scipy.optimize.NonlinearConstraint(jax.jit(c), 0, most, jax.jit(jax.jacrev(c)), hessian)

    kinds = ((p.equality, 0), (p.inequality, math.inf))
    constraints = [constraint(c, most) for c, most in kinds if c is not None]
    return scipys(p, "trust-constr", constraints, {"maxiter": 1000, **TIGHT}, jax.jit(jax.hessian(p.f)))


def scipys(p: Problem, method: str, constraints: Any, options: Any, hess: Any) -> tuple[Any, int, str]:
    bounds = None if p.bounds is None else scipy.optimize.Bounds(*p.bounds)
    f = lambda x: tuple(np.asarray(y) for y in value_and_grad(x))
    value_and_grad = jax.jit(jax.value_and_grad(p.f))
    result = scipy.optimize.minimize(
        f, p.start, method=method, jac=True, hess=hess, bounds=bounds, constraints=constraints, options=options
    )
    return result.x, int(result.nit), str(result.message)


METHODS = {"solve_constrained": ours, "SLSQP": slsqp, "trust-constr": trust_constr}


def judged(p: Problem, x: Any) -> dict[str, Any]:
    """How far a point is above the minimum, relative to it, and outside the constraints."""
    x = jnp.asarray(x, float)
    broken = [0.0]
    broken += [] if p.equality is None else [float(jnp.abs(p.equality(x)).max())]
    broken += [] if p.inequality is None else [float(-p.inequality(x).min())]
    broken += [] if p.bounds is None else [float((p.bounds[0] - x).max()), float((x - p.bounds[1]).max())]
    gap, infeasibility = (float(p.f(x)) - p.best) / max(1, abs(p.best)), float(np.max(broken))
    return {"gap": gap, "infeasibility": infeasibility, "solved": gap <= TOLERANCE and infeasibility <= TOLERANCE}


def row_of(number: int) -> dict[str, Any]:
    p, runs = PROBLEMS[number], {}
    for name, method in METHODS.items():
        start = time.perf_counter()
        try:
            x, steps, message = method(p)
            runs[name] = {**judged(p, x), "steps": steps, "message": message}
        except ValueError as e:  # SciPy's, of a NaN
            none = {"gap": math.nan, "infeasibility": math.nan, "solved": False, "steps": 0}
            runs[name] = {**none, "message": str(e)}
        runs[name]["seconds"] = time.perf_counter() - start
    return {"problem": number, "n": int(p.start.size), "best": p.best, "runs": runs}


def report(results: Results) -> None:
    rows = sorted(results.rows, key=lambda r: r["problem"])
    lines = [
        f"SciPy {scipy.__version__}. Solved: value within 1e-6 max(1, |f*|) of the minimum f* or below it, no",
        "constraint or bound broken by more than 1e-6. A gap is (f - f*) / max(1, |f*|). Steps are updates of the",
        "parameters; an iteration of SLSQP solves a quadratic program.",
        "",
    ]
    counts = []
    for name in METHODS:
        runs = [r["runs"][name] for r in rows]
        good = [run["steps"] for run in runs if run["solved"]]
        counts.append([name, f"{len(good)} of {len(rows)}", f"{np.median(good):.0f}" if good else ""])
    lines += markdown_table("method | solved | steps, median of the solved", counts)
    failed = [
        [str(r["problem"]), name, f"{x['gap']:.1e}", f"{x['infeasibility']:.1e}", x["message"].replace("\n", " ")]
        for r in rows
        for name, x in r["runs"].items()
        if not x["solved"]
    ]
    lines += ["## Not solved", "", *markdown_table("problem | method | gap | infeasibility | why", failed, 2)]
    results.tell("Problems of Hock and Schittkowski", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", "--tiny", action="store_true", help="two problems")
    add("--problems", nargs="*", type=int, help="these only")
    add("--again", action="store_true", help="measure anew what the file has already")
    add("--out", type=Path, default=Path("out/benchmarks"))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    results = Results(args.out / "hock_schittkowski.json", args.again)
    for number in (QUICK if args.quick else args.problems) or PROBLEMS:
        if not results.has(problem=number):
            row = row_of(number)
            results.add(row)
            say(number, {name: (x["solved"], x["steps"], round(x["seconds"], 1)) for name, x in row["runs"].items()})
    report(results)


if __name__ == "__main__":
    main()
