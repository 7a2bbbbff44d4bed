"""Test the yardstick: every change of data, code, defaults or the sealed file is refused by name.

What belongs here: tampering with tables on disk and with a copy of the package. What does not: how
a digest of code is made (`catalogue.test_code_digests`).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from tsfm_pipeline.catalogue.source_names import read_sources
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.policy_search import seals
from tsfm_pipeline.studies.policy_search.folds import deal_folds
from tsfm_pipeline.studies.policy_search.latency import LatencyLine
from tsfm_pipeline.studies.policy_search.scope import SCOPE
from tsfm_pipeline.studies.policy_search.seals import PACKAGE
from tsfm_pipeline.studies.policy_search.tables import TABLES
from tsfm_pipeline.studies.policy_search.yardstick import (
    Yardstick,
    YardstickError,
    read_yardstick,
    require_different_tenants,
    require_untouched,
    seal,
    yardstick_file,
)
from tsfm_pipeline_tests.studies.policy_search.measures import LINE

pytestmark = pytest.mark.heavy
FLEETS = ("one", "two")
TABLE = "candidate_forecasts"
SPEC = {"kind": "synthetic", "title": "A test", "tenants": 32, "days": 14, "seed": 7}


def line(settings: Settings) -> LatencyLine:
    return LINE


def write_spec(settings: Settings, fleet: str, **fields: int) -> None:
    (settings.fleet_specs_dir / f"{fleet}.yaml").write_text(yaml.safe_dump(SPEC | fields))


def write_tables(settings: Settings, fleet: str) -> None:
    """The study's tables with a number for content, in two parts."""
    tables = SCOPE.open(settings, fleet).tables
    for table in TABLES:
        tables.map_shards(
            table, lambda shard: pl.DataFrame({"loss": [float(n) for n in shard]}), [[0, 1], [2]]
        )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two fleets with tables of the study."""
    (tmp_path / "specs").mkdir()
    settings = Settings(data_dir=tmp_path, specs_dir=tmp_path / "specs")
    for seed, fleet in enumerate(FLEETS):
        write_spec(settings, fleet, seed=seed)
        write_tables(settings, fleet)
    return settings


@pytest.fixture
def sealed(settings: Settings) -> Yardstick:
    return seal(settings, FLEETS, measure=line)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which the digests are made of from now on."""
    copy = tmp_path / "copy" / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(seals, "PACKAGE", copy)
    return copy


def parts(settings: Settings, fleet: str) -> list[Path]:
    return sorted((settings.lake_dir / ".policy_search" / fleet / TABLE).glob("part-*"))


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_what_was_sealed_is_read_and_used_as_long_as_nothing_changes(
    settings: Settings, sealed: Yardstick
) -> None:
    assert read_yardstick(settings) == sealed
    assert read_yardstick(settings).digest == sealed.digest
    assert sealed.fleets == FLEETS
    assert list(sealed.data["one"][TABLE].parts) == [part.name for part in parts(settings, "one")]
    require_untouched(settings, sealed)
    require_untouched(settings, sealed)


def test_an_unchanged_yardstick_is_kept_without_measuring_again(
    settings: Settings, sealed: Yardstick
) -> None:
    def again(settings: Settings) -> LatencyLine:
        raise AssertionError("measured again")

    assert seal(settings, FLEETS, measure=again) == sealed


def test_a_yardstick_of_other_fleets_or_tables_replaces_the_sealed_one(
    settings: Settings, sealed: Yardstick
) -> None:
    lines: list[str] = []
    other = seal(settings, ["one"], lines.append, measure=line)
    assert other.digest != sealed.digest
    assert any("its fleets are one, two" in text for text in lines)
    write_spec(settings, "one", seed=8)
    write_tables(settings, "one")
    assert seal(settings, ["one"], measure=line).digest not in (sealed.digest, other.digest)


@pytest.mark.parametrize("restore_times", [False, True])
def test_one_changed_byte_of_a_part_is_refused_by_name(
    settings: Settings, sealed: Yardstick, restore_times: bool
) -> None:
    require_untouched(settings, sealed)
    part = parts(settings, "two")[1]
    before = part.stat()
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    if restore_times:
        os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(YardstickError, match=f"fleet 'two', table '{TABLE}': part {part.name} was"):
        require_untouched(settings, sealed)


def test_a_part_that_is_gone_and_a_table_that_is_gone_are_refused_by_name(
    settings: Settings, sealed: Yardstick
) -> None:
    part = parts(settings, "one")[0]
    part.unlink()
    with pytest.raises(YardstickError, match=f"{part.name} is gone from the disk"):
        require_untouched(settings, sealed)
    shutil.rmtree(part.parent)
    with pytest.raises(YardstickError, match=f"fleet 'one', table '{TABLE}': the table is gone"):
        require_untouched(settings, sealed)


