"""Fixtures of the tests of credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio_np
from tests.servers.fake_aws import FakeAws


@pytest.fixture
def place(s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The own server's bucket, and no credentials anywhere; HOME is `tmp_path`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "CONFIG_FILE",
        "SHARED_CREDENTIALS_FILE",
    ):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    yield s3_own
    s3dlio_np.configure(credentials=None)


@pytest.fixture
def fake(place: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    """The services that give out credentials; what they issue, the bucket's server takes."""
    with FakeAws(place.server) as fake:
        fake.accepted["testkey"] = ("testsecret", None)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", fake.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", fake.endpoint)
        yield fake
