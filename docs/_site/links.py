"""What the built site refers to and does not have: pages, pictures, styles, scripts, and places in pages.

    python docs/_site/links.py out/site

It reads the HTML as a browser gets it, so it sees raw HTML in pages too. It needs nothing but Python.
"""

import posixpath
import sys
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REFERENCES = {"href", "xlink:href", "src", "poster"}


class _Page(HTMLParser):
    """The places of a page that a link may name, and what the page refers to."""

    def __init__(self, text: str):
        super().__init__()
        self.places: set[str] = set()
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (name == "name" and tag == "a"):
                self.places.add(value)
            elif name in REFERENCES or (tag == "object" and name == "data"):
                self.references.append(value)
            elif name == "srcset":
                self.references += [part.split()[0] for part in value.split(",") if part.strip()]


def _target(page: str, path: str) -> str:
    """The file, from the root of the site, that a path in a page means."""
    file = posixpath.normpath(
        path.lstrip("/") if path.startswith("/") else posixpath.join(posixpath.dirname(page), path)
    )
    return "" if file == "." else file


def _misses(site: Path, page: str, pages: dict[str, _Page]) -> Iterator[str]:
    for reference in pages[page].references:
        url = urlsplit(reference.strip())
        if url.scheme or url.netloc:
            continue
        file = _target(page, unquote(url.path)) if url.path else page
        if file.startswith(".."):
            yield f"{reference} (outside the site)"
            continue
        if (site / file).is_dir():
            file = posixpath.join(file, "index.html")
        if not (site / file).is_file():
            yield reference
        elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].places:
            yield f"{reference} (the page has no such place)"


def missing(site: Path) -> dict[str, list[str]]:
    """By page, the references of the pages of `site` that lead nowhere. Other hosts are not asked."""
    files = sorted(site.rglob("*.html"))
    pages = {file.relative_to(site).as_posix(): _Page(file.read_text("utf-8")) for file in files}
    found = defaultdict(list)
    for page in pages:
        for reference in _misses(site, page, pages):
            if reference not in found[page]:
                found[page].append(reference)
    return {page: references for page, references in found.items() if references}


if __name__ == "__main__":
    lost = missing(Path(sys.argv[1]))
    print(*(f"{page}: {reference}" for page, references in lost.items() for reference in references), sep="\n")
    sys.exit(bool(lost))