def test_a_fleet_that_was_changed_is_refused_before_and_after_its_tables_are_made_again(
    settings: Settings, sealed: Yardstick
) -> None:
    write_spec(settings, "one", seed=8)
    with pytest.raises(YardstickError, match="'tuning_targets': its file, telemetry, model or ver"):
        require_untouched(settings, sealed)
    write_tables(settings, "one")
    with pytest.raises(YardstickError, match="it was made again, with the fingerprint"):
        require_untouched(settings, sealed)
    (settings.fleet_specs_dir / "one.yaml").unlink()
    with pytest.raises(YardstickError, match="fleet 'one' cannot be opened"):
        require_untouched(settings, sealed)


def test_a_sealed_file_with_other_folds_is_refused_by_name(
    settings: Settings, sealed: Yardstick
) -> None:
    file = yardstick_file(settings)
    content = json.loads(file.read_text())
    content["choosing"] = [0, 1]
    file.write_text(json.dumps(content))
    with pytest.raises(YardstickError, match="was changed after it was sealed"):
        read_yardstick(settings)
    other = sealed.model_copy(update={"choosing": (0, 1)})
    other = Yardstick.model_validate(other.model_dump())
    file.write_text(json.dumps({"digest": other.digest, **other.model_dump(mode="json")}))
    assert read_yardstick(settings).digest != sealed.digest
    with pytest.raises(
        YardstickError, match=r"'choosing' in yardstick.json was changed from \(0, 1, 2\) to"
    ):
        require_untouched(settings, sealed)


def test_folds_that_choose_and_confirm_are_refused(sealed: Yardstick) -> None:
    fields = sealed.model_dump()
    with pytest.raises(ValueError, match=r"folds \[2\] cannot both choose and confirm"):
        Yardstick.model_validate(fields | {"confirming": (2, 3)})
    with pytest.raises(ValueError, match="folds 0 to 4"):
        Yardstick.model_validate(fields | {"confirming": (3, 5)})


def test_a_file_that_is_no_yardstick_is_refused_and_replaced_by_the_next_seal(
    settings: Settings, sealed: Yardstick
) -> None:
    for content in ("", "[]", "{}"):
        yardstick_file(settings).write_text(content)
        with pytest.raises(YardstickError, match="cannot be read"):
            read_yardstick(settings)
    assert seal(settings, FLEETS, measure=line) == sealed
    yardstick_file(settings).unlink()
    with pytest.raises(YardstickError, match="there is no yardstick"):
        read_yardstick(settings)


def test_unknown_fleets_fleets_without_tables_and_fleets_named_twice_are_refused(
    settings: Settings,
) -> None:
    with pytest.raises(YardstickError, match="fleet 'three' cannot be opened"):
        seal(settings, ["one", "three"], measure=line)
    write_spec(settings, "three")
    with pytest.raises(YardstickError, match="table 'tuning_tenants' of fleet 'three' is missing"):
        seal(settings, ["one", "three"], measure=line)
    with pytest.raises(YardstickError, match="each of them once"):
        seal(settings, ["one", "one"], measure=line)
    with pytest.raises(YardstickError, match="at least one"):
        seal(settings, [], measure=line)


def test_a_change_of_code_that_an_experiment_reaches_is_refused_by_name(
    settings: Settings, package: Path
) -> None:
    sealed = seal(settings, FLEETS, measure=line)
    drivers = package / "studies/policy_search/drivers/__init__.py"
    drivers.write_text(drivers.read_text() + "\n\nANOTHER_DRIVER = 1\n")
    require_untouched(settings, sealed)
    replace(package / "autoresearch/rules.py", "CONCENTRATION = 8.0", "CONCENTRATION = 9.0")
    with pytest.raises(
        YardstickError,
        match=r"the code of tsfm_pipeline\.autoresearch\.rules:HOUR_CONCENTRATION was changed",
    ):
        require_untouched(settings, sealed)
    replace(package / "autoresearch/rules.py", "CONCENTRATION = 9.0", "CONCENTRATION = 8.0")
    require_untouched(settings, sealed)


def test_a_changed_default_of_the_search_is_refused_by_name(
    settings: Settings, sealed: Yardstick, package: Path
) -> None:
    replace(
        package / "search_settings.py",
        "    portfolio_size: int = Field(\n        8,",
        "    portfolio_size: int = Field(\n        7,",
    )
    program = (
        "from tsfm_pipeline.settings import Settings\n"
        "from tsfm_pipeline.studies.policy_search import yardstick as y\n"
        f"settings = Settings.model_validate_json({settings.model_dump_json()!r})\n"
        "y.require_untouched(settings, y.read_yardstick(settings))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the default of the setting 'portfolio_size' was changed from 8 to 7" in ended.stderr


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"device": "cpu"}, "device"),
        ({"evaluation": {"bootstrap_draws": 500}}, "evaluation.bootstrap_draws"),
    ],
)
def test_a_changed_setting_that_judging_reads_is_refused_by_name(
    settings: Settings, sealed: Yardstick, changes: dict[str, Any], name: str
) -> None:
    changed = Settings.model_validate(settings.model_dump(exclude={"evaluation"}) | changes)
    with pytest.raises(YardstickError, match=f"the setting '{name}' was changed from"):
        require_untouched(changed, sealed)


