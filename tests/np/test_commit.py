"""The request that makes an object visible: refused late, sent twice, unheard, in the way of another."""

from __future__ import annotations

import base64
import gc
import os
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import s3dlio_np
from s3dlio_np import WriterOptions
from tests.conftest import S3Bucket, earn_retries, point_engine_at
from tests.servers.own import OwnServer

PART = 5 * 2**20
SIZES = {"PutObject": 1000, "CompleteMultipartUpload": 2 * PART + 77}
WRITE_ID = "x-amz-meta-s3dlio-write-id"
ATTEMPTS = 5


@pytest.fixture(autouse=True)
def retries_to_spend(s3_own: S3Bucket) -> None:
    earn_retries(s3_own.uri("none"), 2 * ATTEMPTS * 5)


def some_bytes(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


LARGE = some_bytes(SIZES["CompleteMultipartUpload"])


def by_stream(uri: str, **options: Any) -> str:
    with s3dlio_np.open(uri, "wb", options=WriterOptions(part_size=PART, **options)) as stream:
        for start in range(0, len(LARGE), 1_000_000):
            stream.write(LARGE[start : start + 1_000_000])
    return stream.close()["etag"]


def by_put(uri: str, **options: Any) -> str:
    result = s3dlio_np.put(uri, LARGE, options=WriterOptions(part_size=PART, **options))
    return result["etag"]


def by_savez(uri: str, **options: Any) -> str:
    array = np.frombuffer(LARGE, np.uint8)
    s3dlio_np.savez(uri, options=WriterOptions(part_size=PART, **options), a=array)
    with s3dlio_np.load(uri) as loaded:
        assert np.array_equal(loaded["a"], array)
    return s3dlio_np.stat(uri)["etag"]


WRITERS = [by_stream, by_put, by_savez]


def check_nothing(s3_own: S3Bucket) -> None:
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])


# --- a failure behind the 200 of a completion ---------------------------------------------------


def late(code: str) -> dict[str, Any]:
    return {"kind": "error_200", "code": code}


def body(text: str) -> dict[str, Any]:
    return {"kind": "body_200", "text": text}


DENIED = "<Error><Code>AccessDenied</Code><Message>No</Message></Error>"
# What comes: the code it ends with, whether it is tried again.
LATE: dict[str, tuple[dict[str, Any], str, bool]] = {
    "InternalError": (late("InternalError"), "SERVER", True),
    "unknown code": (late("TheMoonIsFull"), "SERVER", True),
    "no code": (body("<Error/>"), "SERVER", True),
    "AccessDenied": (late("AccessDenied"), "DENIED", False),
    "InvalidPart": (late("InvalidPart"), "REJECTED", False),
    "InvalidPartOrder": (late("InvalidPartOrder"), "REJECTED", False),
    "EntityTooSmall": (late("EntityTooSmall"), "REJECTED", False),
    "NoSuchUpload": (late("NoSuchUpload"), "REJECTED", False),
    "PreconditionFailed": (late("PreconditionFailed"), "REJECTED", False),
    "blanks before": (body(f" \n\t\n{DENIED}"), "DENIED", False),
    "blanks and a declaration": (body(f"\n <?xml version='1.0'?>\n{DENIED}"), "DENIED", False),
    "blanks behind a declaration": (
        body(f"<?xml version='1.0'?>\n  {DENIED}"),
        "DENIED",
        False,
    ),
    "broken XML": (body("<CompleteMultipartUploadResult><ETag>"), "PROTOCOL", True),
    "another document": (body("<html><body>Hello</body></html>"), "PROTOCOL", True),
    "nothing": (body(""), "PROTOCOL", True),
    "only blanks": (body("  \n"), "PROTOCOL", True),
}
EXCEPTIONS = {"DENIED": s3dlio_np.AccessDeniedError}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", LATE)
def test_a_completion_that_fails_late(
    s3_own: S3Bucket, write: Callable[..., str], name: str
) -> None:
    rule, code, retried = LATE[name]
    fault = s3_own.server.add_fault(op="CompleteMultipartUpload", count=-1, **rule)
    with pytest.raises(s3dlio_np.StorageError) as caught:
        write(s3_own.uri("new"))
    assert fault.hits() == (ATTEMPTS if retried else 1)
    assert type(caught.value) is EXCEPTIONS.get(code, s3dlio_np.StorageError)
    assert (caught.value.code, caught.value.attempts) == (code, fault.hits())
    assert caught.value.operation == "CompleteMultipartUpload"
    assert rule.get("code", "") in str(caught.value)
    check_nothing(s3_own)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "name", ["SlowDown", *(name for name, (_, _, retried) in LATE.items() if retried)]
)
def test_a_completion_that_fails_late_once(
    s3_own: S3Bucket, write: Callable[..., str], name: str
) -> None:
    rule = late(name) if name == "SlowDown" else LATE[name][0]
    fault = s3_own.server.add_fault(op="CompleteMultipartUpload", **rule)
    assert write(s3_own.uri("new")) == s3dlio_np.stat(s3_own.uri("new"))["etag"]
    assert fault.hits() == 1
    assert write is by_savez or s3_own.get("new") == LARGE
    assert s3_own.uploads() == []


