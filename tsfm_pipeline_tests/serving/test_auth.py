"""Test who is let in, and that a service without a real token does not start.

What belongs here: tokens at start and in headers. What does not: the routes (`test_app`).
"""

import pytest
from pydantic import SecretStr

from tsfm_pipeline.serving.auth import (
    PLACEHOLDERS,
    Bearer,
    TokenError,
    callers_token,
    is_loopback,
    metrics_token,
)
from tsfm_pipeline.serving.settings import ServingSettings

REAL = "Zq8w-a-real-token"


def settings(**options: object) -> ServingSettings:
    return ServingSettings(**{"token": REAL} | options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_token_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TSFM_SERVING_TOKEN", "FORECAST_API_TOKEN", "TSFM_FORECAST_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_a1_only_the_token_itself_is_let_in() -> None:
    bearer = Bearer(SecretStr(REAL))
    assert bearer.allows(f"Bearer {REAL}")
    assert bearer.allows(f"bearer  {REAL} ")
    for header in (None, "", REAL, f"Basic {REAL}", "Bearer", f"Bearer {REAL}x", "Bearer "):
        assert not bearer.allows(header)


@pytest.mark.parametrize("header", ["Bearer tökén", "Bearer \udcff", "Bearer 令牌", "Bearer \x00"])
def test_a1_a_header_of_any_characters_is_refused_not_an_error(header: str) -> None:
    assert not Bearer(SecretStr(REAL)).allows(header)


def test_a1_a_token_beyond_ascii_is_compared_as_the_bytes_that_came() -> None:
    token = "schlüssel-令牌"
    as_starlette_reads_it = f"Bearer {token}".encode().decode("latin-1")
    assert Bearer(SecretStr(token)).allows(as_starlette_reads_it)


@pytest.mark.parametrize("token", [None, "", "   "])
def test_a1_without_a_token_the_service_does_not_start(token: str | None) -> None:
    with pytest.raises(TokenError, match=r"TSFM_SERVING_TOKEN.*--no-auth"):
        callers_token(settings(token=token), no_auth=False)


@pytest.mark.parametrize("token", [*sorted(PLACEHOLDERS), "ChangeMe", " tsfm-dev-token "])
def test_a1_with_a_placeholder_the_service_does_not_start(token: str) -> None:
    with pytest.raises(TokenError, match="placeholder"):
        callers_token(settings(token=token), no_auth=False)


def test_everybody_is_let_in_on_a_loopback_address_alone() -> None:
    assert callers_token(settings(token=None), no_auth=True).allows(None)
    with pytest.raises(TokenError, match=r"0\.0\.0\.0"):
        callers_token(settings(host="0.0.0.0"), no_auth=True)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example")),
    ],
)
def test_a_loopback_address_is_told_from_others(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_metrics_are_open_on_loopback_and_else_need_a_token() -> None:
    callers = Bearer(SecretStr(REAL))
    assert metrics_token(settings(), callers).allows(None)
    assert not metrics_token(settings(host="0.0.0.0"), callers).allows(None)
    own = metrics_token(settings(metrics_token="own token"), callers)
    assert not own.allows(None)
    assert own.allows("Bearer own token")


def test_an_empty_token_for_metrics_opens_them_to_nobody() -> None:
    callers = Bearer(SecretStr(REAL))
    for empty in ("", "  "):
        found = metrics_token(settings(host="0.0.0.0", metrics_token=empty), callers)
        assert not found.allows("Bearer ")
        assert found.allows(f"Bearer {REAL}")


def test_a_token_for_metrics_may_come_from_a_file_and_is_no_placeholder() -> None:
    callers = Bearer(SecretStr(REAL))
    assert metrics_token(settings(metrics_token="own\n"), callers).allows("Bearer own")
    with pytest.raises(TokenError, match="METRICS_TOKEN"):
        metrics_token(settings(metrics_token="changeme"), callers)


def test_no_message_shows_the_token() -> None:
    with pytest.raises(TokenError) as caught:
        callers_token(settings(token="tsfm-dev-token", host="0.0.0.0"), no_auth=False)
    assert "tsfm-dev-token" not in str(caught.value)
