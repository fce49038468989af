"""moto's S3 server in a process of its own: a second opinion on semantics, not on signatures.

`python -m tests.servers.moto_server` runs it in the foreground.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from tests.servers.boto import BotoServer, serve_in_foreground

INSTALL = "pip install 'moto[server]'"


def is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("moto", "flask"))


class MotoServer(BotoServer):
    """Loopback, a free port, everything in memory."""

    name = "moto"
    start_timeout_s = 60.0

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "tests.servers.moto_server", "--until-stdin-closes"]


def serve_until_stdin_closes() -> None:
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(
        f"AWS_ENDPOINT_URL=http://{host}:{port} AWS_ACCESS_KEY_ID=testkey "
        "AWS_SECRET_ACCESS_KEY=testsecret AWS_REGION=us-east-1",
        flush=True,
    )
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    if "--until-stdin-closes" in sys.argv:
        serve_until_stdin_closes()
    else:
        serve_in_foreground(MotoServer())