@pytest.mark.parametrize("write", WRITERS)
def test_a_completion_after_many_blanks(s3_own: S3Bucket, write: Callable[..., str]) -> None:
    """What keeps the connection alive while the store puts the parts together."""
    fault = s3_own.server.add_fault(op="CompleteMultipartUpload", kind="blanks", bytes=5000)
    assert write(s3_own.uri("new")) == s3dlio_np.stat(s3_own.uri("new"))["etag"]
    assert fault.hits() == 1
    assert s3_own.server.counters()["requests"]["CompleteMultipartUpload"] == 1


# --- conditions ---------------------------------------------------------------------------------


class Conditional:
    """A write of some size on a condition that holds when it begins, and what breaks it."""

    def __init__(self, s3: S3Bucket, op: str, condition: str) -> None:
        self.s3, self.op, self.condition = s3, op, condition
        self.data = some_bytes(SIZES[op])
        self.before = None if condition == "create" else b"the version to replace"
        options: dict[str, Any] = {"if_none_match": True}
        if self.before is not None:
            options = {"if_match": s3dlio_np.put(self.uri, self.before)["etag"]}
        self.options = WriterOptions(part_size=PART, **options)
        self.refused: type[s3dlio_np.StorageError] = (
            s3dlio_np.ObjectExistsError
            if condition == "create"
            else s3dlio_np.ObjectChangedError
        )

    @property
    def uri(self) -> str:
        return self.s3.uri("object")

    def fault(self, **rule: Any) -> Any:
        return self.s3.server.add_fault(op=self.op, **rule)

    def write(self) -> s3dlio_np.WriteResult:
        return s3dlio_np.put(self.uri, self.data, options=self.options)

    def write_and_check(self) -> None:
        assert self.write()["etag"] == s3dlio_np.stat(self.uri)["etag"]
        assert self.s3.get("object") == self.data
        assert self.s3.uploads() == []

    def check_untouched(self) -> None:
        stored = self.s3.get("object") if self.s3.objects() else None
        assert (stored, self.s3.uploads()) == (self.before, [])