def test_what_runs_on_import_of_a_package_or_of_an_imported_module_is_part_of_the_code() -> None:
    text = read_sources(PACKAGE)
    plain = seals.code_of(tuple(text.items()))
    patch = "from tsfm_pipeline.autoresearch import rules\n\nrules.weighted = max\n"
    init = "tsfm_pipeline/evaluation/__init__.py"
    package = seals.code_of(tuple((text | {init: text[init] + patch}).items()))
    evaluation = "tsfm_pipeline/studies/policy_search/evaluation.py"
    first = "from tsfm_pipeline.autoresearch import rules\n"
    assert first in text[evaluation]
    importing = text[evaluation].replace(first, f"import tsfm_pipeline.patch\n{first}")
    added = {evaluation: importing, "tsfm_pipeline/patch.py": patch}
    module = seals.code_of(tuple((text | added).items()))
    assert [*seals.changed_code(plain[1], package[1])] == [
        "the code of tsfm_pipeline.evaluation:<on import> is new"
    ]
    assert [*seals.changed_code(plain[1], module[1])] == [
        "the code of tsfm_pipeline.patch:<on import> is new"
    ]
    assert plain[0] not in (package[0], module[0])


def test_an_import_of_another_definition_under_the_same_name_is_a_change_of_code() -> None:
    text = read_sources(PACKAGE)
    evaluation = "tsfm_pipeline/studies/policy_search/evaluation.py"
    first = "from tsfm_pipeline.evaluation.limits import emitted\n"
    assert first in text[evaluation]
    other = text[evaluation].replace(first, first.replace("emitted", "Limits as emitted"))
    changed = seals.code_of(tuple((text | {evaluation: other}).items()))
    assert changed[0] != seals.code_of(tuple(text.items()))[0]


def test_tenants_are_dealt_evenly_over_folds_within_their_archetypes() -> None:
    tenant_ids = [f"tenant-{n:02}" for n in range(40)]
    groups = ["blog"] * 25 + ["shop"] * 10 + [""] * 5
    folds = deal_folds(tenant_ids, groups)
    for first, size in ((0, 25), (25, 10), (35, 5)):
        assert np.bincount(folds[first : first + size]).tolist() == [size // 5] * 5
    assert deal_folds(tenant_ids[::-1], groups[::-1]).tolist() == folds[::-1].tolist()
    assert deal_folds(tenant_ids, groups, seed=1).tolist() != folds.tolist()
    with pytest.raises(ValueError, match="4 tuning tenants cannot be dealt into 5 folds"):
        deal_folds(tenant_ids[:4], groups[:4])


def test_two_fleets_of_one_source_are_refused_because_they_share_tenants(
    settings: Settings,
) -> None:
    write_spec(settings, "one", seed=1)
    write_tables(settings, "one")
    with pytest.raises(YardstickError, match=r"one and two come from one source \(synthetic 1\)"):
        seal(settings, FLEETS, measure=line)


def test_fleets_of_different_tables_or_seeds_do_not_share_tenants() -> None:
    require_different_tenants(Settings(), ["asd", "smd", "synthetic-400", "synthetic-seed-2"])
    with pytest.raises(YardstickError, match="demo and synthetic-400 come from one source"):
        require_different_tenants(Settings(), ["asd", "demo", "synthetic-400"])


def test_a_file_that_was_edited_consistently_is_refused(
    settings: Settings, sealed: Yardstick
) -> None:
    edited = Yardstick.model_validate(sealed.model_dump() | {"budget_ms": 1e9})
    content = {"digest": edited.digest, **edited.model_dump(mode="json")}
    yardstick_file(settings).write_text(json.dumps(content))
    with pytest.raises(YardstickError, match=r"'budget_ms' is 1000000000\.0 in the sealed file"):
        require_untouched(settings, read_yardstick(settings))


def test_a_latency_line_that_was_edited_consistently_was_never_sealed(
    settings: Settings, sealed: Yardstick
) -> None:
    faster = sealed.line.model_dump() | {"p95": {"fixed_ms": 0.0, "ms_per_token": 0.001}}
    edited = Yardstick.model_validate(sealed.model_dump() | {"line": faster})
    content = {"digest": edited.digest, **edited.model_dump(mode="json")}
    yardstick_file(settings).write_text(json.dumps(content))
    with pytest.raises(YardstickError, match=r"no record in .*yardsticks says that it was ever"):
        require_untouched(settings, read_yardstick(settings))
