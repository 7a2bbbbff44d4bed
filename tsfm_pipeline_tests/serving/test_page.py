"""Test what can be told of the page without a browser: one file, no network, and a policy under
which its own script runs.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files

import httpx
import pytest

from tsfm_pipeline_tests.serving.live import Live, Model, live

PAGE = (files("tsfm_pipeline.serving") / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def response() -> Iterator[httpx.Response]:
    with live(Model()) as running:
        yield served(running)


def served(running: Live) -> httpx.Response:
    return httpx.get(f"{running.url}/")


class Elements(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(PAGE)
    return parser.tags


def test_the_page_is_served_as_it_is(response: httpx.Response) -> None:
    assert response.status_code == 200
    assert response.text == PAGE
    assert response.headers["content-type"].startswith("text/html")


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for tag, attributes in elements():
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "data:").startswith("data:"), tag
    assert "@import" not in PAGE
    assert "url(" not in PAGE
    addresses = set(re.findall(r"https?://[^\"' )<]+", PAGE))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace, which is never fetched"


def test_the_policy_allows_the_pages_own_script_and_style_alone(response: httpx.Response) -> None:
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    inline = [name for _, given in elements() for name in given if name.startswith("on")]
    assert inline == [], "the policy forbids handlers in attributes"
    assert not any("style" in attributes for _, attributes in elements())


def test_every_field_has_a_label_and_every_id_that_the_script_uses_exists() -> None:
    ids = {attributes["id"] for _, attributes in elements() if "id" in attributes}
    assert set(re.findall(r'\$\("([a-z0-9-]+)"\)', PAGE)) <= ids
    fields = re.findall(r"<(?:input|select|textarea)", PAGE)
    labelled = re.findall(
        r"<label[^>]*>(?:(?!</label>).)*<(?:input|select|textarea)", PAGE, re.DOTALL
    )
    assert len(labelled) == len(fields)


def test_the_page_knows_light_and_dark_and_small_screens() -> None:
    assert "prefers-color-scheme: dark" in PAGE
    assert "color-scheme: light dark" in PAGE
    assert 'name="viewport"' in PAGE
    assert "max-width: 640px" in PAGE
