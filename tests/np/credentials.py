"""What the tests of credentials share; the fixtures `place` and `fake` are in conftest.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import s3dlio_np
from tests.servers.fake_aws import SECRET, FakeAws

# A program that opens its argument for writing, and waits for its keys.
HANGING = """
    import os, sys, s3dlio_np
    try:
        s3dlio_np.open(sys.argv[1], "wb")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def write_config(tmp_path: Path, text: str) -> None:
    (tmp_path / ".aws" / "config").write_text(text)


def put(place: Any, key: str = "x") -> None:
    assert s3dlio_np.put(place.uri(key), b"1")["size"] == 1


def refused(place: Any, *texts: str, kind: type[Exception] = PermissionError) -> Any:
    """The error of a stream that cannot have keys; it shows no secret."""
    with pytest.raises(kind) as caught:
        s3dlio_np.open(place.uri("x"), "wb")
    for text in texts:
        assert text in str(caught.value)
    assert SECRET not in repr(caught.value) + str(vars(caught.value))
    assert not any(place.server.counters()["requests"].values())
    return caught.value


def use_container(
    fake: FakeAws, monkeypatch: pytest.MonkeyPatch, path: str = "/container"
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", fake.endpoint + path)
