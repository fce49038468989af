"""One table: every request under every fault, once and for good, and what must come of it.

`fault_matrix.py` carries the cells out together, in a process with three attempts a request. A cell
that makes no sense stands in NOT_TRIED with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.child import ROOT
from tests.np.fault_matrix import WORKS

ATTEMPTS = 3
OK = "survived"


@dataclass(frozen=True)
class Fault:
    """What happens, and what must come of it when it happens once and when it never ends."""

    rule: dict[str, Any]
    once: str
    always: str


def status(number: int, code: str, once: str, always: str, **more: int) -> Fault:
    return Fault({"kind": "status", "status": number, "code": code, **more}, once, always)


FAULTS = {
    "reset before headers": Fault({"kind": "reset_before"}, OK, "NETWORK"),
    "reset in headers": Fault({"kind": "reset_in_headers"}, OK, "NETWORK"),
    "reset in the answer": Fault({"kind": "reset_after", "bytes": 50}, OK, "NETWORK"),
    "reset in the request": Fault({"kind": "refuse_body", "bytes": 1000}, OK, "NETWORK"),
    "stalled for a while": Fault({"kind": "stall", "seconds": 0.2}, OK, OK),
    "stalled for good": Fault({"kind": "stall", "seconds": 120}, OK, "TIMEOUT"),
    "400 clock": status(400, "RequestTimeTooSkewed", "DENIED", "DENIED"),
    "403": status(403, "AccessDenied", "DENIED", "DENIED"),
    "404": status(404, "NoSuchKey", "NOT_FOUND", "NOT_FOUND"),
    "409": status(409, "OperationAborted", "REJECTED", "REJECTED"),
    "412": status(412, "PreconditionFailed", "REJECTED", "REJECTED"),
    "416": status(416, "InvalidRange", "RANGE", "RANGE"),
    "429": status(429, "TooManyRequests", OK, "THROTTLED"),
    "500": status(500, "InternalError", OK, "SERVER"),
    "502": status(502, "BadGateway", OK, "SERVER"),
    "503": status(503, "SlowDown", OK, "THROTTLED"),
    "503, retry after": status(503, "SlowDown", OK, "THROTTLED", retry_after=1),
    "truncated": Fault({"kind": "truncate", "bytes": 50}, OK, "NETWORK"),
    "wrong length": Fault({"kind": "wrong_length"}, OK, "PROTOCOL"),
    "wrong range": Fault({"kind": "wrong_range"}, OK, "PROTOCOL"),
    "200 for 206": Fault({"kind": "ignore_range"}, OK, "PROTOCOL"),
    "another ETag": Fault({"kind": "etag_change"}, "CHANGED", "CHANGED"),
    "flipped bit": Fault({"kind": "corrupt"}, OK, "INTEGRITY"),
    "slow drip": Fault({"kind": "slow", "bytes_per_s": 600_000}, OK, OK),
    "done twice": Fault({"kind": "lost_reply"}, OK, "NETWORK"),
}

READS = {"get whole", "get range", "load"}
BODIES = {"put", "part", "part of savez"}
XML = {"create", "complete", "list"}
ALL = set(WORKS)

# (fault, works): why not.
NOT_TRIED: list[tuple[str, set[str], str]] = [
    ("reset in the answer", ALL - READS - XML, "the answer has no body"),
    ("truncated", ALL - READS - XML, "the answer has no body"),
    ("wrong length", ALL - READS - XML, "no length that another one could contradict"),
    ("reset in the request", ALL - BODIES, "the request has no body, or is too short to cut"),
    ("wrong range", ALL - READS, "no range is asked for"),
    ("200 for 206", ALL - READS, "no range is asked for"),
    ("another ETag", ALL - {"get range", "load"}, "one answer: no two versions to tell apart"),
    ("flipped bit", XML, "no checksum covers the store's XML; TLS does"),
    ("flipped bit", ALL - READS - BODIES - XML, "no body"),
    ("flipped bit", {"get whole", "get range"}, "bare bytes: see tests of checksums"),
    ("slow drip", ALL - READS - BODIES - XML, "no body"),
    ("done twice", READS | {"head", "list"}, "changes nothing: the same as a reset"),
]


@dataclass(frozen=True)
class Differs:
    """Where a cell comes out otherwise than its fault's row says, and why that is right."""

    why: str
    once: str = ""
    always: str = ""


DIFFERS: dict[tuple[str, str], Differs] = {
    ("flipped bit", "load"): Differs(
        "a member's sum does not tell which of its ranges is wrong", "INTEGRITY", "INTEGRITY"
    ),
    ("404", "delete"): Differs("gone is what was asked for", OK, OK),
    ("400 clock", "head"): Differs(
        "an answer to HEAD has no body to say why", "REJECTED", "REJECTED"
    ),
    ("412", "get whole"): Differs("If-Match", "CHANGED", "CHANGED"),
    ("412", "get range"): Differs("If-Match", "CHANGED", "CHANGED"),
    ("412", "load"): Differs("If-Match", "CHANGED", "CHANGED"),
    ("416", "get whole"): Differs(
        "an object that begins nowhere: the store contradicts itself", "PROTOCOL", "PROTOCOL"
    ),
    ("200 for 206", "get whole"): Differs("the whole is what was wanted", OK, OK),
    ("wrong length", "complete"): Differs(
        "the second attempt learns that the upload is done", OK, OK
    ),
    ("done twice", "complete"): Differs(
        "the second attempt learns that the upload is done", OK, OK
    ),
    ("404", "complete"): Differs(
        "the upload is gone and the object not there: nothing was stored", "REJECTED", "REJECTED"
    ),
}


