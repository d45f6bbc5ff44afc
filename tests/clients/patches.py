"""Applies each file of `examples/patches/` to a copy of its client, and trains there with the names that it adds.

    make patches                     all of them
    make patches ARGS="maxtext"      one
    make patches ARGS="--sources DIR"

Optax is there too, as for a user. `programs/patched_NAME.py` is what runs; results go to `out/clients/results/`.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rows import CLIENTS, Client, mocks
from run import OUT, ROOT, tested
from sources import checkout

PATCHES = {path.stem: path for path in sorted((ROOT / "examples" / "patches").glob("*.patch"))}
MORE = {  # what the example imports beside the library
    "flax": dict(paths=("examples/gemma",), options=mocks("clu grain sentencepiece tensorflow tensorflow_datasets")),
}


def patched(client: Client, sources: Path) -> Path:
    """A new copy of a client's checkout, with the patch applied."""
    path = OUT / "patched" / client.name
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(checkout(client, sources), path, ignore=shutil.ignore_patterns(".git"), symlinks=True)
    # It lies in this project's repository, whose folder git would take for that of the patch.
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(path.parent)}
    subprocess.run(["git", "apply", "--verbose", str(PATCHES[client.name])], cwd=path, env=env, check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(PATCHES))
    parser.add_argument("--sources", type=Path, default=OUT / "sources", help="a folder with one checkout per client")
    args = parser.parse_args()
    (OUT / "results").mkdir(parents=True, exist_ok=True)
    failed = 0
    for client in CLIENTS:
        if client.name not in (args.clients or PATCHES):
            continue
        program = f"patched_{client.name}"
        run = dataclasses.replace(client, name=program, tests=(), mention=(), programs=(f"{program}.py",))
        run = dataclasses.replace(run, **MORE.get(client.name, {}))
        results = tested(run, patched(client, args.sources.resolve()), "optax", None)
        for test, result in results.items():
            print(f"{test} {result.outcome} {result.reason}", flush=True)
        failed += sum(result.outcome != "passed" for result in results.values()) or not results
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
