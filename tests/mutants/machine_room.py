"""One bug for each module that methods stand on: the test file of the module's name must fail, and soon.

    python -m tests.mutants.machine_room core/arrays lift/slots        (all of BUGS if none is named)

The bugs of `tests.mutants.run` are changes of one expression of a rule. These are slips of a person, by hand: a
condition that is forgotten, an end that is off by one. Each is written into a copy of the tree, and pytest starts anew.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30  # seconds of the processor until the test of a module must have failed


class Bug(NamedTuple):
    module: str  # "core/arrays"
    right: str  # a text that the module has once
    wrong: str  # what takes its place


BUGS = [
    Bug("core/argument_kinds", "if not 0 < value <= 1:", "if not 0 <= value <= 1:"),
    Bug("core/arrays", "(p.astype(wide) + u.astype(wide)).astype(p.dtype)", "p + u.astype(p.dtype)"),
    Bug("core/base", "g.dtype.itemsize < p.dtype.itemsize", "g.dtype.itemsize > p.dtype.itemsize"),
    Bug("core/callers", "if 0 <= at < count:", "if 0 <= at <= count:"),
    Bug("core/checks", "if value < low:", "if value <= low:"),
    Bug("core/contexts", "variable.reset(token)", "pass"),
    Bug("core/domains", "_known(value) and int(value) < least", "_known(value) and int(value) <= least"),
    Bug("core/field_docs", '" ".join(text.split())', "text"),
    Bug("core/growth", "min(rows, columns) ** -0.5", "max(rows, columns) ** -0.5"),
    Bug("core/keys", "return type(leaf), leaf", "return leaf"),
    Bug("core/meshes", "(-(-number // home.size), home.size)", "(number // home.size, home.size)"),
    Bug("core/misuse", "len(value) == len(ours) > 1", "len(value) <= len(ours) > 1"),
    Bug("core/number_domains", "float(np.float32(x)) if math.isfinite(x) else x", "x"),
    Bug("core/owners", "tuple(axes[:-3:-1])", "tuple(axes[-2:])"),
    Bug("core/part", "if i > 2 and p.kind", "if i > 3 and p.kind"),
    Bug("core/parts", "if lead < 0:", "if lead <= 0:"),
    Bug("core/paths", "names[places[0]]", "names[places[-1]]"),
    Bug("core/signatures", "if kind == annotation", "if kind is annotation"),
    Bug("core/structures", "if is_state(tree[1]):", "if is_state(tree[0]):"),
    Bug("core/types", "return g is None or is_hidden(g)", "return g is None"),
    Bug("core/values", 'shown.append(f"{name}={_show(value)}")', "shown.append(_show(value))"),
    Bug("lift/all_leaves", "leaves.trained[i] and (r.sees is None or r.sees[i])", "leaves.trained[i]"),
    Bug("lift/factors", "known[key] = 0.0 if any(", "known[key] = 1.0 if any("),
    Bug("lift/layers", "tuple(range(layers))", "tuple(range(len(shape)))"),
    Bug("lift/leafwise", "scheduled or ScaleByScheduleState", "ScaleByScheduleState"),
    Bug("lift/meetings", "[x], group=group, alike=True", "[x], alike=True"),
    Bug("lift/one_leaf", "return max((numerics.real_dtype", "return min((numerics.real_dtype"),
    Bug("lift/order", "and x == neutral)", "and x != neutral)"),
    Bug("lift/rule", "stops = {i - step.inside for", "stops = {i for"),
    Bug("lift/rule_checks", "if jnp.shape(x) != like.shape:", "if jnp.ndim(x) != like.ndim:"),
    Bug("lift/slots", "jax.random.fold_in(arrays.fresh_key(seed), number)", "arrays.fresh_key(seed)"),
    Bug("lift/wrapper", 'self.rule.counts and "count" not in self.State._fields', "self.rule.counts"),
    Bug("leaf_roles/names", "*kinds) for key in self.keys[-3:])", "*kinds) for key in self.keys[-2:])"),
    Bug("leaf_roles/neighbours", "outputs in (size, 3 * size, 4 * size)", "outputs in (size, 4 * size)"),
    Bug("leaf_roles/plan", "whole[..., end - n : end]", "whole[..., :n]"),
    Bug("leaf_roles/reading", "if min(inputs, outputs) <= 1:", "if min(inputs, outputs) < 1:"),
    Bug("matrices/blocks", "size <= self.max_precond_dim", "size < self.max_precond_dim"),
    Bug("matrices/in_turns", "(count - self.start) % self.period", "count % self.period"),
    Bug("matrices/kronecker", "u @ adjoint(right)", "u @ right"),
    Bug("matrices/matrixwise", "key=lambda item: -item[1][0])", "key=lambda item: item[1][0])"),
    Bug("matrices/slots", "if arguments[slot.argument] != slot.value:", "if arguments[slot.argument] == slot.value:"),
    Bug("matrices/together", "groups.setdefault(x.f, [])", "groups.setdefault(facts[0].f, [])"),
    Bug("xla/loops", 'not {"reduce_sum", "reduce_max"}', 'not {"reduce_max"}'),
    Bug("xla/reads", "    y = y * (2 - x * y)\n", ""),
    Bug("xla/sums", "x.shape[second] ** -0.5", "x.shape[first] ** -0.5"),
    Bug("xla/write_order", "slice_in_dim(stack, a, a + n)", "slice_in_dim(stack, a, n)"),
    Bug("combine/chain", "len(turns) < 2 or len(turns) % 2 or", "len(turns) < 2 or"),
    Bug("combine/conditional", "x.leaf is not None and shapes[x.leaf] == shape", "x.leaf is not None"),
    Bug("combine/groups", "if clips and len(trained) > 1:", "if clips:"),
    Bug("combine/hyperparams", "jnp.maximum(count - 1, 0)", "count - 1"),
    Bug("combine/layers", "return int(match[1]) + 1", "return int(match[1])"),
    Bug("combine/masking", "and not is_masked(params)", ""),
    Bug("combine/quantized", "size >= min_size", "size > min_size"),
    Bug("combine/sharding", "(axes[i].follows, shape[i], -i)", "(shape[i], -i)"),
    Bug("combine/sites", "(place, i)}", "(place, 0)}"),
]


def source_of(bug: Bug, root: Path = ROOT) -> Path:
    return root / "gdjax" / f"{bug.module}.py"


def path_of_test(bug: Bug) -> str:
    folder, name = bug.module.split("/")
    return f"tests/{folder}/test_{name}.py"


def seconds_until_failure(bug: Bug, tree: Path) -> float | None:
    """The seconds of the processor that the test of the module takes to fail with the bug; None where it does not."""
    source = source_of(bug, tree)
    right = source.read_text("utf-8")
    source.write_text(right.replace(bug.right, bug.wrong), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", path_of_test(bug)]
    start = processor_seconds()
    try:
        run = subprocess.run(
            command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, timeout=10 * LIMIT
        )
    except subprocess.TimeoutExpired:
        return None
    finally:
        source.write_text(right, "utf-8")
    return processor_seconds() - start if run.returncode == 1 else None


def processor_seconds() -> float:
    """Those of the processes that this one started and that have ended."""
    return os.times().children_user + os.times().children_system


def main() -> None:
    chosen = [bug for bug in BUGS if bug.module in sys.argv[1:] or not sys.argv[1:]]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "out"))
        for bug in chosen:
            seconds = seconds_until_failure(bug, tree)
            missed += seconds is None or seconds > LIMIT
            print(f"{bug.module:24}", "survived" if seconds is None else f"{seconds:5.1f} s", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} fall within {LIMIT} s")
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