def reason_against(fault: str, work: str) -> str | None:
    reasons = [why for name, works, why in NOT_TRIED if name == fault and work in works]
    assert len(reasons) <= 1
    return reasons[0] if reasons else None


def expected(fault: str, work: str, count: int) -> str:
    row, differs = FAULTS[fault], DIFFERS.get((fault, work))
    if work == "abort":
        return OK  # the body's exception is what is told; what became of the upload, see below
    if differs is not None:
        return differs.once if count == 1 else differs.always
    return row.once if count == 1 else row.always


def rule_of(fault: str, work: str) -> dict[str, Any]:
    rule = dict(FAULTS[fault].rule)
    if work in ("get range", "load"):
        rule["skip"] = 1  # in the middle, not in the request that opens it
    if work in ("part", "part of savez"):
        rule["part"] = 2
    if (fault, work) == ("flipped bit", "load"):
        rule |= {"skip": 2, "offset": 1_000_000}  # behind the headers: in an array's elements
    return rule


CELLS = {
    f"{work} | {fault} | {'once' if count == 1 else 'always'}": (work, fault, count)
    for fault in FAULTS
    for work in WORKS
    for count in (1, -1)
    if reason_against(fault, work) is None
    and not (fault == "stalled for good" and count == -1)  # three times the limit of 20 s, or of 60 s
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    order = sorted(CELLS.values(), key=lambda cell: cell[1] != "stalled for good")
    cells = [
        {
            "id": str(list(CELLS.values()).index(cell)),
            "work": cell[0],
            "rule": rule_of(cell[1], cell[0]),
            "count": cell[2],
        }
        for cell in order
    ]
    by_number = run_cells(cells)
    return {name: by_number[str(number)] for number, name in enumerate(CELLS)}


def run_cells(cells: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {"PYTHONPATH": str(ROOT), "AWS_MAX_ATTEMPTS": str(ATTEMPTS), "S3DLIO_PUT_INFLIGHT": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.np.fault_matrix"],
        input=json.dumps(cells),
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return printed


@pytest.fixture(scope="module")
def gone() -> dict[str, dict[str, Any]]:
    return run_cells([])


@pytest.mark.parametrize("work", WORKS)
def test_connections_refused(gone: dict[str, dict[str, Any]], work: str) -> None:
    """The first attempt's connection breaks, the others find nobody: the first cause is told."""
    outcome = gone[work]
    if work == "abort":
        assert outcome == {"right": True}  # the body's exception came through
        return
    assert (outcome["code"], outcome["attempts"]) == ("NETWORK", ATTEMPTS), outcome
    assert outcome["status"] is None and "StorageError" in outcome["classes"]
    assert gone["address"]["text"] in outcome["text"]
    assert f"no connection to {gone['address']['text']}" in gone["afterwards"]["text"]


def test_the_table_has_every_cell() -> None:
    for fault, works, _ in NOT_TRIED:
        assert fault in FAULTS and works <= ALL
    assert all(fault in FAULTS and work in ALL for fault, work in DIFFERS)
    assert {work for work, _, _ in CELLS.values()} == ALL
    assert {fault for _, fault, _ in CELLS.values()} == set(FAULTS)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell(outcomes: dict[str, dict[str, Any]], name: str) -> None:
    work, fault, count = CELLS[name]
    outcome, wanted = outcomes[name], expected(fault, work, count)
    assert outcome["hits"] >= 1, outcome
    assert outcome["there"] in (None, True), f"a broken object: {outcome}"
    if wanted == OK:
        assert outcome.get("right") is True, outcome
    else:
        assert outcome.get("code") == wanted, outcome
        assert outcome["uri"].startswith("s3://bucket/cell-"), outcome
        if (fault, work) not in DIFFERS:
            check_error(outcome, FAULTS[fault].rule)
    assert outcome["uploads"] == uploads_left(work, fault, count, outcome["hits"]), outcome


CLASSES = {
    "DENIED": "AccessDeniedError",
    "NOT_FOUND": "ObjectNotFoundError",
    "CHANGED": "ObjectChangedError",
    "INTEGRITY": "IntegrityError",
}
SPECIFIC = set(CLASSES.values())  # of which no other failure may be one


def check_error(outcome: dict[str, Any], rule: dict[str, Any]) -> None:
    assert CLASSES.get(outcome["code"], "StorageError") in outcome["classes"], outcome
    if outcome["code"] not in CLASSES:
        assert not SPECIFIC & set(outcome["classes"]), outcome
    if "status" in rule:
        assert outcome["status"] == rule["status"], outcome
    retried = outcome["code"] in ("NETWORK", "SERVER", "THROTTLED", "PROTOCOL")
    assert not retried or outcome["attempts"] == ATTEMPTS, outcome


# Where the store made an upload, and the answer with its id never came.
UNHEARD = {"reset in headers", "reset in the answer", "truncated", "wrong length", "done twice"}


def uploads_left(work: str, fault: str, count: int, hits: int) -> int:
    """What only a bucket's lifecycle rule can remove: nobody knows its id, or may remove it."""
    if work == "create" and fault in UNHEARD:
        return hits
    if work == "abort":
        row = FAULTS[fault]
        refused = (row.once if count == 1 else row.always) != OK
        done = row.rule["kind"] in ("lost_reply", "reset_in_headers")
        return int(refused and not done)
    return 0
