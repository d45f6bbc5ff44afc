"""Brings a client's tests onto this machine."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from rows import INSTALLED, Client


def checkout(client: Client, folder: Path) -> Path:
    """The folder with a client's checkout: `folder/name` if it is there, otherwise cloned or unpacked into it."""
    path = folder / client.name
    if path.exists():
        return path
    print(f"fetching {client.name}: {client.url or 'its source distribution'}", flush=True)
    if client.url == INSTALLED:
        return _copied(client, path)
    return _cloned(client, path) if client.url else _unpacked(client, folder)


def _copied(client: Client, path: Path) -> Path:
    """The tests that lie in an installed package, and what only they import, without the package around them.

    With settings, so that pytest does not take this project's.
    """
    (package,) = importlib.util.find_spec(client.packages[0]).submodule_search_locations
    for file in Path(package).rglob("*.py"):
        if file.stem.endswith("_test") or file.stem == "test_utils":
            (to := path / file.relative_to(package)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to)
    (path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", "utf-8")
    return path


def _cloned(client: Client, path: Path) -> Path:
    path.mkdir(parents=True)
    for command in (
        ("init", "--quiet"),
        ("remote", "add", "origin", client.url),
        ("fetch", "--quiet", "--depth", "1", "origin", client.commit),
        ("checkout", "--quiet", "FETCH_HEAD"),
    ):
        done = subprocess.run(["git", *command], cwd=path)
        if done.returncode:
            path.rename(path.with_name(f"{client.name}.incomplete"))
            sys.exit(f"{client.name}: git {command[0]} failed; put a checkout of {client.commit} at {path}")
    return path


def _unpacked(client: Client, folder: Path) -> Path:
    """The source distribution, where the tests are in it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    downloads = folder / "downloads"
    subprocess.run([*pip, f"{client.packages[0]}=={client.commit}", "--dest", str(downloads)], check=True)
    archive = next(downloads.glob(f"{client.packages[0]}-{client.commit}*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return (folder / archive.name.removesuffix(".tar.gz")).rename(folder / client.name)
