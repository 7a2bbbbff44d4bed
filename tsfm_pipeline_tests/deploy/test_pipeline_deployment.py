"""Test the pipeline's image, its Ray cluster and the values for Dagster's chart, without a cluster.

What belongs here: commands of the image, which are run; the objects that Kubernetes would get, which
are validated by its own schemas (`kubernetes_validate`); the configuration of Dagster's launcher and
log manager, which Dagster validates; and that the files agree with each other, with `dagster.yaml` and
with the pinned versions. What does not: the chart's templates and the KubeRay operator's schema, which
no package ships. What is checked of a RayCluster beyond its pods is written at `RAY_CLUSTER`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import pytest
import yaml
from dagster._cli.api import grpc_command

from tsfm_pipeline.lake import open_lake
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline_tests.docs.pages import DOCS, commands

if TYPE_CHECKING:
    from dagster_k8s import K8sRunLauncher

DEPLOY = PROJECT_ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
IMAGE = DEPLOY / "pipeline" / "Dockerfile"
JOIN_RAY = DEPLOY / "pipeline" / "join_ray.sh"
VALUES = yaml.safe_load((KUBERNETES / "dagster-values.yaml").read_text())
CONFIG_MAP, CLAIM = yaml.safe_load_all((KUBERNETES / "settings.yaml").read_text())
CLUSTER = yaml.safe_load((KUBERNETES / "ray-cluster.yaml").read_text())
GROUPS = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
SECRETS = {
    "dagster-postgresql-secret": {"postgresql-password"},
    "tsfm-ray": {"RAY_AUTH_TOKEN"},
    "tsfm-storage": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"},
}
RAY_CLUSTER = {
    "spec": {"rayVersion", "headGroupSpec", "workerGroupSpecs"},
    "headGroupSpec": {"serviceType", "rayStartParams", "template"},
    "workerGroupSpecs": {
        *("groupName", "replicas", "minReplicas", "maxReplicas"),
        *("rayStartParams", "template"),
    },
}
"""The fields of ray.io/v1 that the manifest uses, as KubeRay's reference names them: its schema is in
no package. A field that is not listed here is an error, start parameters must be strings that are
options of `ray start`, and a pod template must be valid for Kubernetes.
"""
CHART = {
    *("global", "generatePostgresqlPasswordSecret", "postgresql", "dagsterWebserver"),
    *("dagster-user-deployments", "runLauncher", "computeLogManager", "dagsterDaemon"),
    *("retention", "telemetry", "rabbitmq", "redis", "flower"),
}
"""The sections of the chart's values that the file uses, as the chart's schema names them."""
LAUNCHER = {
    *("imagePullPolicy", "jobNamespace", "loadInclusterConfig", "envConfigMaps", "envSecrets"),
    *("envVars", "volumes", "volumeMounts", "resources", "runK8sConfig"),
}
"""Likewise the values of the launcher that the chart's template passes on."""


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", IMAGE.read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def _image_environment() -> dict[str, str]:
    (stated,) = [value for name, value in _instructions() if name == "ENV"]
    return dict(pair.split("=", 1) for pair in stated.split())


def _pinned(package: str) -> str:
    pins = (PROJECT_ROOT / "constraints.txt").read_text()
    return re.search(rf"^{package}==(\S+)$", pins, re.MULTILINE)[1]  # type: ignore[index]


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", name).lower()


