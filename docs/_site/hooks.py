"""What mkdocs runs: it writes the pages of the reference, adds pages from outside `docs/`, and links names in text."""

import logging
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

import catalogue
import diagram
import links
import mathml
from catalogue import Symbol
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
# Pages and pictures from outside `docs/`, by their path from the root.
OUTSIDE = (
    "CHANGELOG.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.png",
    "benchmarks/results/race/*.jsonl",
)
MADE = ("CHANGELOG.md", "benchmarks/about.md")
OWN_TITLE = "\n    options:\n      heading_level: 1"


def uri(page: str) -> str:
    return f"api/{page}.md"


def _exists(entry: Any) -> bool:
    """Whether a page of the navigation is there; others are left out, and so are sections without pages."""
    (target,) = entry.values() if isinstance(entry, dict) else (entry,)
    if isinstance(target, list):
        target[:] = [x for x in target if _exists(x)]
        return bool(target)
    return target.startswith("api/") or (DOCS / target).is_file() or target in MADE


def _entries(section: str) -> list[Any]:
    """The pages of a section in the navigation; the optimizers by their groups."""
    own = {page: {catalogue.title_of(page): uri(page)} for page in catalogue.pages() if page.startswith(section + "/")}
    if section != "optimizers":
        return list(own.values())
    return [
        {title: [own[f"optimizers/{name}"] for name in names if f"optimizers/{name}" in own]}
        for title, names in catalogue.groups().items()
    ]


def on_config(config: Any) -> Any:
    """Puts the pages of the reference into the navigation, and the project's address where the theme looks for it."""
    config.repo_url, config.repo_name, config.edit_uri = URLS["Repository"], "gdjax", "edit/main/docs/"
    config.extra["social"] = [{"icon": "material/bug", "link": URLS["Issues"], "name": "Report a mistake"}]
    config.nav[:] = [x for x in config.nav if _exists(x)]
    reference: list[Any] = ["api/index.md"]
    for section, (title, _) in catalogue.SECTIONS.items():
        reference.append({title: [f"api/{section}/index.md", *_entries(section)]})
    config.nav.append({"Reference": reference})
    return config


def _picture(page: str) -> str:
    """The picture of an optimizer or a schedule, where there is one."""
    section, _, name = page.partition("/")
    if section not in ("optimizers", "schedules") or not (DOCS / "gallery" / f"{name}.png").is_file():
        return ""
    return f'<p><img alt="What {name} does" src="../../../gallery/{name}.png" loading="lazy"></p>'


def _symbol(symbol: Symbol, options: str = "") -> str:
    """A symbol on its page: its source if that says all, or its signature and docstring."""
    heading = f"## {symbol.short} {{ #gdjax.{symbol.name} }}"
    if symbol.is_state or symbol.is_value:
        text = f"{heading}\n\n``` {{ .python .source }}\n{catalogue.source_of(symbol)}\n```"
    else:
        text = f"::: gdjax.{symbol.name}{options}"
    others = ", ".join(f"`gdjax.{name}`" for name in symbol.aliases if name != symbol.name)
    return text + (f"\n\nAlso {others}." if others else "")


def _page(page: str, held: list[Symbol]) -> str:
    section = page.partition("/")[0]
    first = held[0]
    text = f"# {catalogue.title_of(page)}\n\n"
    if section in ("optimizers", "schedules"):  # its name is the title
        text = f"{_symbol(first, OWN_TITLE)}\n\n"
        held = held[1:]
    text += "\n\n".join(map(_symbol, held))
    siblings = [p for p, s in catalogue.pages().items() if p != page and s[0].module == first.module]
    if section == "optimizers" and siblings:
        links = ", ".join(f"[`{p.partition('/')[2]}`]({p.partition('/')[2]}.md)" for p in siblings)
        text += f"\n\nIn the same file: {links}.\n"
    return text + "\n"


def _row(symbol: Symbol, page: str, here: str) -> str:
    """A row of a table on a page of the section `here`."""
    section, _, file = page.partition("/")
    path = file if section == here else f"../{page}"
    summary = symbol.summary.replace("|", "\\|")
    return f"| [`{symbol.short}`]({path}.md#gdjax.{symbol.name}) | {summary} |\n"


def _table(section: str) -> str:
    """What a section has: a table, or one for each group of optimizers."""
    head = "| name | what it is |\n| --- | --- |\n"
    if section == "optimizers":
        where = catalogue.page_of_name()
        tables = [
            f"## {title}\n\n{head}" + "".join(_row(where[name][1], where[name][0], section) for name in names)
            for title, names in catalogue.groups().items()
        ]
        return "\n".join(tables)
    rows = [
        _row(s, page, section)
        for page, held in catalogue.pages().items()
        if page.startswith(section + "/")
        for s in (held[:1] if section == "schedules" else held)
    ]
    return head + "".join(rows)


