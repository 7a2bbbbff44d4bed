"""Test that `tables.lock` is up to date, and distinguishes a changed table from changed code that
does not change any table.

What belongs here: the tables of this repository, the lock and its command. What does not: what a
digest sees of any source text (`test_code_digests`).
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tsfm_pipeline.catalogue.code_digests import Package
from tsfm_pipeline.catalogue.source_names import read_sources
from tsfm_pipeline.catalogue.tables import TABLES
from tsfm_pipeline.catalogue.tables_lock import (
    FIELDS_LEFT_OUT,
    LEFT_OUT,
    LOCK_FILE,
    PACKAGE,
    code_digests,
    open_package,
    problems,
    read_lock,
    updated,
)
from tsfm_pipeline.steps import lock_tables
from tsfm_pipeline.steps.lock_tables import CODE, main

VERSIONS = {name: table.version for name, table in TABLES.items()}
SHORT = {"cold_start_tuning_losses", "cold_start_losses"}
MODEL = {"config_portfolio", "forecast_grid", "validation_losses", "recommendations"} | SHORT
DECIDED = {"autoresearch_forecasts", "scored_forecasts", "block_calibration", "recommendations"}
SOURCE_READ = {"tenant_telemetry", "tenant_manifest"}
GENERATED = {*SOURCE_READ, "irreducible_losses"}
SCORED = {
    "irreducible_losses",
    "config_portfolio",
    "validation_losses",
    "tuning_losses",
    "search_policy",
    "search_bundle",
    "scored_forecasts",
}
SCORED |= {"forecast_quality", "block_calibration", "recommendation_scores", "recommendations"}
SCORED |= SHORT


@cache
def sources() -> dict[str, str]:
    return read_sources(PACKAGE)


@cache
def digests() -> dict[str, str]:
    return code_digests(open_package(sources()), CODE)


def edited(path: str, old: str, new: str) -> dict[str, str]:
    """The package with one edit; the definition is found by its text, so that this test need not
    know its module."""
    text = sources()[path]
    assert old in text, f"{old!r} is not in {path}"
    return sources() | {path: text.replace(old, new, 1)}


LOCK_MODULES = ("code_digests.py", "source_names.py", "source_trees.py", "tables_lock.py")


def module_with(text: str) -> str:
    """The path of the one module, of those that the lock reads, that holds a text."""
    (path,) = [
        path for path, held in sources().items() if text in held and not path.endswith(LOCK_MODULES)
    ]
    return path


def moved_by(old: str, new: str) -> set[str]:
    """The tables whose digests an edit moves."""
    after = code_digests(open_package(edited(module_with(old), old, new)), CODE)
    return {table for table in TABLES if after[table] != digests()[table]}


def test_the_lock_is_up_to_date() -> None:
    wrong = problems(read_lock(LOCK_FILE), VERSIONS, digests())
    assert not wrong, "\n".join(f"{table}: {sentence}" for table, sentence in wrong.items())


def test_every_table_has_functions_that_make_it() -> None:
    package = open_package(sources())
    assert CODE.keys() == TABLES.keys()
    for functions in CODE.values():
        for function in functions:
            package.find(function)


def test_every_name_that_is_left_out_would_be_reached_and_means_one_definition() -> None:
    """What is left out is known by its name: a second definition of that name, or one that was
    renamed, would go unnoticed."""
    everything = Package(sources())
    reached = set().union(*(everything.reached(functions) for functions in CODE.values()))
    for name in [*LEFT_OUT, *FIELDS_LEFT_OUT]:
        assert [key.name for key in reached].count(name) == 1, (
            f"{name} is left out of digests: is it renamed, gone, or defined twice?"
        )


EDITS: Mapping[str, tuple[str, str, set[str]]] = {
    "a compiled loop of the model": ("QUERIES = 8\n", "QUERIES = 4\n", MODEL),
    "an operator of vectors, registered on import": (
        '(operator.add, "fadd")',
        '(operator.add, "fsub")',
        MODEL,
    ),
    "how many parts judge the gate": (
        "PARTS = 5",
        "PARTS = 4",
        {"search_policy", "search_bundle"},
    ),
    "how the gate decides": (
        "            -(traits @",
        "            +(traits @",
        {"search_policy", "search_bundle", *DECIDED},
    ),
    "the configuration to beat": (
        "def best_config(losses",
        "def best_config(costs",
        {"search_policy", "search_bundle", "config_portfolio", "cold_start_losses"},
    ),
    "a baseline of the registry": ("N_FIT = 4_000", "N_FIT = 2_000", {"baseline_forecasts"}),
    "the synthetic generator": (
        "BURST_CEILING: Range = (1.0, 2.0)",
        "BURST_CEILING: Range = (1.0, 3.0)",
        GENERATED,
    ),
    "the reader of tables": ("JITTER = 0.1", "JITTER = 0.2", SOURCE_READ),
    "the loss": ("(alpha - 1.0) * shortfall)", "(alpha - 1) * shortfall)", SCORED),
    "the bootstrap": ("_DRAWS_PER_CHUNK = ", "_DRAWS_PER_CHUNK = 1 + ", {"headline_scores"}),
}


@pytest.mark.heavy
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_moves_the_tables_that_it_reaches_and_no_other(edit: str) -> None:
    old, new, expected = EDITS[edit]
    assert moved_by(old, new) == expected


UNREACHED = {
    "a report's method of the fleet": ("made_from = {", "made_from = {'other': 1, "),
    "what the UI shows of a policy": ('"tuning tenants": row', '"tenants": row'),
    "the version of a table": (
        '"tenant_features",\n        FLEET,\n        "archetypes",\n        1,',
        '"tenant_features",\n        FLEET,\n        "archetypes",\n        2,',
    ),
    "a default of the settings": (
        "portfolio_size: int = Field(\n        8",
        "portfolio_size: int = Field(\n        4",
    ),
    "how the lake stores": (
        'SCHEMA_VERSION = 2\n"""Version of the layout',
        'SCHEMA_VERSION = 3\n"""Version of the layout',
    ),
    "a docstring": (
        '"""Return the forecasts of every configuration at every request of the shard."""',
        '"""Otherwise."""',
    ),
    "a comment and the layout": (
        "    return np.divide(total, n_observed, out",
        "    # the mean\n    return  np.divide( total, n_observed, out",
    ),
    "an error's message": ("the pinball loss needs 0 < alpha < 1", "alpha lies between 0 and 1"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("edit", UNREACHED)
def test_an_edit_of_what_no_table_reaches_moves_none(edit: str) -> None:
    assert moved_by(*UNREACHED[edit]) == set()


def test_a_function_that_moves_between_modules_of_the_package_moves_no_table() -> None:
    """`keyed_rows` in a new package, with every import of it rewritten."""
    path = module_with("def keyed_rows(")
    module = path.removesuffix(".py").replace("/", ".")
    elsewhere = {
        name: text.replace(
            f"from {module} import keyed_rows",
            "from tsfm_pipeline.elsewhere.laid_out import keyed_rows",
        )
        for name, text in sources().items()
    }
    assert elsewhere != sources()
    elsewhere["tsfm_pipeline/elsewhere/__init__.py"] = ""
    elsewhere["tsfm_pipeline/elsewhere/laid_out.py"] = elsewhere.pop(path)
    assert code_digests(open_package(elsewhere), CODE) == digests()


LOCK = {
    "grid": {"version": 3, "digest": "aa"},
    "scores": {"version": 1, "digest": "bb", "equal_content": ["a name"]},
}
SAME = {"grid": "aa", "scores": "bb"}
AT = {"grid": 3, "scores": 1}


def test_what_is_unchanged_is_fine() -> None:
    assert problems(LOCK, AT, SAME) == {}
    assert updated(LOCK, AT, SAME) == LOCK


def test_changed_code_under_the_same_version_names_both_ways_out() -> None:
    (sentence,) = problems(LOCK, AT, SAME | {"grid": "cc"}).values()
    assert "raise its `version`" in sentence
    assert "--equal-content grid --reason" in sentence


def test_a_raised_version_that_the_lock_does_not_know_is_told_apart() -> None:
    for digest in ("aa", "cc"):
        assert problems(LOCK, AT | {"grid": 4}, SAME | {"grid": digest}) == {
            "grid": "has version 4, the lock still says 3: run `make tables-lock`"
        }


def test_new_and_removed_tables_are_named() -> None:
    found = problems(LOCK, {"scores": 1, "new": 1}, {"scores": "bb", "new": "dd"})
    assert found == {
        "grid": "is not a table any more: run `make tables-lock`",
        "new": "is not in the lock: run `make tables-lock`",
    }
    assert set(updated(LOCK, {"scores": 1, "new": 1}, {"scores": "bb", "new": "dd"})) == {
        "scores",
        "new",
    }


def test_a_raised_version_is_accepted_and_starts_without_declarations() -> None:
    made = updated(LOCK, AT | {"scores": 2}, SAME | {"scores": "cc"})
    assert made["scores"] == {"version": 2, "digest": "cc"}


def test_changed_code_is_not_accepted_under_the_same_version() -> None:
    with pytest.raises(ValueError, match="grid: the code that makes it has changed"):
        updated(LOCK, AT, SAME | {"grid": "cc"})
    with pytest.raises(ValueError, match="grid: the code that makes it has changed"):
        updated(LOCK, AT, {"grid": "cc", "scores": "dd"}, ["scores"], "a rename")


def test_a_version_never_falls() -> None:
    with pytest.raises(ValueError, match="grid: has version 2, but had 3 already"):
        updated(LOCK, AT | {"grid": 2}, SAME)


def test_equal_content_needs_a_reason_which_is_kept_beside_those_before() -> None:
    moved = SAME | {"scores": "cc"}
    with pytest.raises(ValueError, match="needs a reason"):
        updated(LOCK, AT, moved, ["scores"], " ")
    assert updated(LOCK, AT, moved, ["scores"], "a split")["scores"] == {
        "version": 1,
        "digest": "cc",
        "equal_content": ["a name", "a split"],
    }


def test_equal_content_is_declared_only_where_code_has_changed() -> None:
    with pytest.raises(
        ValueError, match=r"grid: equal content can be declared .*: none at present"
    ):
        updated(LOCK, AT, SAME, ["grid"], "for fun")


def test_the_command_writes_what_is_accepted_and_refuses_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / LOCK_FILE.name
    before = {
        **updated({}, VERSIONS, digests()),
        "forecast_grid": {"version": VERSIONS["forecast_grid"], "digest": "another"},
    }
    file.write_text(json.dumps(before), encoding="utf-8")
    monkeypatch.setattr(lock_tables, "LOCK_FILE", file)
    assert main([]) == 1
    assert "forecast_grid: the code that makes it has changed" in capsys.readouterr().err
    assert read_lock(file) == before
    assert main(["--equal-content", "--reason", "a rename"]) == 0
    assert "forecast_grid changed" in capsys.readouterr().out
    accepted = {
        "version": VERSIONS["forecast_grid"],
        "digest": digests()["forecast_grid"],
        "equal_content": ["a rename"],
    }
    assert read_lock(file) == before | {"forecast_grid": accepted}
