"""Marks that several test files share."""

from __future__ import annotations

import pytest

# For what the real servers have no say in: the own server and files are enough.
near = pytest.mark.parametrize("target", ["s3-own", "file"], indirect=True)
