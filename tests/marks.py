"""Marks that several test files share."""

from __future__ import annotations

import os

import pytest

# tools/pytest_san.sh: the sanitizer's own memory is the process's, too.
SANITIZED = os.environ.get("S3D_SANITIZED") == "1"

# For what the real servers have no say in: the own server and files are enough.
near = pytest.mark.parametrize("target", ["s3-own", "file"], indirect=True)

# What goes away when a GET is sent again.
passing_faults = pytest.mark.parametrize(
    "rule",
    [
        {"kind": "truncate", "bytes": 1000},
        {"kind": "reset_after", "bytes": 5000},
        {"kind": "status", "status": 503, "code": "SlowDown"},
        {"kind": "status", "status": 500, "code": "InternalError"},
        {"kind": "wrong_range"},
        {"kind": "ignore_range"},
    ],
    ids=lambda rule: rule.get("code", rule["kind"]),
)
