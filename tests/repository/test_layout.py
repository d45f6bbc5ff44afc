"""The layout: folders have one order; every optimizer has its file, test, export and table row."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import gdjax

ROOT = Path(__file__).resolve().parents[2]

# The folders, from the ground up. A folder imports from those before it, a module in the root from all.
ORDER = (
    "core numerics xla codes tree linalg schedules lift leaf_roles matrices combine transfer_laws transforms "
    "linesearch projections prox optimizers inspection losses plots training solving experimental"
).split()
UPWARDS = {
    ("numerics/bounds", "xla/reads"): "how 16 bits, and what is not finite, are read; stands on `core` alone",
    ("numerics/norms", "xla/write_order"): "products that keep a NaN; stands on `core` alone",
    ("schedules/__init__", "combine/hyperparams"): "Optax has inject_hyperparams among its schedules, too",
    ("plots/landscape", "training/step"): "a path over a landscape is one of `minimize`, which plots its results",
}
# What a function may import when it is called; everything else is imported at the top of the file.
OPTIONAL = {"optax", "matplotlib"}
# The folders that methods stand on: who breaks a module there finds its test by the name.
MACHINE_ROOM = ("core", "lift", "leaf_roles", "matrices", "xla", "combine")
TESTED_ELSEWHERE = {
    "core/closures": "core/test_forms, by the updates outside of jit that share a trace",
    "lift/probe": "inspection/test_update_kinds, by the table of `explain`",
}
LONGEST = 400  # lines of a file beside its docstrings, which grow with what they explain
LONGEST_BODY = 50  # lines of a function without its docstring, with the functions inside it
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

SOURCES = {p.relative_to(ROOT / "gdjax").with_suffix("").as_posix(): p for p in sorted(ROOT.glob("gdjax/**/*.py"))}
TREES = {module: ast.parse(path.read_text("utf-8"), str(path)) for module, path in SOURCES.items()}
FOLDERS = [module for module in TREES if module.endswith("/__init__")]
MODULES = [module for module in TREES if module not in FOLDERS]
OPTIMIZERS = [module for module in MODULES if module.startswith("optimizers/")]


def module_of(name: str) -> str:
    """The module that a dotted import reaches: its longest part that is a file or a folder, or the package itself."""
    parts = name.split(".")[1:]
    found = (m for n in range(len(parts), 0, -1) for m in ["/".join(parts[:n]), "/".join([*parts[:n], "__init__"])])
    return next((module for module in found if module in TREES), "__init__")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and dotted name of everything imported in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, "." * node.level + f"{node.module}.{alias.name}") for alias in node.names)


def definitions(module: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    return {node.name: node for node in TREES[module].body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def optimizers_in(module: str) -> list[str]:
    """The public functions of `module` whose first parameter is the learning rate."""
    functions = {k: f for k, f in definitions(module).items() if isinstance(f, ast.FunctionDef) and k[0] != "_"}
    first = {name: [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs][:1] for name, f in functions.items()}
    return [name for name, args in first.items() if args and args[0].arg == "learning_rate"]


def listed(module: str) -> list[str]:
    """`__all__` of a module; nothing where it has none."""
    name = f"gdjax/{module}".removesuffix("/__init__").replace("/", ".")
    return list(getattr(importlib.import_module(name), "__all__", []))


def makes_a_list(node: ast.stmt) -> bool:
    """Whether a statement sets `__all__`, or adds to it."""
    return isinstance(node, ast.Assign | ast.AugAssign) and ast.unparse(node).startswith("__all__ ")


def taken(folder: str) -> list[str]:
    """The names that the list of a folder takes from modules, with `*` all that they list; not its own files."""
    found = []
    for node in (node for node in TREES[folder].body if isinstance(node, ast.ImportFrom)):
        other = module_of(str(node.module)) if node.names[0].name == "*" else ""
        named = [a.asname or a.name for a in node.names if module_of(f"{node.module}") != folder]
        found += listed(other) if other else named
    return found


def folder_of(module: str) -> str:
    return module.partition("/")[0] if "/" in module else ""


@pytest.mark.full
def test_folders_have_one_order():
    assert sorted({folder_of(module) for module in MODULES} - {""}) == sorted(ORDER)
    place = {folder: i for i, folder in enumerate([*ORDER, ""])}
    wrong, upwards = [], set()
    for module, tree in TREES.items():
        for line, name in imports(tree):
            if name.startswith("."):
                wrong.append(f"gdjax/{module}.py:{line}: relative import {name}")
            elif name.split(".")[0] == "gdjax" and (other := module_of(name)) != "__init__":
                if place[folder_of(other)] > place[folder_of(module)]:
                    upwards.add((module, other))
    assert wrong == []
    assert upwards == set(UPWARDS)
    assert len(UPWARDS) <= 5


@pytest.mark.full
def test_imports_stand_at_the_top():
    wrong = []
    for module, tree in TREES.items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            late = [(line, name) for line, name in imports(function) if name.split(".")[0] not in OPTIONAL]
            wrong += [f"gdjax/{module}.py:{line}: {function.name} imports {name}" for line, name in late]
            if function.name == "__getattr__" and module != "as_optax":  # which has an error of its own there
                wrong.append(f"gdjax/{module}.py:{function.lineno}: __getattr__")
    assert wrong == []


@pytest.mark.full
def test_arguments_are_passed_on_by_name():
    """An editor, and a reader, lose an argument in `locals()`; a check alone looks at all of them."""
    wrong = []
    for module, tree in TREES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        checked = [x for call in calls if ast.unparse(call.func) == "checks.unscheduled" for x in call.args]
        wrong += [module for call in calls if ast.unparse(call.func) == "locals" and call not in checked]
    assert wrong == []


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_init_only_reexports():
    logic = []
    for node in TREES["__init__"].body:
        name = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Name | ast.List | ast.Tuple)
        lists = makes_a_list(node) or isinstance(node, ast.FunctionDef) and node.name == "__dir__"
        if not (is_docstring(node) or name or lists or isinstance(node, ast.Import | ast.ImportFrom)):
            logic.append(f"gdjax/__init__.py:{node.lineno}: {type(node).__name__}")
    assert logic == []


def reached(module: str) -> set[str]:
    """The modules that importing `module` imports, directly or not."""
    found, todo = set(), [module]
    while todo:
        new = {module_of(name) for _, name in imports(TREES[todo.pop()]) if name.split(".")[0] == "gdjax"} - found
        found |= new - {"__init__"}
        todo += sorted(new - {"__init__"})
    return found


@pytest.mark.full
@pytest.mark.parametrize("folder", [module for module in FOLDERS if module != "__init__"])
def test_a_folder_is_a_list(folder):
    path = folder.removesuffix("__init__")
    body = [node for node in TREES[folder].body if not (is_docstring(node) or isinstance(node, ast.ImportFrom))]
    assert [ast.unparse(node) for node in body if not makes_a_list(node)] == []
    public = folder.partition("/")[0] in gdjax.__all__  # nothing reads the list of any other
    files = ["aggregating"] if folder.startswith("experimental") else []
    assert sorted(listed(folder)) == (sorted(taken(folder) + files) if public else [])
    # A function bound there would shadow the module of the same name.
    modules = {module.removeprefix(path) for module in MODULES if module.startswith(path)}
    assert set(taken(folder)) & modules == set()
    # Importing a file of the folder runs its list first: what the list imports from elsewhere must not need the folder.
    elsewhere = {m for _, name in imports(TREES[folder]) if not (m := module_of(name)).startswith(path)}
    assert {m for e in elsewhere for m in reached(e) if m.startswith(path)} == set()


def test_the_root_holds_what_a_user_imports():
    assert len([module for module in MODULES if "/" not in module]) <= 14
    folders = {module.partition("/")[0] for module in MODULES if "/" in module}
    assert (folders - set(gdjax.__all__)) & set(dir(gdjax)) == set()


def test_dir_has_all_but_the_states():
    hidden = set(gdjax.__all__) - set(dir(gdjax))
    assert {"ScaleByAdamState", "MaskedState", "ZoomLinesearchInfo", "ApplyEvery"} <= hidden
    assert [name for name in hidden if not hasattr(getattr(gdjax, name), "_fields")] == []
    shown = {name: getattr(gdjax, name) for name in dir(gdjax) if name[0] != "_"}
    assert [name for name, x in shown.items() if (x.__doc__ or "").startswith("State of ")] == []
    assert [name for name in shown if name.endswith("State")] == ["OptState"]  # the type of any state


def test_all_names_what_is_exported():
    names = gdjax.__all__
    assert sorted({name for name in names if names.count(name) > 1}) == [], "names that __all__ has twice"
    assert sorted(name for name in taken("__init__") if name[0] != "_" and name not in names) == []
    assert len(set(taken("__init__"))) == len(taken("__init__")), "two modules list one name"
    # What is imported by name stands in the source of the list: type checkers take no other for public.
    first = next(node for node in TREES["__init__"].body if makes_a_list(node))
    imported = [a for node in TREES["__init__"].body if isinstance(node, ast.ImportFrom) for a in node.names]
    public = sorted(a.asname or a.name for a in imported if a.name != "*" and (a.asname or "")[:1] != "_")
    assert isinstance(first, ast.Assign) and ast.literal_eval(first.value) == public


@pytest.mark.parametrize("module", OPTIMIZERS)
def test_optimizer_is_complete(module):
    tables = (ROOT / "docs" / "optimizers.md").read_text("utf-8")
    missing = []
    if not (ROOT / "tests" / module).with_name(f"test_{Path(module).name}.py").is_file():
        missing.append(f"tests/optimizers/test_{Path(module).name}.py")
    for name in optimizers_in(module):
        docstring = ast.get_docstring(definitions(module)[name]) or ""
        if name not in gdjax.__all__:
            missing.append(f"{name!r} in __all__ of gdjax/{module}.py, or that file in gdjax/__init__.py")
        if not re.search(rf"^\|[^|]*`{name}`[^|]*\|", tables, re.MULTILINE):
            missing.append(f"{name!r} in the first column of a table in docs/optimizers.md")
        if not re.search(r"^References?:", docstring, re.MULTILINE):
            missing.append(f"a heading 'Reference:' in the docstring of {name}")
    assert missing == []


def test_a_module_of_the_machine_room_has_a_test_of_its_name():
    modules = [module for module in MODULES if module.startswith(tuple(f"{folder}/" for folder in MACHINE_ROOM))]
    tests = {module: ROOT / "tests" / Path(module).with_name(f"test_{Path(module).name}.py") for module in modules}
    assert {module for module, path in tests.items() if not path.is_file()} - set(TESTED_ELSEWHERE) == set()


def test_public_names_have_docstrings():
    # Read from the object: a decorator must carry the docstring on. A NamedTuple without one gets "Name(fields)".
    public = [(name, getattr(gdjax, name)) for name in gdjax.__all__]
    public = [(name, obj) for name, obj in public if inspect.isroutine(obj) or inspect.isclass(obj)]
    written = {name: obj.__doc__ and not obj.__doc__.startswith(f"{name}(") for name, obj in public}
    assert [name for name, doc in written.items() if not doc] == []


def length_of_docstring(node: ast.AST) -> int:
    body = getattr(node, "body", None)
    documented = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and body and is_docstring(body[0])
    return body[0].end_lineno - body[0].lineno + 1 if documented and body else 0


@pytest.mark.full
def test_files_can_be_read_in_one_sitting():
    read = {module: path for module, path in SOURCES.items() if module != "__init__"}  # a list to look things up in
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in read.items()}
    lengths = {module: n - sum(map(length_of_docstring, ast.walk(TREES[module]))) for module, n in lengths.items()}
    assert {module: n for module, n in lengths.items() if n > LONGEST} == {}


def length_of_body(function: ast.FunctionDef) -> int:
    body = function.body[1:] if is_docstring(function.body[0]) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.full
def test_functions_can_be_read_at_a_glance():
    functions = [(m, node) for m, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    long = [f"gdjax/{m}.py:{node.lineno}: {node.name}" for m, node in functions if length_of_body(node) > LONGEST_BODY]
    assert long == []


def depth_of_comprehensions(node: ast.AST) -> int:
    deepest = max(map(depth_of_comprehensions, ast.iter_child_nodes(node)), default=0)
    return deepest + isinstance(node, COMPREHENSIONS)


@pytest.mark.full
def test_no_comprehension_is_three_deep():
    depths = {module: max(map(depth_of_comprehensions, tree.body), default=0) for module, tree in TREES.items()}
    assert {module: depth for module, depth in depths.items() if depth > 2} == {}


@pytest.mark.full
def test_import_loads_jax_alone_and_starts_no_backend():
    code = (
        "import sys, jax; before = set(sys.modules); import gdjax, json; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    # A platform that does not exist: whatever asks for a device while gdjax is imported raises.
    env = {**os.environ, "JAX_PLATFORMS": "none_such"}
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    own = {"gdjax", "jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"}
    names = {name for name in json.loads(run.stdout) if "cython" not in name}  # what SciPy's compiled modules register
    assert names - own - set(sys.stdlib_module_names) == set()


def test_only_one_folder_names_the_compiler():
    naming = {module for module, path in SOURCES.items() if "XLA" in path.read_text("utf-8")}
    assert {module for module in naming if not module.startswith("xla/")} == set()


def with_an_update(module: str) -> set[str]:
    """The functions and classes of a module that define the `update` of a transform."""
    found = set()
    for name, node in definitions(module).items():
        functions = [f for f in ast.walk(node) if isinstance(f, ast.FunctionDef) and f.name in ("update", "_update")]
        if ["updates", "state"] in [[a.arg for a in f.args.args if a.arg != "self"][:2] for f in functions]:
            found.add(name)
    return found


@pytest.mark.full
def test_the_page_lists_the_transforms_with_an_update_of_their_own():
    page = (ROOT / "docs" / "machine_room.md").read_text("utf-8")
    section = page.partition("## Transforms with an `update` of their own")[2].partition("\n## ")[0]
    rows = [row.split("|")[2] for row in section.splitlines() if row.startswith("| ")][1:]
    listed = [re.findall("`(.+?)`", part) for row in rows for part in row.split(";")]
    found = {(module, name) for module in MODULES for name in with_an_update(module)}
    assert {(module, name) for module, *names in listed for name in names} == found


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (lowest,) = (d.removeprefix("jax>=") for d in project["dependencies"] if d.startswith("jax>="))
    assert f"\njax=={lowest}\njaxlib=={lowest}\n" in (ROOT / "requirements" / "oldest.txt").read_text("utf-8")
    assert f"\n## [{gdjax.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\nversion: {gdjax.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
