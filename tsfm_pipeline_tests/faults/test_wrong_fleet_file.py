"""Test a run of one fleet while the file of another fleet is wrong.

What belongs here: the run, in processes of its own. What does not: how wrong files are found and
named (`fleets.test_spec`, `defs.test_automation`, `cli.test_doctor`).
"""

from pathlib import Path

import pytest

from tsfm_pipeline_tests.project import Project

pytestmark = [pytest.mark.run, pytest.mark.heavy]


def test_a_run_goes_on_and_its_log_names_the_wrong_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.add_fleet("good", kind="synthetic", tenants=2, days=3)
    (project.specs_dir / "zz-other.yaml").write_text("kind: table\ntitle: [oops\n")
    done = project.materialise("good", ["tenant_telemetry"])
    assert done.returncode == 0, done.stdout
    assert project.parts("good", "tenant_telemetry")
    assert "zz-other.yaml: not valid YAML" in done.stdout
    wrong = project.materialise("zz-other", ["tenant_telemetry"])
    assert wrong.returncode != 0
    assert "zz-other.yaml: not valid YAML" in wrong.stdout