def test_the_image_runs_as_a_user_without_privileges_and_pins_its_base_and_extras() -> None:
    assert [value for name, value in _instructions() if name == "USER"] == ["10001"]
    bases = [value.split()[0] for name, value in _instructions() if name == "FROM"]
    assert all(re.fullmatch(r"[a-z]+:\d+\.\d+\.\d+-[a-z-]+", base) for base in bases)
    extras = re.search(r"\.whl\)\[([\w,-]+)\]", IMAGE.read_text())
    assert extras is not None
    stated = (PROJECT_ROOT / "pyproject.toml").read_text()
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = \[", stated, re.MULTILINE), extra
    copied = [value.split()[-2] for name, value in _instructions() if name == "COPY"]
    assert "/source/deploy/pipeline/join_ray.sh" in copied
    assert JOIN_RAY.exists()


def test_ray_is_found_by_a_login_shell_too() -> None:
    """Debian's /etc/profile sets PATH to folders like /usr/local/bin, without the image's own."""
    (linked,) = [value for name, value in _instructions() if value.startswith("ln -s")]
    target, link = linked.split()[2:]
    assert target == f"{_image_environment()['PATH'].split(':')[0]}/ray"
    assert link == "/usr/local/bin/ray"


@pytest.mark.slow
def test_the_bake_command_fills_the_cache_so_that_a_second_process_compiles_nothing(
    tmp_path: Path,
) -> None:
    (bake,) = [v for n, v in _instructions() if n == "RUN" and "load_forecaster" in v]
    code = re.fullmatch(r'python -c "(.*)"', bake)
    assert code is not None
    environment = {**os.environ, **_image_environment(), "NUMBA_CACHE_DIR": str(tmp_path)}
    environment["PATH"] = os.environ["PATH"]
    kernel = (
        "\nfrom threadpoolctl import threadpool_info as i"
        "\nprint({x['architecture'] for x in i() if x['internal_api'] == 'openblas'})"
    )
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code[1] + kernel],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "{'Haswell'}", "another BLAS kernel than the image pins"
        found.append(
            {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        )
    assert any(name.endswith(".nbc") for name in found[0])
    assert found[0] == found[1], "the second process compiled something"


def test_a_run_becomes_its_command_and_joins_no_ray_network_without_a_token() -> None:
    def run(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", JOIN_RAY, "echo", "the command"],
            env={"PATH": os.environ["PATH"], **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    assert run().stdout == "the command\n"
    refused = run(RAY_HEAD="127.0.0.1:6379", RAY_AUTH_MODE="disabled")
    assert refused.returncode == 2
    assert "RAY_AUTH_MODE is not 'token'" in refused.stderr
    assert refused.stdout == ""


def _validate(stated: dict[str, Any]) -> None:
    """Validate an object by the newest schemas of Kubernetes that the package has; a field that they
    do not know is an error.
    """
    import kubernetes_validate

    kubernetes_validate.validate(stated, kubernetes_validate.latest_version(), strict=True)


def _ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in parameter.opts}


def test_the_settings_and_the_folder_are_objects_of_kubernetes() -> None:
    for stated in (CONFIG_MAP, CLAIM):
        _validate(stated)
    known = set(Settings.model_fields)
    for name in CONFIG_MAP["data"]:
        if name.startswith("TSFM_"):
            assert name.removeprefix("TSFM_").lower().split("__")[0] in known, name
    image = _image_environment()
    for name in ("TSFM_DATA_DIR", "OPENBLAS_CORETYPE", "RAY_AUTH_MODE", "RAY_worker_niceness"):
        assert CONFIG_MAP["data"][name] == image[name]
    made = (KUBERNETES / "settings.yaml").read_text()
    for secret, keys in SECRETS.items():
        (command,) = re.findall(rf"create secret generic {secret} (?:.*\\\n)?.*", made)
        assert set(re.findall(r"--from-literal=([\w-]+)=", command)) == keys


@pytest.mark.heavy
def test_the_pods_of_the_ray_cluster_are_valid_and_ask_for_the_token() -> None:
    assert (CLUSTER["apiVersion"], CLUSTER["kind"]) == ("ray.io/v1", "RayCluster")
    spec = CLUSTER["spec"]
    assert set(spec) <= RAY_CLUSTER["spec"]
    assert set(spec["headGroupSpec"]) <= RAY_CLUSTER["headGroupSpec"]
    assert spec["rayVersion"] == _pinned("ray")
    for worker in spec["workerGroupSpecs"]:
        assert set(worker) == RAY_CLUSTER["workerGroupSpecs"]
        assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    options = _ray_start_options()
    shown = [one for one in commands(DOCS / "scaling.md") if one.startswith("ray start")]
    for command in (JOIN_RAY.read_text(), *shown):
        assert set(re.findall(r"(?<= )--[a-z-]+", command)) <= options
    for group in GROUPS:
        for name, value in group["rayStartParams"].items():
            assert f"--{name}" in options, name
            assert isinstance(value, str), name
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "pod"},
            **group["template"],
        }
        _validate(pod)
        _names_what_there_is(group["template"]["spec"])
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert group["template"]["spec"]["securityContext"]["runAsUser"] == 10001
    head, *_ = GROUPS
    assert head["rayStartParams"]["include-dashboard"] == "false"


