"""What surrounds the code: workflows name targets that exist, forms ask for what helps, versions agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import gdjax

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def jobs(name: str) -> dict[str, Any]:
    return read(GITHUB / "workflows" / f"{name}.yml")["jobs"]


def test_there_are_workflows():
    assert [path.stem for path in WORKFLOWS] == ["docs", "release", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_job_has_what_it_needs_and_no_more(path: Path):
    workflow = read(path)
    assert workflow.keys() >= {"name", True, "permissions", "jobs"}  # YAML 1.1 reads `on` as a boolean
    assert workflow["permissions"] == {"contents": "read"}
    names = set(workflow["jobs"])
    for name, job in workflow["jobs"].items():
        assert job["runs-on"] == "ubuntu-latest" and job["timeout-minutes"] <= 60, name
        assert {job.get("needs", name)} <= names
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w/.]+", step.get("uses", "a/b@v1")), step
            assert "${{" not in step.get("run", "") or "matrix." in step["run"], "what others write goes through env"


def commands(job: Any) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_make_targets_of_workflows_exist():
    found = [line for path in WORKFLOWS for job in read(path)["jobs"].values() for line in commands(job)]
    made = [word for line in found if line.startswith("make ") for word in line.split(" ARGS=")[0].split()[1:]]
    entries = [entry["target"] for entry in jobs("tests")["jax"]["strategy"]["matrix"]["include"]]
    wanted = {word for word in made if re.fullmatch("[a-z-]+", word)} | set(entries)
    assert {"lint", "types", "test", "docs", "examples", "test-oldest", "test-newest"} <= wanted <= TARGETS


def test_the_pythons_tested_are_those_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {x.rpartition(" ")[2] for x in project["classifiers"] if re.search(r"Python :: 3\.\d+$", x)}
    tested = set(jobs("tests")["test"]["strategy"]["matrix"]["python"])
    assert named <= tested and {"3.11", "3.14"} <= tested


def test_a_release_is_checked_before_it_is_published():
    assert read(GITHUB / "workflows" / "release.yml")[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+*"]}}
    build, publish = jobs("release")["build"], jobs("release")["publish"]
    assert publish["needs"] == "build" and publish["permissions"] == {"id-token": "write"}
    assert "permissions" not in build and not any("run" in step for step in publish["steps"])
    written = "\n".join(commands(build))
    version, told = re.search(r"s/\^(.*?) = ", written), 'grep -qF "## [${TAG#v}]" CHANGELOG.md'
    assert version and f'{version[1]} = "{gdjax.__version__}"\n' in (ROOT / "gdjax" / "__init__.py").read_text("utf-8")
    assert told in written and f"## [{gdjax.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "twine check --strict" in written


@pytest.mark.parametrize(
    "name, wanted", [("bug", {"program", "result", "explain", "versions"}), ("method", {"paper", "code", "evidence"})]
)
def test_forms_ask_for_what_helps(name: str, wanted: set[str]):
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form.keys() >= {"name", "description", "body"}
    parts = {part["id"]: part for part in form["body"]}
    assert len(parts) == len(form["body"]) and all(
        part["attributes"]["label"] for part in form["body"] if part["id"] != "parts"
    )
    assert {id for id, part in parts.items() if part.get("validations", {}).get("required")} == wanted
    assert {part["type"] for part in form["body"]} <= {"textarea", "input", "checkboxes", "dropdown", "markdown"}


def test_the_citation_is_of_this_version():
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["version"] == gdjax.__version__
    assert citation.keys() >= {"message", "title", "authors", "abstract", "license", "keywords", "type"}
    assert all(author.keys() <= {"name", "family-names", "given-names", "orcid"} for author in citation["authors"])


def test_one_address():
    """That of pyproject.toml, which the site reads, stands wherever a file names the project's own."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    home, site = (urls[name].removeprefix("https://") for name in ("Repository", "Documentation"))
    assert all(url.startswith((f"https://{home}", f"https://{site}")) for url in urls.values())
    own = re.compile(r"github(?:\.com)?/[\w.-]+/gdjax\b|[\w.-]+\.github\.io/[\w-]*")
    said = {home, home.replace(".com", ""), site.rstrip("/"), site}
    folders = [
        ".",
        "docs",
        "docs/_site",
        "examples",
        "examples/notebooks",
        "benchmarks",
        ".github",
        ".github/ISSUE_TEMPLATE",
    ]
    kinds = {".md", ".cff", ".yml", ".toml", ".py", ".ipynb"}
    files = [path for folder in folders for path in (ROOT / folder).iterdir() if path.suffix in kinds]
    found = {path.relative_to(ROOT).as_posix(): set(own.findall(path.read_text("utf-8"))) for path in files}
    assert {name: names - said for name, names in found.items() if any("gdjax" in x for x in names - said)} == {}
    needed = {"README.md", "CITATION.cff", "SECURITY.md", "CONTRIBUTING.md", ".github/ISSUE_TEMPLATE/config.yml"}
    assert {name for name in needed if not found[name]} == set()


def test_the_pages_that_a_contributor_looks_for_are_there():
    for name in ("CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT"):
        text = (ROOT / f"{name}.md").read_text("utf-8")
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert "://" in link or (ROOT / link).exists(), link
        assert 5 < len(text.splitlines()) < 40
