"""Test the wheel: its content, where an installed program finds it, and that every imported package
is declared.

What belongs here: the wheel that the build hook makes, and the settings of a program that runs from
it. What does not: installing it into an empty environment and running a fleet there (`.ci/wheel`).
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tsfm_pipeline
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.cli.commands import Desk

pytestmark = pytest.mark.heavy

PYPROJECT = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGED = "tsfm_pipeline/packaged"
OWN = {
    "tsfm_pipeline",
    "tsfm_pipeline_tests",
    "hatch_build",
    *(path.stem for path in (PROJECT_ROOT / "benchmarks").glob("*.py")),
}
OPTIONAL = ("adbc_driver_postgresql", "fev", "mlflow")
"""Imported by what is skipped or refused where it is absent, and says how to install it."""


def build(root: Path, target: str, out: Path) -> Path:
    """Build a wheel or an sdist of the project in `root`, in this environment, and return its
    file.
    """
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        target,
        "--directory",
        str(out),
    ]
    built = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = out.iterdir()
    return file


def git(*arguments: str) -> str:
    command = ["git", "-C", str(PROJECT_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of this checkout, built while a fleet of somebody's own lies in
    `data/fleets`.
    """
    if not (PROJECT_ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are tracked is only known to git")
    folder = tmp_path_factory.mktemp("wheel")
    own = PROJECT_ROOT / "data" / "fleets" / f"own-{os.getpid()}.txt"
    own.write_text("never packed")
    try:
        wheel = build(PROJECT_ROOT, "wheel", folder / "dist")
    finally:
        own.unlink()
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_installed(site: Path, folder: Path, *arguments: str, **variables: str) -> str:
    """What the command prints, run from the unpacked wheel in a folder, without settings of the
    caller.
    """
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("TSFM_", "DAGSTER_"))
    }
    run = subprocess.run(
        [sys.executable, "-m", "tsfm_pipeline.cli", *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(site), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_wheel_holds_the_package_and_what_is_tracked_beside_it_and_nothing_else(
    installed: Path,
) -> None:
    found = {
        path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()
    }
    code = git("ls-files", "--cached", "--others", "--exclude-standard", "tsfm_pipeline").split()
    data = git(
        "ls-files",
        "data/fleets",
        "data/markets",
        "data/checkpoints",
        "data/policies",
        "data/time_r1",
        "dagster.yaml",
    ).split()
    expected = {*code, f"{PACKAGED}/COMMIT", *(f"{PACKAGED}/{path}" for path in data)}
    assert {path for path in found if ".dist-info/" not in path} == expected
    assert "tsfm_pipeline/py.typed" in found
    assert f"{PACKAGED}/data/checkpoints/bundled/model.safetensors" in found


def test_version_and_commit_come_from_one_place(installed: Path, tmp_path: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    assert f"\nVersion: {tsfm_pipeline.__version__}\n" in metadata.read_text(encoding="utf-8")
    said = run_installed(installed, tmp_path, "--version")
    assert said == Desk(tmp_path, {}).run("--version").output
    assert re.fullmatch(
        rf"tsfm-pipeline {tsfm_pipeline.__version__} \(commit {git('rev-parse', 'HEAD').strip()}\+?\)\n",
        said,
    )


def test_a_build_that_has_no_git_to_ask_says_so_and_an_sdist_passes_its_commit_on(
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    (tree / "data" / "fleets").mkdir(parents=True)
    for file in (
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "LICENSE",
        "dagster.yaml",
        "tsfm_pipeline/__init__.py",
    ):
        (tree / file).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT_ROOT / file, tree / file)
    for number, commit in enumerate(("unknown", "0123abc+")):
        with ZipFile(build(tree, "wheel", tmp_path / f"dist{number}")) as archive:
            assert archive.read(f"{PACKAGED}/COMMIT").decode() == f"{commit}\n"
            assert f"{PACKAGED}/dagster.yaml" in archive.namelist()
        (tree / "COMMIT").write_text("0123abc+\n")


def test_an_installed_program_keeps_its_data_in_the_working_directory_and_knows_the_shipped_fleets(
    installed: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path, {})
    desk.table("shop.csv")
    shown = run_installed(installed, desk.tables, "fleet", "init", "shop.csv")
    assert (desk.tables / "data" / "fleets" / "shop.yaml").is_file(), shown
    assert " demo " in (listed := run_installed(installed, desk.tables, "fleet", "list"))
    assert " shop " in listed
    run_installed(installed, desk.tables, "fleet", "check", "shop")
    assert sorted(path.name for path in desk.tables.iterdir()) == ["data", "shop.csv"]
    elsewhere = run_installed(
        installed,
        desk.tables,
        "fleet",
        "init",
        "shop.csv",
        TSFM_DATA_DIR=str(tmp_path / "elsewhere"),
    )
    assert (tmp_path / "elsewhere" / "fleets" / "shop.yaml").is_file(), elsewhere


def test_a_fleet_of_ones_own_counts_instead_of_a_shipped_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsfm_pipeline.fleets.spec import load_specs

    for name in [name for name in os.environ if name.startswith("TSFM_")]:
        monkeypatch.delenv(name)
    shipped = set(load_specs(PROJECT_ROOT / "data" / "fleets"))
    assert set(load_specs(*Settings(data_dir=tmp_path).known_specs_dirs)) == shipped
    own = tmp_path / "fleets"
    own.mkdir()
    for name in ("demo", "shop"):
        (own / f"{name}.yaml").write_text(
            yaml.safe_dump({"kind": "synthetic", "title": f"My {name}", "tenants": 2, "days": 3})
        )
    specs = load_specs(*Settings(data_dir=tmp_path).known_specs_dirs)
    assert set(specs) == shipped | {"shop"}
    assert (specs["demo"].title, specs["synthetic"].title) == ("My demo", "Synthetic fleet")
    alone = Settings(data_dir=tmp_path, specs_dir=own)
    assert set(load_specs(*alone.known_specs_dirs)) == {"demo", "shop"}


def test_every_package_that_is_imported_is_declared() -> None:
    project = PYPROJECT["project"]
    required = names(project["dependencies"])
    extras = {name: names(needed) for name, needed in project["optional-dependencies"].items()}
    folders = (path.parent for path in (PROJECT_ROOT / "tsfm_pipeline").glob("*/__init__.py"))
    rooms = {path.name: f"tsfm_pipeline/{path.name}" for path in folders}
    service, studies = rooms.pop("serving"), rooms.pop("studies")
    assert undeclared(required | extras["qdrant"] | extras["ray"], *rooms.values()) == set()
    assert undeclared(required | extras["serving"], service) == set()
    assert undeclared(required | extras["studies"] | extras["mlflow"], studies) == set()
    developing = set().union(*extras.values())
    assert undeclared(required | developing, "tsfm_pipeline_tests", "benchmarks") == set()


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


@cache
def providers() -> Mapping[str, list[str]]:
    return packages_distributions()


def undeclared(declared: set[str], *folders: str) -> set[str]:
    """Top-level modules that are imported below the folders and that no declared distribution
    provides.
    """
    imported: set[str] = set()
    for module in chain.from_iterable((PROJECT_ROOT / folder).rglob("*.py") for folder in folders):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {*OWN, *OPTIONAL}
    return {
        name
        for name in others
        if not {canonicalize_name(found) for found in providers().get(name, ())} & declared
    }
