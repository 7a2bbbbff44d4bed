"""Who may ask for forecasts: the bearer token, and whether a service may start without one.

What belongs here: checking a token at start and in a header. What does not: limits per caller
(`limits`), and the routes that need a token (`app`).
"""

import hmac
from ipaddress import ip_address

from pydantic import SecretStr

from tsfm_pipeline.serving.settings import TOKEN_NAMES, ServingSettings

PLACEHOLDERS = frozenset(
    {
        "tsfm-dev-token",
        "dev-token",
        "changeme",
        "change-me",
        "change_me",
        "default",
        "example",
        "password",
        "placeholder",
        "replace-me",
        "secret",
        "test",
        "token",
        "your-token",
        "your-token-here",
        "xxx",
    }
)
"""Tokens that stand in examples, lower case."""


class TokenError(ValueError):
    """The service may not start with this token; the message says what to do."""


class Bearer:
    """A bearer token that callers must present. None: every caller is let in."""

    def __init__(self, token: SecretStr | None) -> None:
        self._token = None if token is None else token.get_secret_value().encode()

    def allows(self, header: str | None) -> bool:
        """Return whether the value of an Authorization header presents the token.

        The comparison takes equally long wherever the tokens differ. A header may hold any
        characters; they are compared as the bytes that came.
        """
        if self._token is None:
            return True
        scheme, _, given = (header or "").partition(" ")
        presented = given.strip().encode("latin-1", errors="replace")
        return scheme.lower() == "bearer" and hmac.compare_digest(presented, self._token)


def callers_token(settings: ServingSettings, *, no_auth: bool) -> Bearer:
    """Return the token that callers must present.

    no_auth: let everybody in, which is allowed on a loopback address only. Raises `TokenError`
    without a token, for a token that stands in examples, and for `no_auth` on another address.
    """
    if no_auth:
        if not is_loopback(settings.host):
            raise TokenError(
                f"--no-auth with host {settings.host}: everybody who reaches this machine could "
                "ask for forecasts; allowed: a loopback address such as 127.0.0.1"
            )
        return Bearer(None)
    token = _stripped(settings.token)
    if not token:
        raise TokenError(
            f"no token is set: set {TOKEN_NAMES[0]} (for example to the output of "
            '`python -c "import secrets; print(secrets.token_urlsafe(32))"`), or listen on '
            "127.0.0.1 with --no-auth"
        )
    return _real(token, TOKEN_NAMES[0])


def metrics_token(settings: ServingSettings, callers: Bearer) -> Bearer:
    """Return the token that /metrics needs: its own, else none on a loopback address, else the
    callers'. An empty one counts as none. Raises `TokenError` for one that stands in examples.
    """
    token = _stripped(settings.metrics_token)
    if token:
        return _real(token, "TSFM_SERVING_METRICS_TOKEN")
    return Bearer(None) if is_loopback(settings.host) else callers


def _stripped(token: SecretStr | None) -> str:
    return "" if token is None else token.get_secret_value().strip()


def _real(token: str, name: str) -> Bearer:
    """Return a token; name: of its setting. Raises `TokenError` for a placeholder."""
    if token.lower() in PLACEHOLDERS:
        raise TokenError(
            f"the token in {name} is a placeholder that stands in examples; "
            "allowed: a random one, for example the output of "
            '`python -c "import secrets; print(secrets.token_urlsafe(32))"`'
        )
    return Bearer(SecretStr(token))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
