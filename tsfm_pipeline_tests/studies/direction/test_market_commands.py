"""Test `tsfm-pipeline market`: what it writes and prints, its exit codes, every command of its page.

What belongs here: the command line. What does not: rules (`test_quality`), running a study.
"""

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from tsfm_pipeline.plugins import COMMANDS
from tsfm_pipeline.settings import PROJECT_ROOT, Settings
from tsfm_pipeline.studies.direction.commands import application
from tsfm_pipeline.studies.direction.spec import TableMarket, market_files
from tsfm_pipeline_tests.docs.pages import DOCS, blocks
from tsfm_pipeline_tests.studies.direction.tables import frame, sp500

Run = Callable[..., Result]
YAHOO = {
    **{"date": "Date", "open": "Open", "high": "High", "low": "Low", "close": "Close"},
    "volume": "Volume",
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command in a folder of its own; `output` holds both streams."""
    monkeypatch.chdir(tmp_path)

    def one(*arguments: str) -> Result:
        environment = {"TSFM_DATA_DIR": str(tmp_path / "data"), "NO_COLOR": "1", "TERM": "dumb"}
        return CliRunner().invoke(application, list(arguments), env=environment)

    return one


def written(folder: Path, name: str = "spx.csv") -> Path:
    """A table as it is often downloaded: ten years, an adjusted close, and VIX beside them."""
    table = frame(sp500(0, 2520)).rename(YAHOO)
    table = table.with_columns(pl.col("Close").alias("Adj Close"), VIX=pl.lit(20.5))
    table.write_csv(folder / name)
    return folder / name


def test_the_program_finds_the_commands_by_their_entry_point() -> None:
    declared = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert declared["entry-points"][COMMANDS]["market"] == (
        "tsfm_pipeline.studies.direction.commands:application"
    )


def test_from_a_table_to_a_checked_market(run: Run, tmp_path: Path) -> None:
    written(tmp_path)
    made = run("init", "spx", "--from", "spx.csv")
    assert made.exit_code == 0, made.output
    spec = market_files(Settings(data_dir=tmp_path / "data")).spec("spx")
    assert isinstance(spec, TableMarket)
    assert spec.path == tmp_path / "spx.csv"
    assert spec.columns.model_dump() == YAHOO | {"adjusted_close": "Adj Close"}
    assert spec.covariates == (), "what is known at the close, only a person can say"
    checked = run("check", "spx")
    assert checked.exit_code == 0, checked.output
    assert "spx: 2520 trading days, 1999-01-04 to 2009-01-08" in checked.output
    assert "in 1999 to 2005 most opens are the close before" in " ".join(checked.output.split())
    (touch,) = re.findall(r"touch_up +(\d\.\d+)", checked.output)
    bars = sp500(0, 2520)
    holds = bars.high[1:] >= 1.01 * bars.close[:-1]
    assert float(touch) == pytest.approx(holds.mean(), abs=0.0005)


def test_the_written_file_says_the_reason_of_each_field_and_what_could_be_added(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "external"
    folder.mkdir(parents=True)
    table = written(folder)
    assert run("init", "spx", "--from", str(table)).exit_code == 0
    file = tmp_path / "data" / "markets" / "spx.yaml"
    text = file.read_text()
    assert "path: ../external/spx.csv  # relative to the folder of this file" in text
    assert "  close: Close  # the first row has '1228.099976'" in text
    assert "# covariates: [VIX]" in text
    file.write_text(text.replace("# covariates", "covariates"))
    assert run("check", "spx").exit_code == 0
    assert run("init", "plain", "--from", "no-adjustment.csv").exit_code == 2
    pl.read_csv(table).drop("Adj Close").write_csv(tmp_path / "no-adjustment.csv")
    assert run("init", "plain", "--from", "no-adjustment.csv").exit_code == 0
    assert "adjusted: false  # true: splits are already" in (file.parent / "plain.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "dax"), "no market 'dax' in"),
        (("init", "sp500", "--from", "spx.csv"), "there is a market 'sp500' already"),
        (("init", "My Market", "--from", "spx.csv"), "is not a valid market name"),
        (("init", "dax", "--from", "none.csv"), "no such table; allowed: a .csv or .parquet file"),
        (("init", "dax", "--from", "closes.csv"), "no column is called open like open, open_price"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    pl.read_csv(written(tmp_path)).select("Date", "Close").write_csv(tmp_path / "closes.csv")
    refused = run(*arguments)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    assert "Traceback" not in refused.output
    assert not (tmp_path / "data" / "markets").exists()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("close: Close ", "close: Clse ", "no column 'Clse'; there are: Date, Open"),
        ("columns:", "second: dax\ncolumns:", "field 'second': 'dax' is no other market; allowed:"),
        ("columns:", "second: spx\ncolumns:", "field 'second': 'spx' is no other market; allowed:"),
        ("low: Low ", "low: VIX ", "close must lie between low and high"),
    ],
)
def test_a_market_that_the_study_refuses_ends_with_one(
    run: Run, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    table = pl.read_csv(written(tmp_path)).with_columns(VIX=pl.col("High") * 1.01)
    table.write_csv(tmp_path / "spx.csv")
    run("init", "spx", "--from", "spx.csv")
    file = tmp_path / "data" / "markets" / "spx.yaml"
    file.write_text(file.read_text().replace(old, new))
    refused = run("check", "spx")
    assert refused.exit_code == 1, refused.output
    assert problem in " ".join(refused.output.split())
    assert "the study refuses market spx" in refused.output
    assert "touch_up" not in refused.output


def test_the_list_shows_all_markets_and_what_is_wrong_with_others(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "markets"
    folder.mkdir(parents=True)
    (folder / "wrong.yaml").write_text("kind: yahoo\n")
    shown = run("list")
    assert shown.exit_code == 0
    for name in ("nasdaq", "sp500", "synthetic-garch", "synthetic-planted"):
        assert re.search(rf"^ {name} ", shown.output, re.MULTILINE)
    assert "wrong.yaml: field 'kind': got 'yahoo'; allowed: arch, table, synthetic" in shown.output


def test_the_examples_of_the_page_are_what_the_commands_write_and_accept(
    run: Run, tmp_path: Path
) -> None:
    page = DOCS / "direction.md"
    written(tmp_path)
    stated = [line for block in blocks(page, "console") for line in block.text.splitlines()]
    commands = [re.sub(r"\s+#.*", "", line[2:]) for line in stated if line.startswith("$ ")]
    ours = [shlex.split(line)[2:] for line in commands if line.startswith("tsfm-pipeline market")]
    ran = [arguments for arguments in ours if arguments[0] != "run"]
    assert {arguments[0] for arguments in ran} == {"init", "check", "list"}
    for arguments in ran:
        assert run(*arguments).exit_code == 0, arguments
    examples = blocks(page, "yaml")
    assert len(examples) >= 3
    for number, example in enumerate(examples):
        (tmp_path / "data" / "markets" / f"example-{number}.yaml").write_text(example.text)
    specs, wrong = market_files(Settings(data_dir=tmp_path / "data")).readable()
    assert wrong == {}
    assert {specs[f"example-{number}"].kind for number in range(len(examples))} >= {"table"}
