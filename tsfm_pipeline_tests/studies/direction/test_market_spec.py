"""Test market files: which are found, what they allow, and what their prices depend on.

What belongs here: fields, folders, fingerprints, and the words of errors. What does not: prices.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.direction.options import StudyOptions
from tsfm_pipeline.studies.direction.spec import (
    MARKETS,
    ArchMarket,
    Columns,
    MarketSpecError,
    SyntheticMarket,
    TableMarket,
    market_files,
)
from tsfm_pipeline_tests.studies.direction.tables import frame, market, sp500

SHIPPED = ["nasdaq", "sp500", "synthetic-garch", "synthetic-planted", "synthetic-planted-2"]
TABLE = {"kind": "table", "title": "Mine", "path": "mine.csv"}
SYNTHETIC = {"kind": "synthetic", "title": "Simulated"}


def parsed(document: dict[str, Any], path: str = "/markets/mine.yaml") -> Any:
    return MARKETS.parse(yaml.safe_dump(document), Path(path))


def test_the_shipped_markets_are_found_and_read(tmp_path: Path) -> None:
    files = market_files(Settings(data_dir=tmp_path))
    specs, wrong = files.readable()
    assert list(specs) == SHIPPED
    assert wrong == {}
    planted, garch = specs["synthetic-planted"], specs["synthetic-garch"]
    assert isinstance(planted, SyntheticMarket)
    assert isinstance(garch, SyntheticMarket)
    assert (planted.correlation, garch.correlation) == (0.10, 0)
    assert planted.seed != garch.seed


def test_the_users_own_market_counts_where_two_have_the_same_name(tmp_path: Path) -> None:
    own = tmp_path / "markets"
    own.mkdir()
    (own / "sp500.yaml").write_text(yaml.safe_dump(SYNTHETIC))
    (own / "wrong.yaml").write_text("kind: nothing")
    files = market_files(Settings(data_dir=tmp_path))
    assert files.spec("sp500").kind == "synthetic"
    assert files.spec("nasdaq").kind == "arch"
    specs, wrong = files.readable()
    assert list(specs) == SHIPPED
    assert list(wrong) == [own / "wrong.yaml"], "a wrong file stops no other market"
    with pytest.raises(ValueError, match=r"no market 'dax' .* there are: nasdaq, sp500"):
        files.spec("dax")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"title": "x"}, "field 'kind': got nothing; allowed: arch, table, synthetic"),
        ({"kind": "yahoo"}, "field 'kind': got 'yahoo'; allowed: arch, table, synthetic"),
        ({"kind": "arch", "title": "x"}, "field 'dataset': missing; allowed: 'sp500' or 'nasdaq'"),
        (
            {"kind": "arch", "title": "x", "dataset": "dax"},
            "field 'dataset': got 'dax': input should be 'sp500' or 'nasdaq'",
        ),
        (TABLE | {"name": "x"}, "field 'name': leave it out; a market is named after its file"),
        (TABLE | {"colums": {}}, r"field 'colums': unknown \(did you mean 'columns'\?\); allowed:"),
        (
            TABLE | {"columns": {"vol": "v"}},
            r"field 'columns.vol': unknown .*allowed: date, open, high, low, close, volume, "
            "adjusted_close",
        ),
        (TABLE | {"path": "mine.xlsx"}, "field 'path': .*ends in neither .csv nor .parquet"),
        (
            TABLE | {"path": "${NO_SUCH_VARIABLE}/mine.csv"},
            "field 'path': .*environment variable NO_SUCH_VARIABLE .* is not set",
        ),
        (TABLE | {"features": "given"}, "features is 'given' and given lists 0 columns"),
        (TABLE | {"given": ["rsi"]}, "features is 'computed' and given lists 1 columns"),
        (
            TABLE | {"adjusted": True, "columns": {"adjusted_close": "adj"}},
            "with 'adjusted: true' .* columns.adjusted_close must be left out",
        ),
        (
            TABLE | {"columns": {"open": "close"}},
            "field 'columns': .*'close' is given for two of them",
        ),
        (TABLE | {"covariates": ["close"]}, "column 'close' has two roles"),
        (TABLE | {"listed_gaps": ["in 2001"]}, "field 'listed_gaps.0': got 'in 2001'"),
        (
            TABLE | {"study": {"labels": {"threshold": 1}}},
            "field 'study.labels.threshold': got 1: input should be less than 0.5; allowed: a "
            "fraction above 0 and below 0.5",
        ),
        (
            TABLE | {"study": {"label": {}}},
            r"field 'study.label': unknown \(did you mean 'labels'\?\); allowed: scorers, labels",
        ),
        (SYNTHETIC | {"correlation": 1}, "field 'correlation': got 1: input should be less than 1"),
        (SYNTHETIC | {"model": "arma"}, "field 'model': got 'arma': input should be 'garch' or"),
    ],
)
def test_an_error_names_the_file_the_field_and_what_is_allowed(
    document: dict[str, Any], message: str
) -> None:
    with pytest.raises(MarketSpecError, match=rf"^/markets/mine\.yaml: .*{message}"):
        parsed(document)


def test_a_file_whose_name_cannot_be_a_folder_is_refused() -> None:
    with pytest.raises(MarketSpecError, match="'My Market' is not a valid market name"):
        parsed(TABLE, "/markets/My Market.yaml")


def test_a_relative_path_starts_in_the_folder_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRICES", "/data/prices")
    assert parsed(TABLE | {"path": "../external/x.csv"}).path == Path("/markets/../external/x.csv")
    assert parsed(TABLE | {"path": "${PRICES}/x.csv"}).path == Path("/data/prices/x.csv")


def test_the_fingerprint_follows_the_prices_and_nothing_else(tmp_path: Path) -> None:
    table = frame(sp500(0, 30))
    spec = market(tmp_path, table)
    before = spec.source_fingerprint
    same = market(tmp_path, table, title="Other", study={"splits": {"embargo": 7}})
    assert same.source_fingerprint == before
    assert market(tmp_path, table, adjusted=True).source_fingerprint != before
    assert (
        market(tmp_path, table, columns={"open": "low", "low": "open"}).source_fingerprint != before
    )
    changed = table.with_columns(pl.col("close") * 1.0001)
    assert market(tmp_path, changed).source_fingerprint != before
    (tmp_path / "prices.csv").unlink()
    with pytest.raises(
        MarketSpecError, match=r"market 'mine', field 'path': no file .*prices\.csv"
    ):
        _ = spec.source_fingerprint


def test_every_field_of_a_simulation_changes_its_fingerprint() -> None:
    document = SYNTHETIC | {"name": "x"}
    changes: list[dict[str, Any]] = [
        {},
        {"model": "garch"},
        {"days": 600},
        {"intraday_steps": 16},
        {"correlation": 0.05},
        {"seed": 1},
    ]
    found = {SyntheticMarket.model_validate(document | c).source_fingerprint for c in changes}
    assert len(found) == len(changes)
    titled = SyntheticMarket.model_validate(document | {"title": "Other"})
    assert titled.source_fingerprint in found


def test_the_page_names_every_field_that_a_market_file_may_have() -> None:
    page = (PROJECT_ROOT / "docs" / "direction.md").read_text(encoding="utf-8")
    models = (ArchMarket, TableMarket, SyntheticMarket, Columns, StudyOptions)
    fields = {name for model in models for name in model.model_fields} - {"name"}
    assert {field for field in fields if f"`{field}`" not in page} == set()