def _names_what_there_is(pod: dict[str, Any]) -> None:
    """Fail unless secrets, settings and claims that a pod names are those of settings.yaml."""
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {CLAIM["metadata"]["name"]}
    for container in pod["containers"]:
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts <= {volume["name"] for volume in pod["volumes"]}
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                assert source["secretRef"]["name"] in SECRETS
            else:
                assert source["configMapRef"]["name"] == CONFIG_MAP["metadata"]["name"]
        for variable in container.get("env", []):
            if secret := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert secret["key"] in SECRETS[secret["name"]]


def _volume_at(path: str, volumes: list[Any], mounts: list[Any]) -> dict[str, Any]:
    """The volume that holds a path, without its name."""
    within = [one for one in mounts if Path(path).is_relative_to(one["mountPath"])]
    mount = max(within, key=lambda one: len(one["mountPath"]))
    (volume,) = [one for one in volumes if one["name"] == mount["name"]]
    return {key: value for key, value in volume.items() if key != "name"}


def test_copies_of_parts_lie_in_each_pod_and_not_on_the_shared_folder() -> None:
    """Whatever has the settings has a disk of its own for the copies."""
    pods = [
        (spec["volumes"], container["volumeMounts"])
        for spec in (group["template"]["spec"] for group in GROUPS)
        for container in spec["containers"]
    ]
    told = [
        VALUES["runLauncher"]["config"]["k8sRunLauncher"],
        *VALUES["dagster-user-deployments"]["deployments"],
    ]
    for one in told:
        assert {"name": CONFIG_MAP["metadata"]["name"]} in one["envConfigMaps"]
        pods.append((one["volumes"], one["volumeMounts"]))
    values = CONFIG_MAP["data"]
    settings = Settings(
        **{name: Path(values[f"TSFM_{name.upper()}"]) for name in ("data_dir", "cache_dir")},
        lake_url=values["TSFM_LAKE_URL"],
    )
    cache = str(open_lake(settings).cache)
    claim = {"persistentVolumeClaim": {"claimName": CLAIM["metadata"]["name"]}}
    for volumes, mounts in pods:
        assert _volume_at(cache, volumes, mounts) == {"emptyDir": {}}
        assert _volume_at(str(settings.records_root), volumes, mounts) == claim


@pytest.fixture
def launcher(tmp_path: Path) -> "K8sRunLauncher":
    """The launcher that Dagster makes of the chart's values, as the chart's template writes them."""
    stated = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    assert set(stated) == LAUNCHER
    kubeconfig = tmp_path / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://kubernetes.invalid"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [cluster],
                "contexts": [context],
                "current-context": "c",
                "users": [{"name": "u", "user": {}}],
            }
        )
    )
    config = {_snake(name): value for name, value in stated.items()} | {
        "env_config_maps": [source["name"] for source in stated["envConfigMaps"]],
        "env_secrets": [source["name"] for source in stated["envSecrets"]],
        "run_k8s_config": {_snake(k): v for k, v in stated["runK8sConfig"].items()},
        "dagster_home": VALUES["global"]["dagsterHome"],
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "service_account_name": "dagster",
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
    }
    overrides = {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(overrides))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        return cast("K8sRunLauncher", instance.run_launcher)


