"""Each allocation fails once, as in tests/np/test_oom.py: checkpoints are whole, loads right or an error.

The interpreter's allocations only where it survives that: pickling an OrderedDict crashes CPython 3.11
(odictiter_new frees what it has not told the collector of), torch's own reader crashes in pybind11.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch
from tests import oom
from tests.marks import near
from tests.oom import Allocations, Save

PART = 5 * 1024 * 1024
WEIGHTS = torch.arange(PART // 8 + 1000, dtype=torch.int64)
STATE = OrderedDict(a=WEIGHTS[:1000].clone(), b=torch.ones(3), c=torch.ones(2, 2))
LARGE = {"w": WEIGHTS, "step": 3, "name": "large"}

pytestmark = [
    pytest.mark.oom,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def same(got: Any, wanted: Any) -> bool:
    return got.keys() == wanted.keys() and all(
        torch.equal(got[name], value) if isinstance(value, torch.Tensor) else got[name] == value
        for name, value in wanted.items()
    )


def save_to_file(uri: str) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=2) as stream:
        torch.save(LARGE, stream)


def load_from_file(uri: str) -> Any:
    with s3dlio_np.open(uri, part_size=1 << 20, max_concurrency=2) as stream:
        return torch.load(stream)


SAVES = {
    "native": Save(
        lambda uri: s3dlio_torch.save(LARGE, uri, part_size=PART, max_concurrency=2),
        s3dlio_torch.load,
        lambda got: same(got, LARGE),
    ),
    "plain": Save(
        lambda uri: s3dlio_torch.save(STATE, uri),
        s3dlio_torch.load,
        lambda got: same(got, STATE),
    ),
    "safetensors": Save(
        lambda uri: s3dlio_torch.save_safetensors(dict(STATE), uri),
        s3dlio_torch.load_safetensors,
        lambda got: same(got, dict(STATE)),
    ),
    "torch.save": Save(save_to_file, load_from_file, lambda got: same(got, LARGE)),
}


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    with oom.bounded():
        yield


@near
@pytest.mark.parametrize("name", SAVES)
def test_a_save(target: Any, name: str) -> None:
    oom.check_save(oom.ENGINE, target, SAVES[name])


@near
@pytest.mark.parametrize("name", SAVES)
def test_a_load(target: Any, name: str) -> None:
    SAVES[name].do(target.uri("x"))
    oom.check_load(oom.ENGINE, target.uri("x"), SAVES[name].load, SAVES[name].right)


@near
@oom.of_the_interpreter
@pytest.mark.parametrize("name", ["native", "plain"])
def test_a_native_load(target: Any, name: str, allocations: Allocations) -> None:
    SAVES[name].do(target.uri("x"))
    oom.check_load(allocations, target.uri("x"), SAVES[name].load, SAVES[name].right)


@near
def test_some_tensors(target: Any) -> None:
    s3dlio_torch.save(STATE, target.uri("x"))
    oom.check_load(
        oom.ENGINE,
        target.uri("x"),
        lambda uri: s3dlio_torch.load(uri, keys=["a"]),
        lambda got: torch.equal(got["a"], STATE["a"]),
    )
