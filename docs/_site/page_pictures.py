"""Runs the programs of a page and puts the pictures that they save into `docs/images`.

python docs/_site/page_pictures.py plots
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
DOCS = Path(__file__).resolve().parents[1]


def draw(page: str) -> list[Path]:
    """The pictures of docs/<page>.md, in docs/images/<page>."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    out = DOCS / "images" / page
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        exec(compile(program, f"{page}.md", "exec"), {"__name__": "__main__"})
        os.chdir(DOCS)
        return [Path(shutil.copy(file, out)) for file in sorted(Path(folder).glob("*.png"))]


if __name__ == "__main__":
    for file in draw(sys.argv[1]):
        print(file.relative_to(DOCS.parent))
