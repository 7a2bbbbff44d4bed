"""Test the drivers that need no network: `random`, `optuna` and `file`.

What belongs here: what they propose for a given history. What does not: running and judging it, and
`agent` (`test_agent`).
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tsfm_pipeline.settings import SearchSettings
from tsfm_pipeline.studies.policy_search import space
from tsfm_pipeline.studies.policy_search.drivers import (
    DRIVERS,
    Driver,
    DriverError,
    Options,
    driver,
)
from tsfm_pipeline.studies.policy_search.drivers.file import FileDriver
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError
from tsfm_pipeline_tests.studies.policy_search.histories import ledger, row, searched

Make = Callable[[int], Driver]


def make(name: str) -> Make:
    if name == "optuna":
        pytest.importorskip("optuna")
    return lambda seed: driver(name, Options(seed=seed))


@pytest.fixture(params=["random", "optuna"])
def searcher(request: pytest.FixtureRequest) -> Make:
    """Makes a driver that proposes for ever, from a seed."""
    return make(request.param)


def history(n: int) -> list[dict[str, Any]]:
    """Rows of the default policy and of n - 1 others."""
    return searched(driver("random", Options(seed=99)), costs, n)[1]


def costs(search: SearchSettings) -> tuple[float, float]:
    """Twelve configurations, an origin ten strides ago and a weak ridge cost least; a portfolio of
    more than twenty is too slow.
    """
    objective = 1 + 0.002 * abs(search.portfolio_size - 12) + 0.001 * (10 - search.recent_origins)
    objective += 0.02 * (search.gate_ridge > 1) + 0.05 * (not search.level_correction)
    return objective, 10.0 * search.portfolio_size


def test_equal_seeds_and_histories_give_equal_proposals(searcher: Make) -> None:
    rows = ledger(history(15))
    incumbent = Policy(search={"portfolio_size": 10})
    first, resumed = searcher(3), searcher(3)
    proposals = [first.propose(incumbent, rows) for _ in range(3)]
    assert [resumed.propose(incumbent, rows) for _ in range(3)] == proposals
    assert len({proposal.policy.digest for proposal in proposals}) == 3  # asked again: another
    assert searcher(4).propose(incumbent, rows) != proposals[0]
    assert searcher(3).propose(incumbent, rows[:-1]) != proposals[0]


def test_a_driver_needs_no_state_that_the_history_lacks(searcher: Make) -> None:
    rows = history(15)
    incumbent = Policy()
    running = searcher(1)
    for n in range(13, 15):
        running.propose(incumbent, ledger(rows[:n]))
    restarted = searcher(1)
    assert running.propose(incumbent, ledger(rows)) == restarted.propose(incumbent, ledger(rows))


def test_a_proposal_names_its_parent_and_what_changed(searcher: Make) -> None:
    incumbent = Policy(search={"portfolio_size": 10, "gate_ridge": 1.0})
    proposal = searcher(0).propose(incumbent, ledger(history(15)))
    assert proposal.parent == incumbent.digest != proposal.policy.digest
    assert proposal.description == space.described(incumbent, proposal.policy)
    space.require_allowed(proposal.policy)


@pytest.mark.heavy
def test_a_search_finds_a_planted_better_policy(searcher: Make) -> None:
    incumbent, rows = searched(searcher(0), costs, 100)
    found, slowest = costs(incumbent.settings)
    assert costs(SearchSettings())[0] == pytest.approx(1.032)
    assert found < 1.008
    assert slowest <= 200
    assert len({one["policy"] for one in rows}) == 100


@pytest.mark.heavy
def test_optuna_proposes_what_was_good_more_often_than_chance_would() -> None:
    tried = ledger(history(80))

    def mean_cost(propose: Callable[..., Any]) -> float:
        found = [propose(Policy(), tried).policy.settings for _ in range(40)]
        return sum(costs(search)[0] for search in found) / len(found)

    by_chance = mean_cost(driver("random", Options()).propose)
    assert mean_cost(make("optuna")(0).propose) < by_chance - 0.001


def test_optuna_takes_failed_slow_and_unknown_rows_as_they_are() -> None:
    propose = make("optuna")(0).propose
    good = Policy(search={"portfolio_size": 10})
    rows = [row(Policy(), 0, status="keep")]
    failed = {"objective": None, "p95_ms": None, "status": "crash"}
    for n in range(1, 30):
        policy = good.changed(recent_origins=1 + n % 12, gate_ridge=float(n))
        rows.append(row(policy, n, **(failed if n % 3 == 0 else {"p95_ms": 150.0 + 10 * n})))
    rows.append(row(good, 30, changes='{"no_such_field": 1}'))
    rows.append(row(good, 31, changes="{}", **failed))  # what an agent's broken answer leaves
    rows.append(row(good, 32, objective=float("inf")))
    assert propose(good, ledger(rows)).policy.digest not in {one["policy"] for one in rows}


@pytest.mark.heavy
def test_optuna_keeps_away_from_what_was_screened_out_or_too_slow() -> None:
    propose = make("optuna")(0).propose
    rows = [row(Policy(), 0, status="keep")]
    for n in range(1, 70):
        size = 2 + n % 23
        policy = Policy(search={"portfolio_size": size, "gate_ridge": float(n)})
        small, large = size < 8, size > 16
        columns = {"screened_out": small, "objective": 0.9 if small or large else 1.0}
        rows.append(row(policy, n, p95_ms=300.0 if large else 80.0, **columns))
    sizes = [
        proposal.policy.settings.portfolio_size
        for proposal in (propose(Policy(), ledger(rows)) for _ in range(60))
        if "portfolio_size" in proposal.policy.search
    ]
    assert len(sizes) >= 3
    assert sum(8 <= size <= 16 for size in sizes) > 0.75 * len(sizes)


def test_file_proposes_its_policy_once_and_not_what_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search: {portfolio_size: 12}")
    rows = [row(Policy(), 0, status="keep")]
    options = Options(path=path, description="twelve\tinstead\nof eight")
    once = driver("file", options)
    proposal = once.propose(Policy(), ledger(rows))
    assert proposal.policy.search == {"portfolio_size": 12}
    assert proposal.description == "twelve instead of eight"
    assert proposal.parent == Policy().digest
    assert once.propose(Policy(), ledger(rows)) is None
    rows.append(row(proposal.policy, 1))
    assert driver("file", options).propose(Policy(), ledger(rows)) is None
    unnamed = driver("file", Options(path=path)).propose(Policy(), ledger(rows[:1]))
    assert unnamed.description == "portfolio_size 8 to 12"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {gate_seed: 1}", "gate_seed may not be changed"),
        (
            "search: {portfolio_size: 0}",
            "portfolio_size is 0: Input should be greater than or equal",
        ),
        ("search: {portfolio: 3}", "there is no field .portfolio.*did you mean"),
        ("portfolio_size: 12", "must have exactly one key, `search`"),
        ("search: [", "is not valid YAML"),
        ("search: {candidates: [ctx1x]}", "no configuration is named 'ctx1x'"),
    ],
)
def test_file_refuses_what_is_not_a_policy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=message) as refused:
        FileDriver.read(path, "")
    assert str(path) in str(refused.value)


def test_file_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="needs a policy file"):
        driver("file", Options())
    with pytest.raises(PolicyError, match="cannot be read"):
        driver("file", Options(path=tmp_path / "absent.yaml"))


def test_an_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="allowed: random, optuna, file, agent"):
        driver("luck", Options())
    assert len(DRIVERS) == 4


def test_optuna_says_how_to_install_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DriverError, match="extra `studies`"):
        driver("optuna", Options()).propose(Policy(), ledger([row(Policy(), 0)]))


@pytest.mark.heavy
def test_importing_every_driver_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from tsfm_pipeline.studies.policy_search import program\n"
        "from tsfm_pipeline.studies.policy_search.drivers import Options, driver\n"
        "driver('random', Options())\n"
        "heavy = ('torch', 'faiss', 'sklearn', 'optuna', 'matplotlib', 'dagster')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
