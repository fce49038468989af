"""A server that is away for a while: everything waits, and comes out right. See outage.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.child import ROOT
from tests.np.outage import USES

CONNECTIONS = 160


def run_outage(moment: str, attempts: int) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {
        "PYTHONPATH": str(ROOT),
        "AWS_MAX_ATTEMPTS": str(attempts),
        "S3DLIO_PUT_INFLIGHT": "2",
    }
    env["S3DLIO_HTTP_MAX_CONNS"] = str(CONNECTIONS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.np.outage", moment],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize("moment", ["start", "middle"])
def test_a_server_that_comes_back(moment: str) -> None:
    """Nobody listens when it begins, or from the middle of each request on, for a while."""
    outcome = run_outage(moment, attempts=30)
    assert set(outcome["uses"]) == set(USES)
    for use, came in outcome["uses"].items():
        assert came["right"] is True, (use, came)
        assert came["there"] in (True, None), (use, came)
    assert outcome["uploads"] == []
    # More than the quota allows for failing servers: one for each connection.
    assert outcome["retries"] > (CONNECTIONS if moment == "middle" else 2 * len(USES))
