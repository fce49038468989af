"""Fixtures of the tests of the unpickler in C."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s3dlio_torch import _archive, _plain
from tests.torch.plain import Taken


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    loads, load_plain = Taken(), _archive.load_plain

    def watched(*arguments: Any, **keywords: Any) -> Any:
        if not loads.on:
            return _plain.NOT_PLAIN
        result = load_plain(*arguments, **keywords)
        loads.append(result is not _plain.NOT_PLAIN)
        return result

    monkeypatch.setattr(_archive, "load_plain", watched)
    return loads


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "m.pt")
