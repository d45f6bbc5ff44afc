"""Brings a client's tests onto this machine."""

import subprocess
import sys
import tarfile
from pathlib import Path

from rows import Client


def checkout(client: Client, folder: Path) -> Path:
    """The folder with a client's checkout: `folder/name` if it is there, otherwise cloned or unpacked into it."""
    path = folder / client.name
    if path.exists():
        return path
    print(f"fetching {client.name}: {client.url or 'its source distribution'}", flush=True)
    return _cloned(client, path) if client.url else _unpacked(client, folder)


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
