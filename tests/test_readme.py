"""What README.md shows runs as it stands there (recipes for other libraries: tests/interop), and the
files that documents and comments name exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio_np
from tests import readme
from tests.child import ROOT


def test_use_it(s3_own: Any) -> None:
    save_torch, save_numpy, save_pickle, write_streams = readme.blocks("Use it")
    model = torch.nn.Linear(3, 2)
    loaded = readme.run(save_torch, {"model": model})["state"]
    assert loaded["step"] == 1000
    assert torch.equal(loaded["model"]["weight"], model.weight)

    images = np.arange(12).reshape(3, 4)
    names = readme.run(save_numpy, {"images": images, "labels": np.ones(3)})
    assert names["images"] is not images
    np.testing.assert_array_equal(names["images"], images)

    results = {"accuracy": [0.5, 0.75]}
    names = readme.run(save_pickle, {"results": results})
    assert names["results"] == results and names["results"] is not results

    readme.run(write_streams, {"array": images, "arrays": {"images": images}})
    assert s3dlio_np.get_bytes("s3://bucket/log.bin") == images.tobytes()
    np.testing.assert_array_equal(s3dlio_np.load("s3://bucket/big.npz")["images"], images)
    expected = ["big.npz", "data.npz", "log.bin", "results.pkl", "run1/step1000.pt"]
    assert sorted(s3_own.objects()) == expected


def test_credentials(s3_own: Any) -> None:
    (code,) = readme.blocks("Credentials")
    asked = []

    def read(name: str) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(
            access_key="testkey", secret_key="testsecret", session_token=None, expiry=None
        )

    try:
        readme.run(code, {"vault": SimpleNamespace(read=read)})
        s3dlio_np.put(s3_own.uri("x"), b"1")
    finally:
        s3dlio_np.configure(credentials=None)
    assert asked == ["s3"] and list(s3_own.objects()) == ["x"]


def test_no_code_is_left_out() -> None:
    tested = ["Use it", "With other libraries", "Credentials"]
    found = re.findall(r"^```python$", readme.TEXT, re.MULTILINE)
    assert len(found) == sum(len(readme.blocks(title)) for title in tested) > 10


def test_configure_names_every_setting() -> None:
    names = re.findall(r"^\| `.*? \| `(\w+)` \|", readme.TEXT, re.MULTILINE)
    told = set(re.findall(r"\w+", s3dlio_np.configure.__doc__ or ""))
    assert len(names) > 40 and set(names) <= told


FOLDERS = ["csrc", "s3dlio_np", "s3dlio_torch", "tests", "benchmarks", "tools", "examples"]
KINDS = [".py", ".pyi", ".c", ".h", ".sh", ".mk", ".md"]
FILES = [
    f"/{path.relative_to(ROOT)}"
    for top in FOLDERS
    for path in (ROOT / top).rglob("*.*")
    if path.suffix in KINDS
]
DOCUMENTS = ["README.md", "csrc/README.md", "tests/servers/README.md"]
SOURCES = [name[1:] for name in FILES if re.search(r"^/csrc/.*\.[ch]$|^/s3dlio_\w+/\w+\.pyi?$", name)]


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (DOCUMENTS, r"(?<![-\w.:/])([-\w./*]*\w\.(?:py|c|h|sh|mk|md))\b(?!:)"),
        (SOURCES, r"(?<![\w./:<-])((?:core|bind|backends|formats|tests|tools)/[\w./*]*\w\.(?:py|[ch]))\b"),
    ],
    ids=["documents", "sources"],
)
def test_files_that_are_named_exist(names: list[str], pattern: str) -> None:
    named = {
        (name, found)
        for name in names
        for found in re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert [
        pair for pair in sorted(named) if not any(fnmatch(file, f"*/{pair[1]}") for file in FILES)
    ] == []
