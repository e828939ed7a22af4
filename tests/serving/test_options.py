"""Options that are checked before anything starts."""

from __future__ import annotations

import pytest

from gan_core.errors import ConfigError
from gan_serving.options import check_origin
from gan_serving.tracing import check_endpoint


@pytest.mark.parametrize("origin", ["*", "https://example.org", "http://localhost:3000", "app://x"])
def test_an_origin_is_accepted(origin: str) -> None:
    check_origin(origin)


@pytest.mark.parametrize(
    "origin", ["", "example.org", "localhost:3000", "https://", "https://example.org/", "null"]
)
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="is not an origin"):
        check_origin(origin)


@pytest.mark.parametrize("endpoint", ["http://collector:4318", "https://example.org/otlp/"])
def test_a_collectors_url_is_accepted(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "collector:4318", "http://", "ftp://x"])
def test_what_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="traces can't go to"):
        check_endpoint(endpoint)


def test_an_address_without_a_scheme_is_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    check_endpoint("collector:4317")
