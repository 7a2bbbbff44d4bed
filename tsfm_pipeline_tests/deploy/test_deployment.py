"""Test the deployment files as far as files can be tested: they parse, and what they name exists.

What belongs here: `deploy` without alerts and dashboard, and the release workflow. What does not:
running them, which takes a Docker engine, a cluster or a cloud.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsfm_pipeline.serving.settings import TOKEN_NAMES, ServingSettings
from tsfm_pipeline.settings import PROJECT_ROOT

DEPLOY = PROJECT_ROOT / "deploy"
CHART = DEPLOY / "helm" / "tsfm-pipeline"
CLOUD_RUN = ("cloudrun.yaml", "cloudrun-gpu.yaml")
PROBED = {"/health", "/ready"}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def _environment_of(names: list[str]) -> None:
    """Fail unless every TSFM_SERVING_* variable is a setting of the service."""
    for name in names:
        parts = name.removeprefix("TSFM_SERVING_").lower().split("__")
        fields: Any = ServingSettings.model_fields
        assert parts[0] in fields, name
        for part in parts[1:]:
            fields = fields[parts[0]].annotation.model_fields
            assert part in fields, name


def test_the_image_runs_as_a_user_without_privileges_and_pins_its_base() -> None:
    instructions = _instructions()
    assert [value for name, value in instructions if name == "USER"] == ["10001"]
    bases = [value.split()[0] for name, value in instructions if name == "FROM"]
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", base) for base in bases)


def test_every_file_that_the_image_copies_exists() -> None:
    copied = [value.split() for name, value in _instructions() if name == "COPY"]
    for parts in copied:
        sources = [part for part in parts[:-1] if not part.startswith("--")]
        if not any(part.startswith("--from") for part in parts):
            assert all((PROJECT_ROOT / source).exists() for source in sources)
    ignored = (PROJECT_ROOT / ".dockerignore").read_text().split("\n")
    needed = subprocess.run(
        ["git", "ls-files", "--", "tsfm_pipeline", "data"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    folders = [line for line in ignored if line and not line.startswith("#")]
    assert [p for p in needed if any(p.startswith(f"{folder}/") for folder in folders)] == []


def test_the_command_of_the_image_exists_and_listens_on_its_port() -> None:
    (command,) = [json.loads(value) for name, value in _instructions() if name == "CMD"]
    assert command[:2] == ["sh", "-c"]
    assert command[2].startswith("exec tsfm-pipeline serve ")
    assert '--port "$PORT"' in command[2]
    help_text = subprocess.run(
        [sys.executable, "-m", "tsfm_pipeline.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
    ).stdout
    for option in re.findall(r"--[a-z]+", command[2]):
        assert option in help_text


def test_the_image_warms_what_the_service_compiles() -> None:
    (warm,) = [v for n, v in _instructions() if n == "RUN" and "load_forecaster" in v]
    code = re.fullmatch(r'python -c "(.*)"', warm)
    assert code is not None
    subprocess.run([sys.executable, "-c", code[1]], check=True)


@pytest.mark.parametrize("name", CLOUD_RUN)
def test_cloud_run_probes_routes_that_exist_and_takes_the_token_from_a_secret(name: str) -> None:
    spec = _yaml(DEPLOY / name)["spec"]["template"]["spec"]
    assert spec["containerConcurrency"] == 80
    (container,) = spec["containers"]
    (port,) = [entry["containerPort"] for entry in container["ports"]]
    for probe in ("startupProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in PROBED
        assert asked["port"] == port
    environment = {entry["name"]: entry for entry in container["env"]}
    _environment_of([n for n in environment if n not in TOKEN_NAMES])
    assert "secretKeyRef" in environment["TSFM_SERVING_TOKEN"]["valueFrom"]
    exposed = [value for instruction, value in _instructions() if instruction == "EXPOSE"]
    assert exposed == [str(port)]


def test_cloud_build_builds_tests_pushes_and_deploys_in_this_order() -> None:
    build = _yaml(DEPLOY / "cloudbuild.yaml")
    assert [step["id"] for step in build["steps"]] == ["build", "smoke-test", "push", "deploy"]
    text = (DEPLOY / "cloudbuild.yaml").read_text()
    for path in re.findall(r"deploy/[\w.-]+\.(?:py|yaml)", text):
        assert (PROJECT_ROOT / path).exists()
    assert all(re.search(r":[\d.]+", step["name"]) for step in build["steps"])


def test_every_value_that_a_template_reads_exists_in_the_values() -> None:
    values = _yaml(CHART / "values.yaml")
    read = set()
    for template in (CHART / "templates").iterdir():
        read |= set(re.findall(r"\.Values\.([\w.]+)", template.read_text()))
    for path in read:
        found: Any = values
        for part in path.split("."):
            assert part in found, path
            found = found[part]

    def leaves(value: Any, prefix: str) -> list[str]:
        if not isinstance(value, dict) or not value:
            return [prefix]
        return [leaf for name, v in value.items() for leaf in leaves(v, f"{prefix}.{name}")]

    for name in values:
        for leaf in leaves(values[name], name):
            assert any(leaf == path or leaf.startswith(f"{path}.") for path in read), leaf


def _rendered(template: Path) -> list[dict[str, Any]]:
    """Return a template with every expression replaced by a word, as YAML; blocks are kept."""
    lines = [
        line
        for line in template.read_text().splitlines()
        if not re.fullmatch(r"\s*\{\{-? ?(if|else|end|range).*\}\}", line)
    ]
    text = "\n".join(lines)
    text = re.sub(r'"\{\{.*\}\}"', "word", text)
    text = re.sub(r"\{\{-? ?(?:include|toYaml)[^}]*nindent[^}]*\}\}", "{a: word}", text)
    return [part for part in yaml.safe_load_all(re.sub(r"\{\{.*?\}\}", "word", text)) if part]


def test_the_chart_has_what_a_service_needs() -> None:
    files = [p for p in (CHART / "templates").iterdir() if p.suffix == ".yaml"]
    kinds = {part["kind"]: part for file in files for part in _rendered(file)}
    assert set(kinds) == {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
    }
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    user = [value for name, value in _instructions() if name == "USER"]
    assert [str(pod["securityContext"]["runAsUser"])] == user
    (container,) = pod["containers"]
    probes = {
        container[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert probes == PROBED
    for part in (container, *pod["initContainers"]):
        assert part["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    _environment_of(
        [
            e["name"]
            for e in container["env"]
            if e["name"].startswith("TSFM_") and e["name"] not in TOKEN_NAMES
        ]
    )


def test_the_release_builds_tests_scans_and_then_pushes_one_tag() -> None:
    workflow = _yaml(PROJECT_ROOT / ".github" / "workflows" / "release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as a boolean
    steps = workflow["jobs"]["image"]["steps"]
    text = [
        f"{step.get('name', '')} {step.get('uses', '')} {step.get('run', '')}" for step in steps
    ]
    order = [
        next(i for i, step in enumerate(text) if word in step)
        for word in ("docker build", "smoke_test.py", "trivy", "docker push")
    ]
    assert order == sorted(order)
    assert all("@v" in s["uses"] or re.search(r"@\d", s["uses"]) for s in steps if "uses" in s)
    assert ":latest" not in (PROJECT_ROOT / ".github" / "workflows" / "release.yml").read_text()