@pytest.fixture
def opaque(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """A bucket where no ETag is an MD5, as with SSE-KMS and SSE-C."""
    with OwnServer(md5=False) as server:
        point_engine_at(server, monkeypatch)
        yield S3Bucket(server, "bucket")


by_size = pytest.mark.parametrize("op", list(SIZES))
on_condition = pytest.mark.parametrize("condition", ["create", "replace"])


@by_size
@on_condition
def test_an_answer_is_lost(s3_own: S3Bucket, op: str, condition: str) -> None:
    """Sent again, the request meets the object that it has made itself."""
    it = Conditional(s3_own, op, condition)
    fault = it.fault(kind="lost_reply")
    it.write_and_check()
    assert fault.hits() == 1
    assert s3_own.server.counters()["requests"][op] >= 2


@by_size
@on_condition
@pytest.mark.parametrize(
    "settings",
    [
        {"S3DLIO_SSE": "aws:kms"},
        {"S3DLIO_SSE_CUSTOMER_KEY": base64.b64encode(bytes(32)).decode()},
        {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"},
    ],
    ids=["sse-kms", "sse-c", "checksums"],
)
def test_an_answer_is_lost_and_no_etag_tells(
    opaque: S3Bucket,
    monkeypatch: pytest.MonkeyPatch,
    op: str,
    condition: str,
    settings: dict[str, str],
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    it = Conditional(opaque, op, condition)
    fault = it.fault(kind="lost_reply")
    it.write_and_check()
    assert fault.hits() == 1


@by_size
@on_condition
def test_no_attempt_is_heard(s3_own: S3Bucket, op: str, condition: str) -> None:
    """The first is carried out, the others break before: the object tells what came of it."""
    it = Conditional(s3_own, op, condition)
    lost = it.fault(kind="lost_reply")
    broken = it.fault(kind="reset_before", count=-1)
    it.write_and_check()
    assert (lost.hits(), broken.hits() >= ATTEMPTS - 1) == (1, True)


@by_size
@on_condition
def test_an_equal_object_of_another(s3_own: S3Bucket, op: str, condition: str) -> None:
    """Two writers of the same bytes: only one of them has written the object."""
    it = Conditional(s3_own, op, condition)
    s3dlio_np.put(it.uri, it.data, options=WriterOptions(part_size=PART))
    with pytest.raises(it.refused) as caught:
        it.write()
    assert caught.value.operation == op
    assert s3_own.get("object") == it.data
    assert s3_own.uploads() == []


@by_size
@on_condition
def test_an_equal_object_of_another_conditional_write(
    s3_own: S3Bucket, op: str, condition: str
) -> None:
    it = Conditional(s3_own, op, condition)
    it.write()
    broken = it.fault(kind="reset_before")
    with pytest.raises(it.refused):
        it.write()
    assert broken.hits() == 1
    assert s3_own.get("object") == it.data


@by_size
@on_condition
@pytest.mark.parametrize(
    ("status", "text"),
    [(403, "AccessDenied"), (500, "InternalError")],
    ids=["denied", "failing"],
)
def test_nobody_tells(
    s3_own: S3Bucket, op: str, condition: str, status: int, text: str
) -> None:
    """Never a success that is not known to be one, nor a collision."""
    it = Conditional(s3_own, op, condition)
    lost = it.fault(kind="lost_reply")
    deaf = s3_own.server.add_fault(
        op="HeadObject", kind="status", status=status, code=text, count=-1
    )
    with pytest.raises(s3dlio_np.StorageError, match="could not be found out") as caught:
        it.write()
    assert (lost.hits(), deaf.hits() >= 1) == (1, True)
    assert type(caught.value) is s3dlio_np.StorageError
    assert (caught.value.code, caught.value.operation) == ("UNDECIDED", op)
    assert s3_own.get("object") == it.data
    assert s3_own.uploads() == []


@by_size
@on_condition
def test_the_store_goes_silent(s3_own: S3Bucket, op: str, condition: str) -> None:
    it = Conditional(s3_own, op, condition)
    broken = it.fault(kind="reset_before", count=-1)
    deaf = s3_own.server.add_fault(op="HeadObject", kind="reset_before", count=-1)
    with pytest.raises(s3dlio_np.StorageError, match="could not be found out") as caught:
        it.write()
    assert (caught.value.code, caught.value.operation) == ("NETWORK", op)
    assert broken.hits() >= ATTEMPTS
    assert deaf.hits() >= ATTEMPTS
    it.check_untouched()


# --- conflicts ----------------------------------------------------------------------------------

CONFLICT = {"status": 409, "code": "ConditionalRequestConflict"}


@by_size
@on_condition
def test_a_conflict_passes(s3_own: S3Bucket, op: str, condition: str) -> None:
    it = Conditional(s3_own, op, condition)
    fault = it.fault(kind="status", **CONFLICT)
    it.write_and_check()
    assert fault.hits() == 1


@by_size
@on_condition
def test_a_conflict_stays(s3_own: S3Bucket, op: str, condition: str) -> None:
    it = Conditional(s3_own, op, condition)
    fault = it.fault(kind="status", count=-1, **CONFLICT)
    with pytest.raises(
        s3dlio_np.ObjectChangedError, match="ConditionalRequestConflict"
    ) as caught:
        it.write()
    assert fault.hits() == caught.value.attempts == ATTEMPTS
    assert (caught.value.code, caught.value.status) == ("CONFLICT", 409)
    it.check_untouched()


@on_condition
def test_a_conflict_ends_the_upload(s3_own: S3Bucket, condition: str) -> None:
    """As on S3, where the parts are to be sent anew."""
    it = Conditional(s3_own, "CompleteMultipartUpload", condition)
    fault = it.fault(kind="drop_upload", **CONFLICT)
    with pytest.raises(s3dlio_np.ObjectChangedError, match="write it again") as caught:
        it.write()
    assert fault.hits() == 1
    assert caught.value.code == "CONFLICT"
    it.check_untouched()
    it.write_and_check()


@pytest.mark.parametrize(
    ("kind", "op"),
    [("status", op) for op in SIZES] + [("drop_upload", "CompleteMultipartUpload")],
)
def test_a_conflict_with_who_came_first(s3_own: S3Bucket, kind: str, op: str) -> None:
    it = Conditional(s3_own, op, "create")
    s3dlio_np.put(it.uri, b"the first")
    fault = it.fault(kind=kind, count=-1, **CONFLICT)
    with pytest.raises(s3dlio_np.ObjectExistsError):
        it.write()
    assert fault.hits() >= 1
    assert s3_own.get("object") == b"the first"
    assert s3_own.uploads() == []


@by_size
def test_a_conflict_without_a_condition_is_none(s3_own: S3Bucket, op: str) -> None:
    fault = s3_own.server.add_fault(op=op, kind="status", **CONFLICT)
    with pytest.raises(s3dlio_np.StorageError) as caught:
        s3dlio_np.put(
            s3_own.uri("new"), some_bytes(SIZES[op]), options=WriterOptions(part_size=PART)
        )
    assert fault.hits() == 1
    assert caught.value.code == "REJECTED"
    check_nothing(s3_own)


# --- an upload that is gone ---------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_an_upload_is_known_by_its_checksum(
    opaque: S3Bucket, write: Callable[..., str]
) -> None:
    fault = opaque.server.add_fault(op="CompleteMultipartUpload", kind="lost_reply")
    etag = write(opaque.uri("new"), checksum="crc64nvme")
    assert etag == s3dlio_np.stat(opaque.uri("new"))["etag"]
    assert fault.hits() == 1
    assert opaque.uploads() == []


@pytest.mark.parametrize("write", WRITERS)
def test_an_upload_that_nothing_tells(opaque: S3Bucket, write: Callable[..., str]) -> None:
    fault = opaque.server.add_fault(op="CompleteMultipartUpload", kind="lost_reply")
    with pytest.raises(
        s3dlio_np.StorageError, match="neither its ETag nor a checksum"
    ) as caught:
        write(opaque.uri("new"))
    assert fault.hits() == 1
    assert caught.value.code == "UNDECIDED"
    assert list(opaque.objects()) == ["new"]
    assert opaque.uploads() == []


@pytest.mark.parametrize(
    ("size", "code"),
    [(1000, "REJECTED"), (len(LARGE), "UNDECIDED")],
    ids=["other", "same size"],
)
@pytest.mark.parametrize("checksum", [None, "crc64nvme"])
def test_an_upload_is_dropped(
    s3_own: S3Bucket, checksum: str | None, size: int, code: str
) -> None:
    """What is there is not what was to be written, which only the bytes' number can prove."""
    before = bytes(size)
    s3_own.put("new", before)
    fault = s3_own.server.add_fault(
        op="CompleteMultipartUpload", kind="drop_upload", status=404, code="NoSuchUpload"
    )
    with pytest.raises(s3dlio_np.StorageError) as caught:
        by_put(s3_own.uri("new"), checksum=checksum)
    assert fault.hits() == 1
    assert caught.value.code == code
    assert s3_own.get("new") == before
    assert s3_own.uploads() == []


# --- how an object tells who wrote it -----------------------------------------------------------


def write_id(s3: S3Bucket, key: str) -> str | None:
    headers: dict[str, str] = s3.server.request("HEAD", f"/bucket/{key}").headers
    return headers.get(WRITE_ID)


@by_size
def test_only_conditional_writes_have_an_id(s3_own: S3Bucket, op: str) -> None:
    data = some_bytes(SIZES[op])
    options = WriterOptions(part_size=PART, if_none_match=True)
    ids = []
    for key in ("one", "two"):
        s3dlio_np.put(s3_own.uri(key), data, options=options)
        ids.append(write_id(s3_own, key))
    assert len(set(ids)) == 2
    assert all(each is not None and len(each) == 32 and int(each, 16) for each in ids)
    plain = WriterOptions(part_size=PART, metadata={"a": "b"})
    s3dlio_np.put(s3_own.uri("one"), data, options=plain)
    assert write_id(s3_own, "one") is None
    assert s3_own.server.request("HEAD", "/bucket/one").headers["x-amz-meta-a"] == "b"


def test_the_ids_name_is_taken(s3_own: S3Bucket) -> None:
    metadata = {"S3DLIO-Write-Id": "mine"}
    with pytest.raises(ValueError, match="s3dlio-write-id"):
        s3dlio_np.put(
            s3_own.uri("x"), b"1", options=WriterOptions(if_none_match=True, metadata=metadata)
        )
    check_nothing(s3_own)
    s3dlio_np.put(s3_own.uri("x"), b"1", options=WriterOptions(metadata=metadata))
    assert write_id(s3_own, "x") == "mine"


# --- an upload that cannot be removed -----------------------------------------------------------


class Told(Exception):
    """What the body of a `with` raises."""


def raise_in_stream(uri: str) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART) as stream:
        stream.write(LARGE)
        raise Told


def raise_in_text(uri: str) -> None:
    with s3dlio_np.open(uri, "w", part_size=PART) as stream:
        stream.write("x" * len(LARGE))
        raise Told


def raise_in_zip(uri: str) -> None:
    with (
        s3dlio_np.open(uri, "wb", part_size=PART) as stream,
        zipfile.ZipFile(stream, "w") as archive,
    ):
        archive.writestr("member", LARGE)
        raise Told


def remarks(error: BaseException, warned: pytest.WarningsRecorder) -> list[str]:
    """Notes, and before Python 3.11 warnings."""
    if sys.version_info >= (3, 11):
        assert not warned.list
        return list(getattr(error, "__notes__", []))
    return [str(warning.message) for warning in warned]


def check_remark(s3_own: S3Bucket, remark: str) -> None:
    (left,) = s3_own.server.uploads()
    for part in (s3_own.uri("new"), left["upload_id"], "AccessDenied", "could not be removed"):
        assert part in remark
    assert s3_own.objects() == {}


REFUSED = {"kind": "status", "status": 403, "code": "AccessDenied", "count": -1}


@pytest.mark.parametrize("use", [raise_in_stream, raise_in_text, raise_in_zip])
def test_the_bodys_exception_goes_first(
    s3_own: S3Bucket, recwarn: pytest.WarningsRecorder, use: Callable[[str], None]
) -> None:
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", **REFUSED)
    with pytest.raises(Told) as caught:
        use(s3_own.uri("new"))
    assert fault.hits() == 1
    (remark,) = remarks(caught.value, recwarn)
    check_remark(s3_own, remark)


@pytest.mark.parametrize("use", [raise_in_stream, raise_in_text, raise_in_zip])
def test_nothing_is_said_of_an_upload_that_is_removed(
    s3_own: S3Bucket, recwarn: pytest.WarningsRecorder, use: Callable[[str], None]
) -> None:
    with pytest.raises(Told) as caught:
        use(s3_own.uri("new"))
    assert remarks(caught.value, recwarn) == []
    check_nothing(s3_own)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("op", ["UploadPart", "CompleteMultipartUpload"])
def test_a_save_fails_and_its_abort_too(
    s3_own: S3Bucket, write: Callable[..., str], op: str
) -> None:
    """The first cause is what is raised, however long; its text ends with what stays."""
    first = s3_own.server.add_fault(
        op=op, kind="status", status=400, code="InvalidRequest", message="long " * 38, count=-1
    )
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", **REFUSED)
    with pytest.raises(s3dlio_np.StorageError) as caught:
        write(s3_own.uri("new"))
    assert (first.hits() >= 1, fault.hits()) == (True, 1)
    assert (caught.value.code, caught.value.server_code) == ("REJECTED", "InvalidRequest")
    (left,) = s3_own.server.uploads()
    assert f"multipart upload {left['upload_id']} could not be removed" in str(caught.value)


def test_an_abort_without_an_exception_warns(s3_own: S3Bucket) -> None:
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", **REFUSED)
    stream = s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART)
    stream.write(LARGE)
    with pytest.warns(RuntimeWarning) as warned:
        stream.abort()
    stream.abort()
    assert fault.hits() == 1
    check_remark(s3_own, str(warned[0].message))
    with pytest.raises(s3dlio_np.StorageError, match="nothing was written"):
        stream.close()


