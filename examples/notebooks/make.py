"""Makes the notebooks from the programs beside this file, whose cells begin with `# %%`.

    python examples/notebooks/make.py          # write each .ipynb
    python examples/notebooks/make.py --run    # run the cells of each .ipynb, as Jupyter would, without output

A notebook begins with a cell that installs gdjax, so that it opens anywhere. It holds no results, so that it changes
with its program alone. It needs no Jupyter to be made or run.
"""

import argparse
import ast
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
URLS = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
INSTALL = f'%pip install --quiet "gdjax[plot] @ git+{URLS["Repository"]}"'
SOURCES = sorted(path for path in FOLDER.glob("*.py") if path != Path(__file__))


def cells(text: str) -> list[tuple[str, str]]:
    """The kind, "markdown" or "code", and the text of each cell."""
    head, *parts = text.split("# %%")
    if head.strip():
        raise ValueError("a program begins with a cell: # %%")
    found = []
    for part in parts:
        title, _, body = part.partition("\n")
        if title.strip() == "[markdown]":
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            found.append(("markdown", body))
        else:
            found.append(("code", body.strip()))
    return found


def notebook(text: str) -> dict[str, Any]:
    """The document of nbformat 4.5."""

    def cell(i: int, kind: str, body: str) -> dict[str, Any]:
        code = {"execution_count": None, "outputs": []} if kind == "code" else {}
        return {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": body.splitlines(keepends=True), **code}

    return {
        "cells": [cell(i, *each) for i, each in enumerate([("code", INSTALL), *cells(text)])],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def written(source: Path) -> str:
    return json.dumps(notebook(source.read_text("utf-8")), indent=1, ensure_ascii=False) + "\n"


def run(path: Path) -> None:
    """The code cells in one namespace, but for the installation; what the last expression of a cell gives must have a
    text, as for display."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in json.loads(path.read_text("utf-8"))["cells"][1:]:
        if cell["cell_type"] == "code":
            where = f"{path.name}:{cell['id']}"
            tree = ast.parse("".join(cell["source"]), where)
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, where, "exec"), names)
            if last is not None:
                shown = eval(compile(ast.Expression(last.value), where, "eval"), names)
                print(repr(shown) if shown is not None else "")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the notebooks as they are")
    args = parser.parse_args(argv)
    for source in SOURCES:
        path = source.with_suffix(".ipynb")
        if args.run:
            print(f"== {path.name}")
            start = time.perf_counter()
            run(path)
            print(f"== {path.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        else:
            path.write_text(written(source), "utf-8")


if __name__ == "__main__":
    main()
