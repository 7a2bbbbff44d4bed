"""Test alerts: what is posted, when it is posted again, and that the webhook's address is never
disclosed.
"""

import logging

import pytest
from pydantic import ValidationError

from tsfm_pipeline.defs.alerts import ATTEMPTS, Alert, AlertError, AlertSettings, post
from tsfm_pipeline_tests.webhook import SECRET, listening

ALERT = Alert(
    kind="run_failed",
    fleet="shop",
    run_id="r1",
    text="step a failed",
    details=({"step": "a", "reason": "no file"},),
)


def settings(url: str) -> AlertSettings:
    return AlertSettings(webhook_url=url)  # type: ignore[arg-type]


def test_an_alert_is_one_flat_json_object() -> None:
    with listening() as webhook:
        post(ALERT, settings(webhook.url))
    (body,) = webhook.bodies
    assert set(body) == {"kind", "fleet", "run_id", "text", "details", "time"}
    assert (body["kind"], body["fleet"], body["run_id"], body["text"]) == (
        "run_failed",
        "shop",
        "r1",
        "step a failed",
    )
    assert body["details"] == [{"step": "a", "reason": "no file"}]
    assert body["time"].endswith("Z")


@pytest.mark.heavy
def test_a_passing_fault_is_tried_again_and_a_refusal_is_not() -> None:
    with listening([503, 429]) as webhook:
        post(ALERT, settings(webhook.url))
    assert len(webhook.bodies) == 3
    with (
        listening([404]) as webhook,
        pytest.raises(
            AlertError, match=r"127\.0\.0\.1 refused the alert: status 404; see TSFM_ALERT"
        ),
    ):
        post(ALERT, settings(webhook.url))
    assert len(webhook.bodies) == 1


@pytest.mark.heavy
def test_what_is_not_delivered_is_said_without_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with listening([500] * ATTEMPTS) as webhook, pytest.raises(AlertError) as failed:
        post(ALERT, settings(webhook.url))
    with pytest.raises(AlertError, match=f"after {ATTEMPTS} attempts: .*refused") as unreachable:
        post(ALERT, settings(webhook.url))  # nobody listens any more
    with listening() as webhook:
        post(ALERT, settings(webhook.url))
    assert "did not accept the alert after 3 attempts: status 500" in str(failed.value)
    told = (
        f"{failed.value!r} {failed.value.__cause__!r} {unreachable.value!r} {caplog.text} "
        f"{settings(webhook.url)!r}"
    )
    assert SECRET not in told


def test_without_a_webhook_nothing_is_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSFM_ALERT_WEBHOOK_URL", raising=False)
    assert AlertSettings().webhook_url is None
    post(ALERT, AlertSettings())


def test_an_address_that_is_none_is_refused_by_its_name_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TSFM_ALERT_WEBHOOK_URL", f"ftp://chat/{SECRET}")
    with pytest.raises(ValidationError, match="webhook_url") as refused:
        AlertSettings()
    assert "'http' or 'https'" in str(refused.value)
    assert SECRET not in str(refused.value)
