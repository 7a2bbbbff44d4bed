"""Test the marks that decide which tests `make check` runs: a test that needs a run cannot be among
them.

What belongs here: `run` and `slow`, as `conftest` and `project` treat them. What does not: what any
marked test expects.
"""

import pytest

from tsfm_pipeline_tests.project import Project


def test_a_test_without_the_mark_cannot_materialise(project: Project) -> None:
    for materialise in (
        lambda: project.materialise("mini"),
        lambda: project.materialise_here("mini", ["tenant_telemetry"]),
        lambda: project.start("mini", ["*"], {}),
    ):
        with pytest.raises(AssertionError, match=r"mark it with pytest\.mark\.run"):
            materialise()
    assert list(project.root.iterdir()) == []


def test_whatever_reaches_the_shared_fleet_has_the_mark(request: pytest.FixtureRequest) -> None:
    reaching = [
        item
        for item in request.session.items
        if "mini_project" in getattr(item, "fixturenames", ())
    ]
    assert [item.nodeid for item in reaching if not item.get_closest_marker("run")] == []
