"""Looks at the built site in a browser: pictures of pages, what is out of sight on them, and what its search finds.

    python docs/_site/look.py out/site out/look [--all]

It looks at the written pages, the lists of the reference and the pages of `PICTURES`, with `--all` at every page, which
takes minutes. It needs Chromium, as the packages of most systems have it, and nothing else. It serves the site from
this machine to itself, and ends with an error that lists what it found.
"""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = "chromium", "chromium-browser", "google-chrome"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
MINUTES = 20
WIDTHS = 1280, 390  # a small laptop, a phone
PICTURES = ["", "choose/", "faq/", "api/optimizers/muon/", "examples/", "gallery/", "contributing/", "from_optax/"]
# What is typed into the search, a page that it should find, and among how many pages.
WANTED = (
    ("learning rate schedule", "choose/", 3),
    ("log learning rate", "metrics_and_states/", 3),
    ("layer-wise learning rate", "groups_and_rates/", 3),
    ("which optimizer", "choose/", 3),
    ("resume training", "train_and_sweep/", 3),
    ("checkpoint", "metrics_and_states/", 3),
    ("EMA", "groups_and_rates/", 3),
    ("gradient accumulation", "cookbook/", 3),
    ("freeze layers", "groups_and_rates/", 3),
    ("weight decay mask", "groups_and_rates/", 3),
    ("gradient clipping", "groups_and_rates/", 3),
    ("fine-tune LoRA", "adapters/", 1),
    ("mixed precision", "cookbook/", 3),
    ("bfloat16", "memory/", 3),
    ("NaN", "numbers/", 3),
    ("out of memory", "memory/", 3),
    ("sharding", "devices/", 3),
    ("batch size", "train_and_sweep/", 3),
    ("least squares", "minimizers/", 3),
    ("muon", "muon/", 1),
    ("muon", "api/optimizers/muon/", 3),
    ("adamw", "api/optimizers/adamw/", 3),
    ("SOAP", "kronecker/", 1),
    ("PyTorch", "from_pytorch/", 1),
    ("Optax", "from_optax/", 1),
    ("JAXopt", "from_jaxopt/", 1),
)
UNWANTED = "benchmarks/results/", "CHANGELOG/"
# Runs in the browser: each page in a frame of the width asked for, so that it lays itself out as in a window.
DRIVER = """<!doctype html><meta charset="utf-8"><iframe id="frame" height="900" style="border: 0"></iframe><script>
const frame = document.getElementById("frame");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
async function open(page, width) {
  frame.width = width;
  await new Promise((done) => { frame.onload = done; frame.src = "/" + page; });
  await pause(200);
  return frame.contentDocument;
}
async function outOfSight(page, width) {
  const doc = await open(page, width);
  const found = [];
  if (doc.documentElement.scrollWidth > width) found.push("the page itself");
  const boxes = width < 1000 ? "" : ".md-typeset__scrollwrap, .md-typeset pre > code";
  for (const box of boxes ? doc.querySelectorAll(boxes) : [])
    if (box.scrollWidth > box.clientWidth + 1)
      found.push(`${box.scrollWidth - box.clientWidth} px of "${box.innerText.trim().slice(0, 30)}"`);
  for (const picture of doc.querySelectorAll("article img")) {
    picture.loading = "eager";
    await picture.decode().catch(() => found.push("picture " + picture.getAttribute("src")));
  }
  return found;
}
async function search(text) {
  const doc = await open("", 1280);
  const field = doc.querySelector("[data-md-component=search-query]");
  field.focus();
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.dispatchEvent(new Event("keyup", { bubbles: true }));
  for (let i = 0; i < 100; i++) {
    const links = [...doc.querySelectorAll(".md-search-result__item a.md-search-result__link")];
    if (links.length) return links.map((a) => new URL(a.href).pathname.slice(1));
    await pause(200);
  }
  return [];
}
(async () => {
  const task = await (await fetch("/look.json")).json();
  const report = { out: {}, results: {} };
  for (const text of task.searches) report.results[text] = await search(text);
  for (const width of task.widths)
    for (const page of task.pages) {
      const found = await outOfSight(page, width);
      if (found.length) report.out[page + " at " + width + " px"] = found;
    }
  await fetch("/look.report", { method: "POST", body: JSON.stringify(report) });
})();
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """The files of the site, and beside them the driver, its task, and the place for its report."""

    task: dict[str, Any]
    report: dict[str, Any]
    done: threading.Event

    def do_GET(self) -> None:
        own = {"/look.html": ("text/html", DRIVER), "/look.json": ("application/json", json.dumps(self.task))}
        if self.path not in own:
            return super().do_GET()
        kind, text = own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        self.report.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.done.set()

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def opened(browser: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """The browser, with a profile of its own that nothing was in before."""
    with tempfile.TemporaryDirectory(prefix="look-", ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", *args]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def pages_of(site: Path, every: bool) -> list[str]:
    """The pages to look at, by their address in the site."""
    found = sorted(f"{page.parent.relative_to(site).as_posix()}/" for page in site.glob("*/**/index.html"))
    return ["", *(page for page in found if every or not page.startswith("api/") or page.count("/") < 3)]


def look(browser: str, site: Path, out: Path, every: bool) -> list[str]:
    """Draws the pictures into `out`, and returns what is wrong."""
    pages = sorted({*pages_of(site, every), *PICTURES})
    handler = type("OfThisRun", (Handler,), {"report": {}, "done": threading.Event()})
    handler.task = {"pages": pages, "widths": WIDTHS, "searches": [text for text, *_ in WANTED]}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_port}"
    out.mkdir(parents=True, exist_ok=True)
    for page in PICTURES:
        for width in WIDTHS:
            file = out / f"{page.strip('/').replace('/', '_') or 'home'}_{width}.png"
            with opened(browser, f"--window-size={width},2400", f"--screenshot={file}", f"{root}/{page}") as process:
                process.wait(120)
    with opened(browser, "--window-size=1400,1000", f"{root}/look.html"):
        answered = handler.done.wait(MINUTES * 60)
    server.shutdown()
    if not answered:
        return [f"the browser did not answer in {MINUTES} minutes"]
    wrong = [f"{page}: {', '.join(found)}" for page, found in handler.report["out"].items()]
    for text, page, among in WANTED:
        found = list(dict.fromkeys(x.partition("?")[0] for x in handler.report["results"][text]))
        if page not in found[:among]:
            wrong.append(f"a search for {text!r} finds {found[:among]}, not {page}")
        elif not page.startswith("api/") and found[0].startswith("api/"):
            wrong.append(f"a search for {text!r} finds the reference, {found[0]}, before a guide")
        if bad := [x for x in found if x.startswith(UNWANTED)]:
            wrong.append(f"a search for {text!r} finds {bad}")
    print(f"{len(pages)} pages at {WIDTHS} px; {len(WANTED)} searches; pictures in {out}")
    return wrong


if __name__ == "__main__":
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        sys.exit(f"look: none of {', '.join(BROWSERS)} is here, so the site was not looked at")
    if wrong := look(found, Path(sys.argv[1]), Path(sys.argv[2]), "--all" in sys.argv):
        sys.exit("\n".join(["out of sight or missing:", *wrong]))