def test_a_writer_that_is_dropped_warns(s3_own: S3Bucket) -> None:
    fault = s3_own.server.add_fault(op="AbortMultipartUpload", **REFUSED)
    stream = s3dlio_np.open(s3_own.uri("new"), "wb", part_size=PART)
    stream.write(LARGE)
    with pytest.warns() as warned:
        del stream
        gc.collect()
    assert fault.hits() == 1
    assert [warning.category for warning in warned] == [ResourceWarning, RuntimeWarning]
    check_remark(s3_own, str(warned[1].message))


def test_an_interrupt_while_the_commit_is_unheard(
    s3_own: S3Bucket, recwarn: pytest.WarningsRecorder
) -> None:
    """close() waits a while for an answer, then says that it does not know."""
    fault = s3_own.server.add_fault(op="PutObject", kind="stall", seconds=60)
    stream = s3dlio_np.open(s3_own.uri("new"), "wb")
    stream.write(b"1")

    def interrupt() -> None:
        while not fault.hits():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        stream.close()
    thread.join()
    assert fault.hits() == 1
    (remark,) = remarks(caught.value, recwarn)
    assert "not known whether it was written" in remark
    with pytest.raises(s3dlio_np.StorageError, match="interrupted"):
        stream.close()


def test_the_id_counts_as_metadata() -> None:
    metadata = {"a": "x" * 2047}
    WriterOptions(metadata=metadata)
    for condition in ({"if_none_match": True}, {"if_match": '"etag"'}):
        with pytest.raises(ValueError, match="at most 2001"):
            WriterOptions(metadata=metadata, **condition)