@pytest.mark.heavy
def test_the_job_of_a_run_is_valid_and_starts_the_images_entry_point(
    launcher: "K8sRunLauncher",
) -> None:
    import kubernetes.client
    from dagster_k8s.job import construct_dagster_k8s_job

    run = dg.DagsterRun(job_name="nightly")
    context = launcher.get_container_context_for_run(run)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(job_image="IMAGE:TAG", run_launcher=launcher),
        args=["dagster", "api", "execute_run"],
        job_name="run",
        user_defined_k8s_config=context.run_k8s_config,
    )
    stated = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    _validate(stated)
    pod = stated["spec"]["template"]["spec"]
    pod["volumes"] = [volume for volume in pod["volumes"] if "configMap" not in volume]
    (container,) = pod["containers"]
    container["volumeMounts"] = [
        mount for mount in container["volumeMounts"] if "subPath" not in mount
    ]
    _names_what_there_is(pod)
    assert "command" not in container, "it would replace the image's entry point"
    assert container["args"][0] == "dagster"
    (entry,) = [value for name, value in _instructions() if name == "ENTRYPOINT"]
    assert entry == '["/bin/sh", "/usr/local/bin/join_ray.sh"]'
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    head = f"{CLUSTER['metadata']['name']}-head-svc:6379"
    assert told["RAY_HEAD"] == head
    assert {"secretRef": {"name": "tsfm-ray"}} in container["envFrom"]
    assert pod["securityContext"]["runAsUser"] == 10001


def test_the_values_have_the_charts_sections_and_one_daemon() -> None:
    assert set(VALUES) == CHART
    stated = (KUBERNETES / "dagster-values.yaml").read_text()
    assert f"--version {_pinned('dagster')} " in stated
    assert "replicas" not in VALUES["dagsterDaemon"], "the chart fixes it at 1"
    assert VALUES["postgresql"]["enabled"] is False
    assert VALUES["global"]["dagsterHome"] == _image_environment()["DAGSTER_HOME"]
    images = [VALUES["dagsterWebserver"]["image"], VALUES["dagsterDaemon"]["image"]]
    locations = VALUES["dagster-user-deployments"]["deployments"]
    assert all(image == images[0] for image in [*images, *(one["image"] for one in locations)])
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())["load_from"]
    modules = {
        one["python_module"]["location_name"]: one["python_module"]["module_name"]
        for one in workspace
    }
    options = {option for parameter in grpc_command.params for option in parameter.opts}
    for location in locations:
        option, module = location["dagsterApiGrpcArgs"]
        assert option in options
        assert module == modules[location["name"]]


def test_the_values_say_of_runs_what_dagster_yaml_says() -> None:
    instance = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    daemon = VALUES["dagsterDaemon"]
    coordinator = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    runs = instance["concurrency"]["runs"]
    assert {_snake(name): value for name, value in coordinator.items()} == runs
    monitoring = {_snake(name): value for name, value in daemon["runMonitoring"].items()}
    for name, value in instance["run_monitoring"].items():
        if name != "max_runtime_seconds":  # the chart's template does not pass it on
            assert monitoring[name] == value
    assert {_snake(k): v for k, v in daemon["sensors"].items()} == instance["sensors"]
    kept = {kind: VALUES["retention"][kind]["purgeAfterDays"] for kind in ("schedule", "sensor")}
    kept["sensor"].pop("started")
    assert kept == {
        kind: stated["purge_after_days"] for kind, stated in instance["retention"].items()
    }


@pytest.mark.heavy
def test_dagster_takes_the_log_manager_of_the_values(tmp_path: Path) -> None:
    from dagster_aws.s3 import S3ComputeLogManager

    (stated,) = VALUES["computeLogManager"]["config"].values()
    assert VALUES["computeLogManager"]["type"] == S3ComputeLogManager.__name__
    config = {_snake(name): value for name, value in stated.items()}
    written = {"module": "dagster_aws.s3", "class": "S3ComputeLogManager", "config": config}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"compute_logs": written}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
