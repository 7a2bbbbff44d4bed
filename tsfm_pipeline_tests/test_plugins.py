"""Test what other packages add: found by name, left out where an extra is missing, refused where it
is wrong.
"""

import logging

import pytest

from tsfm_pipeline.plugins import (
    COMMANDS,
    FORECASTERS,
    GROUPS,
    OWN_DISTRIBUTION,
    OWN_FORECASTERS_VARIABLE,
    OWN_MODELS_VARIABLE,
    REPORT_SECTIONS,
    SERVING_MODELS,
    YARDSTICKS,
    PluginError,
    forget,
    found,
    installed,
)
from tsfm_pipeline_tests.packages import Site

MAKE = "def make(*args):\n    return args\n"


def test_by_default_the_commands_of_our_own_studies_are_installed_and_nothing_else() -> None:
    """Where this fails for want of a study, install the package again: `make check` does it."""
    by_default = {group: list(found(group)) for group in GROUPS}
    of_studies = {
        COMMANDS: ["market", "policy-search", "time-r1"],
        YARDSTICKS: ["sp500-volatility"],
    }
    assert by_default == {group: [] for group in GROUPS} | of_studies


def test_what_is_installed_is_found_in_the_order_of_the_names_with_its_origin(site: Site) -> None:
    site.install("second-package", MAKE, {FORECASTERS: {"a": "make", "c": "make"}}, version="2.5")
    site.install("first", MAKE, {FORECASTERS: {"b": "make"}, REPORT_SECTIONS: {"x": "make"}})
    assert list(found(FORECASTERS)) == ["a", "b", "c"]
    assert found(FORECASTERS)["b"](1, 2) == (1, 2)
    origins = [
        (plugin.name, plugin.distribution, plugin.version) for plugin in installed(FORECASTERS)
    ]
    assert origins == [
        ("a", "second-package", "2.5"),
        ("b", "first", "1.0"),
        ("c", "second-package", "2.5"),
    ]


@pytest.mark.parametrize(
    ("value", "requires", "remedy"),
    [
        ("make", ("no-such-library>=3; extra == 'gpu'", "numpy"), "pip install 'heavy[gpu]'"),
        ("make [fast]", ("other; extra == 'gpu'",), "pip install 'heavy[fast]'"),
        (
            "make",
            ('python-something; extra == "gpu"',),
            "install what provides no_such_library, or an extra of heavy: gpu",
        ),
        ("make", (), "install what provides no_such_library"),
    ],
)
def test_one_whose_extra_is_missing_is_left_out_and_named_once(
    site: Site, caplog: pytest.LogCaptureFixture, value: str, requires: tuple[str, ...], remedy: str
) -> None:
    site.install(
        "heavy",
        f"import no_such_library.part\n{MAKE}",
        {FORECASTERS: {"deep": value}},
        requires=requires,
    )
    site.install("light", MAKE, {FORECASTERS: {"plain": "make"}})
    with caplog.at_level(logging.WARNING):
        assert list(found(FORECASTERS)) == list(found(FORECASTERS)) == ["plain"]
    (record,) = caplog.records
    assert "deep of heavy 1.0 is left out: there is no module 'no_such_library'" in record.message
    assert record.message.endswith(f"to use it: {remedy}")


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("1 / 0\n", "make", "ZeroDivisionError: division by zero"),
        (MAKE, "mkae", "AttributeError: .*mkae"),
        ("import broken.part\n", "make", "ModuleNotFoundError: .*broken.part"),
        ("import tsfm_pipeline.no_such_room\n", "make", "ModuleNotFoundError: .*no_such_room"),
        ("from numpy import no_such_name\n", "make", "ImportError: .*no_such_name"),
        ("def make(:\n", "make", "SyntaxError"),
    ],
)
def test_a_broken_one_is_an_error_that_names_it_and_its_distribution(
    site: Site, source: str, value: str, reason: str
) -> None:
    site.install("broken", source, {FORECASTERS: {"bad": value}})
    with pytest.raises(
        PluginError, match=rf"forecasters: bad of broken 1\.0 failed to load: {reason}"
    ):
        found(FORECASTERS)


def test_what_is_of_another_kind_is_refused(site: Site) -> None:
    site.install("number", "make = 3\n", {FORECASTERS: {"three": "make"}})
    with pytest.raises(
        PluginError, match=r"three of number 1\.0 is of type int; it must be callable"
    ):
        found(FORECASTERS)


def test_a_name_that_is_built_in_is_refused_before_anything_is_loaded(site: Site) -> None:
    site.install("clashing", "1 / 0\n", {FORECASTERS: {"last_value": "make"}})
    with pytest.raises(
        PluginError, match=r"last_value of clashing 1\.0 has the name of something built in"
    ):
        found(FORECASTERS, {"last_value"})


def test_a_name_that_two_packages_give_is_refused(site: Site) -> None:
    site.install("one", MAKE, {FORECASTERS: {"mine": "make"}})
    site.install("two", MAKE, {FORECASTERS: {"mine": "make"}})
    with pytest.raises(PluginError, match=r"mine of one 1\.0 has the name of mine of two 1\.0"):
        found(FORECASTERS)


@pytest.mark.parametrize("name", ["rule:mine", "config:ctx5", "two words", "-x"])
def test_what_is_no_name_is_refused(site: Site, name: str) -> None:
    site.install("odd", MAKE, {FORECASTERS: {name: "make"}})
    with pytest.raises(PluginError, match="is not a valid name; allowed are letters, digits"):
        found(FORECASTERS)


@pytest.mark.parametrize(
    ("group", "variable"),
    [
        (FORECASTERS, OWN_FORECASTERS_VARIABLE),
        (REPORT_SECTIONS, OWN_FORECASTERS_VARIABLE),
        (SERVING_MODELS, OWN_MODELS_VARIABLE),
    ],
)
def test_what_is_of_the_own_studies_takes_part_only_where_it_is_asked_for(
    group: str, variable: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sections have the names of their forecasters."""
    site.install(OWN_DISTRIBUTION, "", {group: {"costly": "__name__", "other": "__name__"}})
    assert installed(group) == ()
    monkeypatch.setenv(variable, "costly, ")
    forget()
    assert [plugin.name for plugin in installed(group)] == ["costly"]
    monkeypatch.setenv(variable, "costly,nothing")
    forget()
    if group == REPORT_SECTIONS:
        assert [plugin.name for plugin in installed(group)] == ["costly"]
    else:
        with pytest.raises(PluginError, match=f"{variable} names 'nothing'; allowed: costly"):
            installed(group)


def test_a_digest_of_what_a_plugin_reads_is_part_of_its_version(site: Site) -> None:
    source = "class Make:\n    digest = staticmethod(lambda: 'abc')\n\nmake = Make()\n"
    site.install("reader", source, {FORECASTERS: {"reader": "make"}}, version="2.0")
    assert [plugin.version for plugin in installed(FORECASTERS)] == ["2.0+abc"]
