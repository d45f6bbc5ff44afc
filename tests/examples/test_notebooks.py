"""The notebooks are those of the programs beside them; `make notebooks` runs them."""

import ast
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = loaded()


def test_each_notebook_is_that_of_its_program():
    assert [path.stem for path in make.SOURCES] == [
        "first_run",
        "group_and_inspect",
        "matrix_methods",
        "memory",
        "transfer",
    ]
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in make.SOURCES}
    old = [path.stem for path in make.SOURCES if path.with_suffix(".ipynb").read_text("utf-8") != make.written(path)]
    assert old == [], "run python examples/notebooks/make.py"


def test_cells():
    text = "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nx = 1\n\n\ny = x\n"
    assert make.cells(text) == [("markdown", "# Title\n\nWords."), ("code", "x = 1\n\n\ny = x")]
    install, markdown, code = make.notebook(text)["cells"]
    assert "".join(install["source"]).startswith("%pip install ") and "[plot] @ git+https://" in install["source"][0]
    assert "".join(code["source"]) == "x = 1\n\n\ny = x" and code["outputs"] == [] and "outputs" not in markdown
    with pytest.raises(ValueError, match="begins with a cell"):
        make.cells("import os\n# %%\n")


def test_a_run_shares_names_and_shows_what_a_cell_ends_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(make.notebook("# %%\nx = 2\n# %%\ny = x + 1\ny\n")), "utf-8")
    make.run(path)
    assert capsys.readouterr().out == "3\n"
    path.write_text(json.dumps(make.notebook("# %%\nassert False\n")), "utf-8")
    with pytest.raises(AssertionError):
        make.run(path)


def test_notebooks_open_where_only_gdjax_is_installed():
    for path in make.SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in modules} <= {"gdjax", "jax", "matplotlib", "numpy"}, path.stem
        assert "plt.show()" in path.read_text("utf-8"), f"{path.stem} has no picture"


def test_the_document_is_one_of_nbformat_4_5():
    for path in FOLDER.glob("*.ipynb"):
        document = json.loads(path.read_text("utf-8"))
        assert set(document) == {"cells", "metadata", "nbformat", "nbformat_minor"}
        assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in document["cells"]]
        assert len(set(ids)) == len(ids) > 8 and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", x) for x in ids)
        for cell in document["cells"]:
            code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
            assert set(cell) == {"cell_type", "id", "metadata", "source"} | code
