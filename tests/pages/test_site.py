"""The site: each public name has one page in its reference, and links between pages lead somewhere."""

import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import gdjax

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(DOCS.glob("*.md"))


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / "_site" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


catalogue, links, look = load("catalogue"), load("links"), load("look")


def test_each_public_name_has_one_page():
    shown = [name for held in catalogue.pages().values() for s in held for name in [s.name, *s.aliases]]
    assert sorted({name for name in shown if shown.count(name) > 1}) == []
    assert sorted(set(catalogue.public_names()) ^ set(shown)) == []


def test_no_page_is_called_by_a_module():
    sections = {page.partition("/")[0] for page in catalogue.pages()}
    assert sections == set(catalogue.SECTIONS)
    assert set(catalogue.TITLES) <= set(catalogue.pages()), "titles of pages that are gone"


@pytest.mark.parametrize("name", ["adam", "adamw", "muon", "schedule_free_adamw", "mechanize", "sam", "lbfgs"])
def test_an_optimizer_has_its_own_page(name: str):
    page, symbol = catalogue.page_of_name()[name]
    assert page == f"optimizers/{name}" and catalogue.pages()[page][0] is symbol and symbol.obj is getattr(gdjax, name)


def test_each_optimizer_is_in_one_group():
    grouped = [name for names in catalogue.groups().values() for name in names]
    pages = {page.partition("/")[2] for page in catalogue.pages() if page.startswith("optimizers/")}
    assert sorted({name for name in grouped if grouped.count(name) > 1}) == [], "in two groups"
    assert sorted(pages - set(grouped)) == [], "in no table of docs/optimizers.md"
    assert sorted(set(grouped) - set(catalogue.page_of_name())) == [], "no public names"


def test_parts_stand_with_their_optimizer():
    where = {name: page for name, (page, _) in catalogue.page_of_name().items()}
    assert where["scale_by_adam"] == where["ScaleByAdamState"] == "optimizers/adam"
    assert where["ProdigyState"] == "optimizers/prodigy"
    assert where["schedule_free_eval_params"] == "optimizers/schedule_free"
    assert where["multi_transform"] == where["partition"] == "combine/groups"


def test_values_and_states_show_their_source():
    found = {s.name: catalogue.source_of(s) for s in catalogue.symbols() if s.is_state or s.is_value}
    assert found["ScaleByAdamState"].startswith("class ScaleByAdamState(NamedTuple):")
    assert found["ScalarOrSchedule"].startswith("ScalarOrSchedule = ")
    assert found["Hyper"].startswith("Hyper = ") and found["Params"].startswith("Params = ")


@pytest.mark.parametrize("page", [ROOT / "README.md", *WRITTEN], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in t]
    # The reference is made when the site is built.
    made = {f"api/{page}.md" for page in catalogue.pages()} | {f"api/{s}/index.md" for s in catalogue.SECTIONS}
    missing = [t for t in targets if t and t not in made | {"api/index.md"} and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *WRITTEN], ids=lambda page: page.stem)
def test_code_fits_beside_both_lists_of_links(page: Path):
    """At 1280 px a block shows 88 columns. Sentences that a program prints may be longer: the site wraps them."""
    wide, block = [], None
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if (fence := line.lstrip()).startswith("```"):
            block = fence[3:] if block is None else None
        elif block is not None and len(line) > 88 and not (block == "text" and "  " not in line):
            wide.append(f"{page.name}:{number}: {len(line)} columns")
    assert wide == []


def test_the_build_of_the_site_counts_warnings():
    """With --quiet mkdocs drops them before --strict counts them, so a broken link would pass."""
    target = (ROOT / "Makefile").read_text("utf-8").partition("\ndocs:")[2].partition("\n\n")[0]
    assert "--strict" in target and "--quiet" not in target


def test_each_written_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    assert [page.name for page in WRITTEN if page.name not in navigation] == []


def test_the_names_in_the_pages_exist():
    unknown = set()
    for page in [ROOT / "README.md", *WRITTEN]:
        for name in re.findall(r"(?<!/)\bgdjax\.([A-Za-z_][\w.]*\w)", page.read_text("utf-8")):
            try:
                pkgutil.resolve_name(f"gdjax.{name}")
            except (AttributeError, ImportError):
                unknown.add((page.name, name))
    assert unknown == set()


def test_the_search_is_asked_for_pages_that_exist():
    """`make look` asks in a browser; what it asks for must be there."""
    assert len({text for text, *_ in look.WANTED}) >= 20
    made = {f"api/{page}" for page in catalogue.pages()} | {page.stem for page in WRITTEN}
    assert {page.rstrip("/") for _, page, _ in look.WANTED} - made == set()


def test_public_modules_are_in_the_reference():
    modules = {name for name in gdjax.__all__ if inspect.ismodule(getattr(gdjax, name))}
    assert modules <= {name.partition(".")[0] for name in catalogue.MODULES}


# A site of two pages: all that the first refers to is there.
HOME = """<link href="style.css"><img src="a.png"> <a href="guide/">g</a> <a href="guide/#two">2</a>
<a href="/guide/">g</a> <a href="https://example.org/none">elsewhere</a> <a href="mailto:x@example.org">x</a>
<a href="#">top</a> <img src="data:image/png;base64,AA=="> <a href="guide/index.html?q=1#two">2</a>
<a href="a%2Epng">a</a> <a href="./">.</a>"""
GUIDE = """<h2 id="two">Two</h2> <a href="..">home</a> <img src="../a.png" srcset="../a.png 1x, ../b.png 2x">
<img src="a.png"> <a href="../none/">none</a> <a href="../guide/#three">3</a> <a href="#four">4</a>
<a name="five"></a> <a href="#five">5</a> <script src="../s.js"></script> <a href="../../up/">up</a>"""
LOST = {"../b.png", "a.png", "../none/", "../guide/#three", "#four", "../s.js", "../../up/"}


def test_what_a_built_site_has_not_is_found(tmp_path: Path):
    (tmp_path / "guide").mkdir()
    (tmp_path / "index.html").write_text(HOME, "utf-8")
    (tmp_path / "guide" / "index.html").write_text(GUIDE, "utf-8")
    (tmp_path / "a.png").touch()
    (tmp_path / "style.css").touch()
    found = links.missing(tmp_path)
    assert list(found) == ["guide/index.html"]
    assert {reference.partition(" ")[0] for reference in found["guide/index.html"]} == LOST
    (tmp_path / "guide" / "index.html").write_text("<h2 id='two'>Two</h2>", "utf-8")
    assert links.missing(tmp_path) == {}
