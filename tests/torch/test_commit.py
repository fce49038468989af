"""The request that makes a checkpoint visible, as tests/np/test_commit.py has it for other writers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import s3dlio_torch
from s3dlio_np import AccessDeniedError, ObjectExistsError, StorageError, WriterOptions
from tests.conftest import earn_retries
from tests.np.test_commit import ATTEMPTS, EXCEPTIONS, LATE, PART, REFUSED, remarks

TENSORS = {"a": torch.arange(1_500_000.0), "b": torch.arange(1_500_000.0).neg()}


@pytest.fixture(autouse=True)
def retries_to_spend(s3_own: Any) -> None:
    earn_retries(s3_own.uri("none"), ATTEMPTS * 5)


def save(uri: str, **options: Any) -> None:
    s3dlio_torch.save(TENSORS, uri, options=WriterOptions(part_size=PART, **options))


def check_loaded(uri: str) -> None:
    loaded = s3dlio_torch.load(uri)
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("count", [1, -1], ids=["once", "always"])
def test_a_completion_that_fails_late(s3_own: Any, name: str, count: int) -> None:
    rule, code, retried = LATE[name]
    fault = s3_own.server.add_fault(op="CompleteMultipartUpload", count=count, **rule)
    if retried and count == 1:
        save(s3_own.uri("new"))
        check_loaded(s3_own.uri("new"))
    else:
        with pytest.raises(StorageError) as caught:
            save(s3_own.uri("new"))
        assert type(caught.value) is EXCEPTIONS.get(code, StorageError)
        assert caught.value.code == code
        assert s3_own.objects() == {}
    assert fault.hits() == (ATTEMPTS if retried and count == -1 else 1)
    assert s3_own.uploads() == []


def test_an_answer_is_lost(s3_own: Any) -> None:
    fault = s3_own.server.add_fault(op="CompleteMultipartUpload", kind="lost_reply")
    save(s3_own.uri("new"), if_none_match=True)
    assert fault.hits() == 1
    check_loaded(s3_own.uri("new"))
    with pytest.raises(ObjectExistsError):
        save(s3_own.uri("new"), if_none_match=True)
    assert s3_own.uploads() == []


def test_an_upload_that_cannot_be_removed(
    s3_own: Any, recwarn: pytest.WarningsRecorder
) -> None:
    part = s3_own.server.add_fault(
        op="UploadPart", kind="status", status=403, code="AccessDenied", count=-1
    )
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", **REFUSED)
    with pytest.raises(AccessDeniedError, match="could not be removed") as caught:
        save(s3_own.uri("new"))
    assert (part.hits() >= 1, fault.hits()) == (True, 1)
    assert remarks(caught.value, recwarn) == []  # its text says so already
    (left,) = s3_own.server.uploads()
    assert left["upload_id"] in str(caught.value)
