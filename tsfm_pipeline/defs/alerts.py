"""Alerts: messages for people who are not watching the UI, and the one webhook that they are posted
to.

What belongs here: an alert's fields (its JSON is an interface, see docs/operating.md) and its
delivery. What does not: detecting what to report (`defs.sensors`), and code for particular
services: a chat's incoming webhook shows `text`, everything else reads the fields.
"""

import logging
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, Secret
from pydantic_settings import BaseSettings, SettingsConfigDict

ATTEMPTS = 3
TIMEOUT_S = 3.0
LONGEST_WAIT_S = 2.0
"""The longest wait between two attempts. Dagster gives a sensor one minute for up to five runs;
three attempts of this length leave time for all of them.
"""


class AlertError(RuntimeError):
    """An alert could not be delivered; the message names the host, never the rest of the address,
    which may hold a secret.
    """


class AlertSettings(BaseSettings):
    """Where alerts go besides the log. Raises `pydantic.ValidationError`, without the value, if the
    address is not an http(s) address.
    """

    model_config = SettingsConfigDict(
        env_prefix="TSFM_ALERT_", frozen=True, hide_input_in_errors=True
    )

    webhook_url: Secret[HttpUrl] | None = Field(
        None, description="address that alerts are posted to as JSON; none: they are only logged"
    )


class Alert(BaseModel):
    """One event that a person should know about.

    text: the full message in one or two sentences, for chats and mails. details: one record of
    names and values per failed step or criterion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["run_failed", "criterion_failed"]
    fleet: str
    run_id: str
    text: str
    details: tuple[dict[str, str], ...] = ()
    time: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))


def post(alert: Alert, settings: AlertSettings) -> None:
    """Post an alert to the webhook, if one is set; try again after temporary faults (no connection,
    429, 5xx).

    Raises `AlertError` if the webhook did not accept it.
    """
    if settings.webhook_url is None:
        return
    import httpx
    from tenacity import (
        Retrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential_jitter,
    )

    url = str(settings.webhook_url.get_secret_value())
    host = settings.webhook_url.get_secret_value().host
    # httpx logs whole addresses at INFO, and an address may hold a secret.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    attempts = Retrying(
        retry=retry_if_exception_type((httpx.TransportError, _PassingFault)),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential_jitter(initial=0.25, max=LONGEST_WAIT_S, jitter=0.25),
        reraise=True,
    )
    try:
        attempts(_post_once, url, alert.model_dump(mode="json"))
    except (httpx.TransportError, _PassingFault) as error:
        reason = str(error) or type(error).__name__
        raise AlertError(
            f"the webhook at {host} did not accept the alert after {ATTEMPTS} attempts: {reason}"
        ) from None
    except _Refusal as error:
        raise AlertError(
            f"the webhook at {host} refused the alert: {error}; see TSFM_ALERT_WEBHOOK_URL"
        ) from None


class _PassingFault(RuntimeError):
    """A response after which another attempt may succeed."""


class _Refusal(RuntimeError):
    """A response after which another attempt will not succeed."""


def _post_once(url: str, content: dict[str, object]) -> None:
    import httpx

    response = httpx.post(url, json=content, timeout=TIMEOUT_S)
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        raise _PassingFault(f"status {response.status_code}")
    if not response.is_success:
        raise _Refusal(f"status {response.status_code}")
