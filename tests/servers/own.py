"""The project's own S3 server (tests/servers/s3server, in C) as a context manager.

    with OwnServer(latency_ms=5) as server:
        rule = server.add_fault(op="GetObject", kind="status", status=503, code="SlowDown")
        ...                                 # a client configured from server.env()
        assert rule.hits() == 1

S3D_TLS=1 in the environment makes every one speak TLS, with a certificate authority of its own, which
server.env() names. `python -m tests.servers.own --help` runs one in the foreground. Standard library
only, but for the certificates.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import selectors
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

SOURCE = pathlib.Path(__file__).resolve().parent / "s3server"
PATTERN_PERIOD = 1048573
DOMAINS = ("localhost", "s3.localhost")  # below which a bucket is a host
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def pattern(offset: int, length: int) -> bytes:
    """The bytes [offset, offset + length) of a pattern object, or of anything read back under --discard."""
    start = offset % PATTERN_PERIOD
    period = _pattern_period()
    return (period * ((start + length) // PATTERN_PERIOD + 1))[start : start + length]


_period: list[bytes] = []


def _pattern_period() -> bytes:
    if not _period:
        _period.append(bytes((i * 2654435761 >> 24) & 0xFF for i in range(PATTERN_PERIOD)))
    return _period[0]


def sign(
    method: str,
    host: str,
    path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    *,
    access_key: str,
    secret_key: str,
    region: str,
    session_token: str | None = None,
    payload_hash: str = "UNSIGNED-PAYLOAD",
    now: datetime.datetime | None = None,
) -> dict[str, str]:
    """All headers of a request signed with SigV4. `path` is decoded (/bucket/key), its bytes as UTF-8 with surrogates.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    when = (now or datetime.datetime.now(datetime.timezone.utc)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{when[:8]}/{region}/s3/aws4_request"
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signed |= {"host": host, "x-amz-date": when, "x-amz-content-sha256": payload_hash}
    if session_token is not None:
        signed["x-amz-security-token"] = session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method,
            quote(path, "/"),
            encode_query(query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            payload_hash,
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for step in (when[:8], region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    to_sign = f"AWS4-HMAC-SHA256\n{when}\n{scope}\n{digest}"
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def quote(text: str, safe: str = "") -> str:
    return urllib.parse.quote(text, safe=safe + "-._~", errors="surrogateescape")


def encode_query(query: Mapping[str, str]) -> str:
    pairs = sorted((quote(name), quote(value)) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "surrogateescape")


class ServerError(RuntimeError):
    """The server could not be built or started, answered what it should not, or ended badly."""


@dataclass(frozen=True)
class Fault:
    """A scripted fault that was installed."""

    server: OwnServer
    id: int

    def _row(self) -> dict[str, Any]:
        rows = [row for row in self.server.faults() if row["id"] == self.id]
        if not rows:
            raise ServerError(f"fault rule {self.id} has been cleared")
        return rows[0]

    def hits(self) -> int:
        """How often it was carried out."""
        return int(self._row()["hits"])

    def matched(self) -> int:
        """How many requests it fitted, those that skip= let pass included."""
        return int(self._row()["matched"])


def build(*, sanitize: bool = False) -> pathlib.Path:
    """The path of an up-to-date binary; make decides whether there is anything to do. Safe to call in parallel."""
    folder = SOURCE / "build" / "asan" if sanitize else SOURCE / "build"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-s", "-C", str(SOURCE), f"BUILD={folder}", f"SAN={int(sanitize)}"]
        # A make that runs the tests must not pass its own settings on to this one.
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in ("MAKEFLAGS", "MFLAGS", "CFLAGS", "BUILD", "LD_PRELOAD")
        }
        made = subprocess.run(command, capture_output=True, text=True, env=env)
    if made.returncode:
        raise ServerError(f"building the test server failed:\n{made.stdout}{made.stderr}")
    return folder / "s3server"


class OwnServer:
    """One server process on a free loopback port; the keywords mirror its flags.

    Leaving the context stops it and raises ServerError if it ended badly or a sanitizer had something to say.
    """

    def __init__(
        self,
        *,
        buckets: Sequence[str] = ("bucket",),
        access_key: str = "testkey",
        secret_key: str = "testsecret",
        session_token: str | None = None,
        region: str = "us-east-1",
        verify: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_ms: int = 0,
        bandwidth_mbps: int = 0,
        memory_limit: int | None = None,
        min_part_size: int | None = None,
        md5: bool = False,
        discard: bool = False,
        pattern_objects: Mapping[str, int] | None = None,
        sanitize: bool = False,
        tls: bool | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        """tls: https; None is what S3D_TLS says. Plain HTTP, for the control requests, stays possible."""
        self.access_key, self.secret_key, self.session_token = (
            access_key,
            secret_key,
            session_token,
        )
        self.region, self.sanitize = region, sanitize
        self.tls = os.environ.get("S3D_TLS") == "1" if tls is None else tls
        self.ca_bundle: pathlib.Path | None = None
        self._buckets = tuple(buckets)
        self._certificates: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._address = ""
        flags = [
            "--host",
            host,
            "--port",
            str(port),
            "--buckets",
            ",".join(buckets),
            "--exit-on-stdin-eof",
        ]
        flags += ["--access-key", access_key, "--secret-key", secret_key, "--region", region]
        flags += ["--latency-ms", str(latency_ms), "--bandwidth-mbps", str(bandwidth_mbps)]
        flags += ["--session-token", session_token] if session_token is not None else []
        flags += ["--memory-limit", str(memory_limit)] if memory_limit is not None else []
        flags += ["--min-part-size", str(min_part_size)] if min_part_size is not None else []
        flags += ["--verify"] * verify + ["--md5"] * md5 + ["--discard"] * discard
        for name, size in (pattern_objects or {}).items():
            flags += ["--pattern-object", f"{name}={size}"]
        self._flags = [*flags, *extra_args]

    def __enter__(self) -> OwnServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Build if needed, start, and wait until it listens."""
        binary = build(sanitize=self.sanitize)
        env = os.environ | {
            "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        env.pop("LD_PRELOAD", None)  # a sanitizer of the tests' own process
        flags = [*self._flags, "--tls", str(self._make_certificates())] if self.tls else self._flags
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            [str(binary), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
        )
        line = self._first_line(timeout_s=20)
        expected = f"listening {self._scheme}://"
        if not line.startswith(expected):
            self.stop()
            raise ServerError(f"the test server did not start: {line!r}")
        self._address = line.removeprefix(expected)

    def _make_certificates(self) -> pathlib.Path:
        """The path of the chain with its key, for every host under which this server is asked."""
        from tests.servers.relay import make_certificates

        hosts = [f"{bucket}.{tail}" for bucket in self._buckets for tail in DOMAINS]
        self._certificates = tempfile.TemporaryDirectory(prefix="s3server-tls-")
        files = make_certificates(
            pathlib.Path(self._certificates.name), ["127.0.0.1", "::1", "localhost", *hosts]
        )
        self.ca_bundle = files.ca
        return files.chain

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    def _first_line(self, timeout_s: float) -> str:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                return ""
        return self._process.stdout.readline().decode().strip()

    def stop(self, timeout_s: float = 10) -> None:
        """Stop it; safe to call twice. Raises ServerError for a bad exit, sanitizer output, or one that had to be killed."""
        process, stderr = self._process, self._stderr
        self._process = self._stderr = None
        if self._certificates is not None:
            self._certificates.cleanup()
            self._certificates = None
        if process is None or stderr is None:
            return
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        try:
            code: int | str = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = f"killed after {timeout_s} s"
        process.stdout.close()
        stderr.seek(0)
        said = stderr.read().decode(errors="replace")
        stderr.close()
        if code != 0 or "Sanitizer" in said or "runtime error" in said:
            raise ServerError(f"the test server ended with {code}:\n{said}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://{self._address}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a plain socket."""
        host, port = self._address.rsplit(":", 1)
        return host.strip("[]"), int(port)

    def env(self) -> dict[str, str]:
        """The AWS_* variables that point a client here."""
        env = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self.ca_bundle is not None:
            env["AWS_CA_BUNDLE"] = str(self.ca_bundle)
        return env | (
            {"AWS_SESSION_TOKEN": self.session_token} if self.session_token is not None else {}
        )

    # Control ----------------------------------------------------------------------------------------------------

    def _control(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection.request(method, f"/_s3d/{path}", body, {"Connection": "close"})
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerError(
                f"{method} {path}: {answer.status} {content.decode(errors='replace')}"
            )
        return content

    def add_fault(self, *, op: str, kind: str, **rule: str | int | float) -> Fault:
        """Install one scripted fault; tests/servers/README.md lists kinds and fields."""
        fields = {"op": op, "kind": kind, **rule}
        line = " ".join(f"{name}={quote(str(value), '/')}" for name, value in fields.items())
        ids: list[int] = json.loads(self._control("POST", "faults", line.encode()))
        return Fault(self, ids[0])

    def faults(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self._control("GET", "faults"))
        return _with_keys(rows)

    def clear_faults(self) -> None:
        self._control("DELETE", "faults")

    def put_key(
        self, access_key: str, secret_key: str, token: str | None = None, expires: int = 0
    ) -> None:
        """Accepts one more key pair, ExpiredToken from `expires` (Unix seconds; 0: never) on. reset() forgets it."""
        line = f"{access_key} {secret_key} {token or '-'} {expires}"
        self._control("POST", "keys", line.encode())

    def keys(self) -> dict[str, int]:
        """How many requests each added key signed."""
        counts: dict[str, int] = json.loads(self._control("GET", "keys"))
        return counts

    def counters(self) -> dict[str, Any]:
        """requests (by operation), bytes_in, bytes_out, tls_requests, connections, open/max connections and requests, signatures_verified."""
        counters: dict[str, Any] = json.loads(self._control("GET", "counters"))
        return counters

    def reset(self, *, objects: bool = False) -> None:
        """Zero the counters and clear the faults; with objects=True delete every object and upload as well."""
        self._control("POST", "reset?objects=1" if objects else "reset")

    def uploads(self) -> list[dict[str, Any]]:
        """Open multipart uploads: bucket, key, upload_id, parts, bytes."""
        rows: list[dict[str, Any]] = json.loads(self._control("GET", "uploads"))
        return _with_keys(rows)

    def objects(self) -> list[dict[str, Any]]:
        """All objects: bucket, key, size, etag."""
        rows: list[dict[str, Any]] = json.loads(self._control("GET", "objects"))
        return _with_keys(rows)

    # S3 ---------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        signed: bool = True,
        hash_payload: bool = False,
        **signing: Any,
    ) -> Answer:
        """One signed request on its own connection. `path` is decoded; `signing` overrides arguments of sign()."""
        query, headers = query or {}, dict(headers or {})
        host, port = self.address
        target = quote(path, "/") + (f"?{encode_query(query)}" if query else "")
        if signed:
            defaults: dict[str, Any] = {
                "access_key": self.access_key,
                "secret_key": self.secret_key,
                "session_token": self.session_token,
                "region": self.region,
                "payload_hash": hashlib.sha256(body).hexdigest()
                if hash_payload
                else "UNSIGNED-PAYLOAD",
            }
            headers = sign(method, self._address, path, query, headers, **(defaults | signing))
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, content
        )

    def put_object(self, bucket: str, key: str, data: bytes, **headers: str) -> str:
        """Store an object and return its ETag, quotes included."""
        answer = self._expect("PUT", bucket, key, 200, data, headers)
        return answer.headers["etag"]

    def get_object(self, bucket: str, key: str) -> bytes:
        return self._expect("GET", bucket, key, 200).body

    def delete_object(self, bucket: str, key: str) -> None:
        self._expect("DELETE", bucket, key, 204)

    def _expect(
        self,
        method: str,
        bucket: str,
        key: str,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = self.request(method, f"/{bucket}/{key}", body=body, headers=headers)
        if answer.status != status:
            raise ServerError(f"{method} {bucket}/{key}: {answer.status} {answer.text}")
        return answer


def _with_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keys come one byte a character; give them as text."""
    for row in rows:
        row["key"] = row["key"].encode("latin-1").decode("utf-8", "surrogateescape")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.own", description="Run the test S3 server."
    )
    parser.add_argument("--buckets", default="bucket", help="comma-separated (default: bucket)")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=int, default=0)
    parser.add_argument("--bandwidth-mbps", type=int, default=0)
    parser.add_argument(
        "--no-verify", action="store_true", help="accept any signature, or none"
    )
    parser.add_argument("--sanitize", action="store_true", help="the AddressSanitizer build")
    parser.add_argument("flags", nargs="*", help="after --: further flags of the C server")
    args = parser.parse_args()
    server = OwnServer(
        buckets=args.buckets.split(","),
        port=args.port,
        latency_ms=args.latency_ms,
        bandwidth_mbps=args.bandwidth_mbps,
        verify=not args.no_verify,
        sanitize=args.sanitize,
        extra_args=args.flags,
    )
    with server:
        for name, value in server.env().items():
            print(f"export {name}={value}")
        print("# Ctrl-C or end of input stops it", flush=True)
        try:
            sys.stdin.read()
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
