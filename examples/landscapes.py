"""Where every optimizer goes on four landscapes, and what happens at a saddle point.

    python examples/landscapes.py

Writes landscapes.png, landscapes.gif (the same, moving) and saddle.png.
"""

import argparse
from pathlib import Path

from landscape import escape, pictures
from landscape.functions import LANDSCAPES
from landscape.paths import METHODS, best_runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the paths of every optimizer on four landscapes.")
    parser.add_argument("--tiny", action="store_true", help="short paths and few frames")
    parser.add_argument("--out", type=Path, default=Path("out/landscapes"), help="folder for the pictures")
    args = parser.parse_args(argv)
    steps, saddle_steps, frames = (30, 30, 5) if args.tiny else (500, 350, 150)
    args.out.mkdir(parents=True, exist_ok=True)

    print(f"The learning rate, at first, with which each optimizer goes lowest soonest in {steps} steps:\n")
    print(f"{'optimizer':28}" + "".join(f"{name:>12}" for name in LANDSCAPES))
    paths = {name: {} for name in LANDSCAPES}
    for method, make in METHODS.items():
        best = best_runs(make, steps)
        for name, (_, points) in best.items():
            paths[name][method] = points
        print(f"{method:28}" + "".join(f"{rate:12g}" for rate, _ in best.values()), flush=True)

    print("\nWhen each leaves a saddle point, started on its stable manifold and a millionth beside it:\n")
    on_it, beside_it = escape.distances(saddle_steps)
    for method in METHODS:
        print(f"{method:28}{escape.leaves(on_it[method]):>12}{escape.leaves(beside_it[method]):>12}")
    print()
    still, moving, leaving = (args.out / name for name in ("landscapes.png", "landscapes.gif", "saddle.png"))
    pictures.still(still, paths)
    pictures.moving(moving, paths, frames)
    pictures.leaving(leaving, on_it, beside_it)
    for file in (still, moving, leaving):
        print(f"wrote {file}, {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