def _sections() -> str:
    text = "# Reference\n\nEvery public name has one page. The search at the top finds it by name.\n\n"
    text += "| section | what is there |\n| --- | --- |\n"
    for section, (title, sentence) in catalogue.SECTIONS.items():
        text += f"| [{title}]({section}/index.md) | {sentence} |\n"
    where = catalogue.page_of_name()
    lists = {f"Optimizers: {title}": names for title, names in catalogue.groups().items()}
    for section, (title, _) in catalogue.SECTIONS.items():
        own = [s.name for page, held in catalogue.pages().items() if page.startswith(section + "/") for s in held]
        lists |= {title: own} if section != "optimizers" else {"Parts and states of optimizers": own}
    text += "\n## All names\n"
    seen: set[str] = set()
    for title, names in lists.items():
        new = [name for name in names if name not in seen]
        seen |= set(new)
        shown = [f"[`{where[n][1].short}`]({where[n][0]}.md#gdjax.{where[n][1].name})" for n in new]
        text += f"\n**{title}**\n\n" + " · ".join(shown) + "\n"
    return text


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that no file of `docs/` holds."""
    generated = {uri(page): _page(page, held) for page, held in catalogue.pages().items()}
    generated["api/index.md"] = _sections()
    for section, (title, sentence) in catalogue.SECTIONS.items():
        generated[f"api/{section}/index.md"] = f"# {title}\n\n{sentence}\n\n{_table(section)}"
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix().replace("README", "about")  # a README would head its section
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def searched(page: str, section: str) -> dict[str, Any]:
    """How the search weighs a page: guides before the reference, and no lists, results or changes of old versions."""
    reference = page.startswith("api/")
    if page.startswith(("benchmarks/results/", "CHANGELOG")) or (reference and page.endswith("index.md")):
        return {"exclude": True}
    others = reference or page == "faq.md" or section in ("Background", "Examples")
    return {"boost": 0.5 if others else 2}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Makes of a page as GitHub shows it one that mkdocs shows alike."""
    page.meta["search"] = searched(page.file.src_uri, page.ancestors[-1].title if page.ancestors else "")
    if page.file.src_uri.startswith("api/"):
        return markdown
    if page.file.src_uri == "index.md" or page.file.src_uri.startswith("benchmarks/results/"):
        page.meta["hide"] = ["navigation", "toc"]  # a program has its picture beside it; tables have many columns
    # Code is left as it is; what stands between is text.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    parts[::2] = [_pictures(_text(part), page) for part in parts[::2]]
    whole = re.sub(r"^```text$", "``` { .text .printed }", "".join(parts), flags=re.M)
    return re.sub(r"^```mermaid\n(.*?)^```$", lambda x: diagram.svg(x[1]), whole, flags=re.M | re.S)


def _text(text: str) -> str:
    # Links out of `docs/` lead to where the site has these pages; what it has not becomes plain text.
    text = re.sub(r"\]\(\.\./(benchmarks/|CHANGELOG)", r"](\1", text.replace("/README.md)", "/about.md)"))
    text = text.replace("](docs/", "](")  # of the changelog, which lies outside of it
    text = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", text)
    text = re.sub(r"\[(\w+)\.md\]", lambda x: f"[{x[1].replace('_', ' ')}]", text)
    # What belongs to an item of a list is indented by four, and an item after it follows an empty line.
    text = re.sub(r"^( +)", r"\1\1", text, flags=re.M)
    return re.sub(r"^( {4}.*\n)(?=- )", r"\1\n", text, flags=re.M)


def _pictures(text: str, page: Any) -> str:
    """A picture in raw HTML, which mkdocs leaves as it is, is found from where the page stands in the site."""

    def moved(found: re.Match[str]) -> str:
        target = posixpath.join(posixpath.dirname(page.file.src_uri), found[2])
        return found[1] + get_relative_url(posixpath.normpath(target), page.url)

    return re.sub(r"""(<img\b[^>]*\bsrc=["'])(?![a-z]+:|/)([^"']+)""", moved, text)


def on_post_build(config: Any) -> None:
    """A warning, which the strict build takes for an error, for each link of the site that leads nowhere."""
    for page, references in links.missing(Path(config.site_dir)).items():
        logging.getLogger("mkdocs.hooks.links").warning(
            "%s refers to what is not there: %s", page, ", ".join(references)
        )


# Code in text, but in no link, heading or block of code.
PARTS = re.compile(r"(<pre.*?</pre>|<a\b.*?</a>|<h[1-6].*?</h[1-6]>)|<code>([\w.]+)(\([^<]*\))?</code>", re.DOTALL)
CONTENTS = '<div class="doc doc-contents first">'
# Words that are names of gdjax, and far more often something else in a text.
ORDINARY = {"trace", "scale", "transform", "clip", "ema"}


CELLS = re.compile(r"<td.*?</td>", re.DOTALL)


def _breakable(cell: re.Match[str]) -> str:
    """Long names and calls in a table break at underscores, dots and brackets."""
    return re.sub(r"<code>[^<]*</code>", lambda code: re.sub(r"(?<=[_.(])", "<wbr>", code[0]), cell[0])


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """A public name in code is a link to its page, and formulas are set."""

    def link(found: re.Match[str]) -> str:
        name = (found[2] or "").removeprefix("gdjax.")
        target = catalogue.page_of_name().get(name)
        if found[1] or not target or (name in ORDINARY and name == found[2] and not found[3]):
            return found[0]
        where, symbol = target
        url = get_relative_url(f"api/{where}/", page.url)
        return f'<a href="{url}#gdjax.{symbol.name}"><code>{found[2]}{found[3] or ""}</code></a>'

    content = re.sub(r"<(?=\w+, )", "&lt;", content)  # an inner product <x, y> is no tag
    shown = page.file.src_uri.removeprefix("api/").removesuffix(".md")
    if shown in catalogue.pages():
        content = mathml.render_page(content, catalogue.arguments(shown))
    picture = _picture(shown)
    content = content.replace(CONTENTS, CONTENTS + picture, 1).replace("::</p>", ":</p>")
    return CELLS.sub(_breakable, PARTS.sub(link, content))
