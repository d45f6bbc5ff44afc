"""A picture of every optimizer, its way on two landscapes, and of every schedule; and the page that shows them all.

    python examples/gallery.py --out docs

Writes gallery.md and gallery/*.png, and ends with an error that lists what it could not draw.
"""

import argparse
import inspect
from pathlib import Path

from plot_schedules import panels
from portraits import pictures
from portraits.methods import RATES, best_runs, methods

import gdjax

LIMIT = 25_000  # bytes of a picture
# A probability, of PSGD; sizes of batches; decays of averages.
NO_RATES = {"precond_update_prob_schedule", "batch_ramp", "log_time_schedule"}


def schedules() -> list[str]:
    """The public functions that make schedules, by name."""
    public = {name: getattr(gdjax, name) for name in gdjax.__all__}
    made = {k for k, x in public.items() if inspect.isfunction(x) and x.__module__.startswith("gdjax.schedules.")}
    return sorted(made - NO_RATES)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw every optimizer and every schedule.")
    parser.add_argument("--tiny", action="store_true", help="four optimizers, short paths, four schedules")
    parser.add_argument("--out", type=Path, default=Path("out/gallery"), help="folder for the page and its pictures")
    parser.add_argument("--only", nargs="*", help="the names to draw; the page is then left as it is")
    args = parser.parse_args(argv)
    steps = 20 if args.tiny else 300
    every = 16 if args.tiny else 1
    chosen = {k: m for i, (k, m) in enumerate(methods().items()) if (k in args.only if args.only else i % every == 0)}
    curves = [k for i, k in enumerate(schedules()) if (k in args.only if args.only else i % (every // 3 or 1) == 0)]
    folder = args.out / "gallery"
    folder.mkdir(parents=True, exist_ok=True)

    failed = {}
    with gdjax.Progress(len(chosen) + len(curves)) as progress:
        for i, (name, method) in enumerate(chosen.items()):
            try:
                runs = best_runs(name, method, steps)
                pictures.portrait(folder / f"{name}.png", name, runs)
                progress.update(i + 1, name=name, rates=" ".join(str(rate) for rate, _ in runs.values()))
            except Exception as e:
                failed[name] = f"{type(e).__name__}: {e}"
        known = panels(1000)
        for i, name in enumerate(curves):
            if name in known:
                pictures.curve(folder / f"{name}.png", name, known[name], 1000)
            else:
                failed[name] = "no arguments for it in plot_schedules.panels"
            progress.update(len(chosen) + i + 1, name=name)
    shown = [[name for name in names if name not in failed] for names in (list(chosen), curves)]
    if not args.only:
        text = pictures.page(*shown, steps, f"{RATES[0]:g}, {RATES[1]:g}, {RATES[2]:g}, ... {RATES[-1]:g}")
        (args.out / "gallery.md").write_text(text, "utf-8")
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.png")}
    total, largest = sum(sizes.values()) / 1e6, max(sizes.values())
    print(f"{len(sizes)} pictures in {folder}, {total:.2f} MB, at most {largest} bytes each")
    failed |= {name: f"{n} bytes, more than {LIMIT}" for name, n in sizes.items() if n > LIMIT}
    if failed:
        raise SystemExit("\n".join(["not as they should be:", *(f"  {k}: {v}" for k, v in failed.items())]))


if __name__ == "__main__":
    main()
