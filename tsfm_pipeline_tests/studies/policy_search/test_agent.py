"""Test the driver `agent` against a chat endpoint on this machine.

What belongs here: what it sends, what it makes of answers, and its faults. What does not: the
quality of any model's proposals.
"""

import json
import socket
from pathlib import Path

import pytest
from tenacity import wait_none

from tsfm_pipeline.studies.chat import ATTEMPTS, MOST_BYTES
from tsfm_pipeline.studies.policy_search import program
from tsfm_pipeline.studies.policy_search.drivers import DriverError, Options, Proposal, driver
from tsfm_pipeline.studies.policy_search.drivers.agent import (
    FORM,
    N_ROWS,
    OFF,
    AgentDriver,
    AgentSettings,
    read_answer,
)
from tsfm_pipeline.studies.policy_search.policy import Policy, PolicyError
from tsfm_pipeline_tests.studies.chat_server import Chat, Reply, chatting, said
from tsfm_pipeline_tests.studies.policy_search.histories import ledger, row

INCUMBENT = Policy(search={"portfolio_size": 10})
GOOD = {"policy": {"search": {"portfolio_size": 12}}, "description": "Twelve are better than ten."}
SECRET = "T0K3N"


@pytest.fixture(autouse=True)
def _no_agent_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "MODEL", "KEY", "TIMEOUT_SECONDS"):
        monkeypatch.delenv(f"TSFM_AGENT_{name}", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def proposed(chat: Chat, timeout_seconds: float = 10.0, n_rows: int = 1) -> Proposal:
    settings = AgentSettings(
        url=chat.url, model="small", key=SECRET, timeout_seconds=timeout_seconds
    )
    rows = [row(Policy(), 0, status="keep")]
    rows += [row(Policy(search={"neighbours": 10 + n}), n) for n in range(1, n_rows)]
    return AgentDriver(settings, wait=wait_none()).propose(INCUMBENT, ledger(rows))


def test_the_answer_is_proposed_as_a_child_of_the_incumbent() -> None:
    with chatting(said(GOOD)) as chat:
        proposal = proposed(chat)
    assert proposal.policy.search == {"portfolio_size": 12}
    assert proposal.parent == INCUMBENT.digest
    assert proposal.description == "Twelve are better than ten."
    assert chat.paths == ["/v1/chat/completions"]
    assert chat.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert json.loads(chat.bodies[0])["model"] == "small"


def test_it_is_sent_the_program_the_incumbent_and_the_latest_rows() -> None:
    with chatting(said(GOOD)) as chat:
        proposed(chat, n_rows=40)
    system, user = chat.messages[0]
    assert system == {"role": "system", "content": program.text()}
    assert user["role"] == "user"
    assert INCUMBENT.to_yaml() in user["content"]
    assert FORM in user["content"]
    lines = [line for line in user["content"].splitlines() if line.startswith("discard\t")]
    assert len(lines) == N_ROWS
    assert lines[-1].split("\t") == [
        *("discard", "1", "", "0.5", "", "0.4", "40", "80", "700"),
        "neighbours 5 to 49",
    ]


def test_nothing_leaves_the_machine_but_figures_and_settings() -> None:
    host, path = socket.gethostname(), str(Path.cwd())
    private = [
        "tenant-4711",
        "/srv/data",
        host,
        path,
        "payroll-fleet",
        "73.25",
        "c0ffee",
        "Mallory",
    ]
    outcome = {
        "results": [{"fleet": "payroll-fleet", "tenants": ["tenant-4711"], "losses": [73.25]}]
    }
    rows = [
        row(
            Policy(),
            0,
            status="crash",
            objective=None,
            description=f"Mallory: tenant-4711 failed in /srv/data on {host}, {path}",
            fleets="payroll-fleet",
            outcome=json.dumps(outcome),
        ),
        row(Policy(), 1, changes=json.dumps({"candidates": ["/srv/data/tenant-4711"]})),
        row(Policy(), 2, changes=json.dumps({"tenant-4711": 1})),
        row(Policy(), 3, changes="tenant-4711"),
        row(Policy(), 4, policy="", status="crash", description="tenant-4711 is no policy"),
    ]
    settings = {"model": "small", "key": SECRET}
    with chatting(said("nothing of use"), said(GOOD)) as chat:
        driver("agent", Options(url=chat.url, **settings)).propose(INCUMBENT, ledger(rows))
    assert len(chat.bodies) == 2
    for body in chat.bodies:
        sent = body.replace(json.dumps(program.text())[1:-1], "")
        assert [word for word in [*private, SECRET] if word in sent] == []
        assert body.count("\\tnot a policy") == 4


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=2)}\n```",
        f"I would try more of them.\n\n```\n{json.dumps(GOOD)}\n```\nGood luck!",
        json.dumps({**GOOD, "policy": "search:\n  portfolio_size: 12\n"}),
        json.dumps({**GOOD, "confidence": 0.9}),
    ],
)
def test_an_answer_may_be_fenced_have_words_around_it_or_hold_yaml(answer: str) -> None:
    policy, description = read_answer(answer)
    assert policy.search == {"portfolio_size": 12}
    assert description == "Twelve are better than ten."


UNUSABLE = {
    "no object": ("Try twelve.", "holds no JSON object"),
    "broken JSON": ('{"policy": {"search": }', "not valid JSON"),
    "nested": ('{"policy":' + "[" * 100_000 + "}", "not valid JSON"),
    "no policy": ('{"description": "d"}', "policy: Field required"),
    "no sentence": (json.dumps({**GOOD, "description": ""}), "description: String should have"),
    "a list": (json.dumps({**GOOD, "policy": [1]}), "policy"),
    "no search": (json.dumps({**GOOD, "policy": {"portfolio_size": 12}}), "exactly one key"),
    "bad YAML": (json.dumps({**GOOD, "policy": "search: ["}), "not valid YAML"),
    "nested YAML": (json.dumps({**GOOD, "policy": "[" * 1_500}), "not valid YAML"),
    "unknown field": (json.dumps({**GOOD, "policy": {"search": {"k": 1}}}), "there is no field"),
    "out of range": (json.dumps({**GOOD, "policy": {"search": {"neighbours": 0}}}), "neighbours"),
    "forbidden": (json.dumps({**GOOD, "policy": {"search": {"gate_seed": 3}}}), "may not be"),
    "no candidate": (
        json.dumps({**GOOD, "policy": {"search": {"candidates": ["x"]}}}),
        "no configuration is named",
    ),
}


@pytest.mark.parametrize(("answer", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_answer_that_cannot_be_used_is_refused(answer: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        read_answer(answer)


def test_an_unusable_answer_is_asked_for_again_once_with_the_error() -> None:
    with chatting(said("Try twelve."), said(GOOD)) as chat:
        assert proposed(chat).policy.search == {"portfolio_size": 12}
    again = chat.messages[1]
    assert again[:2] == chat.messages[0]
    assert again[2] == {"role": "assistant", "content": "Try twelve."}
    assert "the answer holds no JSON object" in again[3]["content"]
    assert FORM in again[3]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        said("Try twelve."),
        said({"policy": {"search": {"gate_seed": 3}}, "description": "luck"}),
        Reply("<html>It works!</html>"),
        Reply('{"choices": []}'),
        Reply(json.dumps({"choices": [{"message": {"content": None}}]})),
        Reply(""),
    ],
    ids=["words", "forbidden", "html", "no choice", "no content", "nothing"],
)
def test_a_second_unusable_answer_is_a_policy_error(reply: Reply) -> None:
    with chatting(reply) as chat, pytest.raises(PolicyError):
        proposed(chat)
    assert len(chat.bodies) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again(status: int) -> None:
    fault = Reply("later", status, {"Retry-After": "0"})
    with chatting(fault, fault, said(GOOD)) as chat:
        assert proposed(chat).policy.search == {"portfolio_size": 12}
    assert len(chat.bodies) == ATTEMPTS


@pytest.mark.parametrize("status", [429, 500])
def test_a_lasting_fault_ends_with_a_message(status: int) -> None:
    with chatting(Reply("no", status)) as chat, pytest.raises(DriverError) as failed:
        proposed(chat)
    assert f"127.0.0.1 did not answer after {ATTEMPTS} attempts: status {status}" in str(
        failed.value
    )
    assert len(chat.bodies) == ATTEMPTS


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_a_refusal_is_not_tried_again_and_names_the_settings(status: int) -> None:
    reply = Reply("no", status, {"Location": "http://127.0.0.1:9/elsewhere"})
    with (
        chatting(reply) as chat,
        pytest.raises(DriverError, match="check TSFM_AGENT_URL") as failed,
    ):
        proposed(chat)
    assert f"status {status}" in str(failed.value)
    assert SECRET not in str(failed.value)
    assert len(chat.bodies) == 1


@pytest.mark.parametrize(
    "reply",
    [Reply("never", pause_s=60.0), Reply(" " * 10_000, pause_s=0.02)],
    ids=["silent", "one byte at a time"],
)
def test_a_hanging_endpoint_is_given_up(reply: Reply) -> None:
    with chatting(reply) as chat, pytest.raises(DriverError, match="did not answer"):
        proposed(chat, timeout_seconds=0.2)
    assert len(chat.bodies) == ATTEMPTS


def test_a_flood_is_cut_off() -> None:
    with (
        chatting(Reply("x" * (MOST_BYTES + 1))) as chat,
        pytest.raises(DriverError, match="more than"),
    ):
        proposed(chat)
    assert len(chat.bodies) == 1


def test_an_address_where_nothing_listens_ends_with_a_message() -> None:
    with chatting(said(GOOD)) as chat:
        pass
    with pytest.raises(DriverError, match="did not answer after 3 attempts"):
        proposed(chat)


def test_the_message_says_how_to_switch_it_on() -> None:
    assert all(f"TSFM_AGENT_{name}" in OFF for name in ("URL", "MODEL", "KEY"))


def test_it_is_off_until_an_address_and_a_model_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in (Options(), Options(url="http://localhost:1/v1"), Options(model="small")):
        with pytest.raises(DriverError, match="is switched off"):
            driver("agent", options)
    monkeypatch.setenv("TSFM_AGENT_MODEL", "small")
    with chatting(said(GOOD)) as chat:
        monkeypatch.setenv("TSFM_AGENT_URL", f"{chat.url}/")
        proposal = driver("agent", Options()).propose(INCUMBENT, ledger([row(Policy(), 0)]))
    assert proposal is not None
    assert proposal.policy.search == {"portfolio_size": 12}
    assert chat.paths == ["/v1/chat/completions"]
    assert "authorization" not in chat.headers[0]


def test_a_wrong_address_is_refused_without_being_repeated() -> None:
    with pytest.raises(DriverError, match="TSFM_AGENT_URL: URL scheme should be") as refused:
        driver("agent", Options(url=f"ftp://me:{SECRET}@host/v1", model="small"))
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(Options(key=SECRET))
