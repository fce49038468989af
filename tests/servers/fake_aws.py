"""A fake of the services that give out AWS credentials, on one loopback port.

STS (AssumeRole with its signature checked, AssumeRoleWithWebIdentity), the SSO portal, a container's
endpoint and instance metadata version 2. Each answer carries fresh keys, which an OwnServer is told
of, so that what was fetched also signs. `script` holds what to answer instead, first come first served.

    with FakeAws(server) as fake:
        fake.script.append(Reply(500, b"oops"))     # the next request gets this
        ...
        assert fake.actions() == ["PUT token", ...]
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.http_fake import HttpFake
from tests.servers.own import OwnServer

SECRET = "SECRETsecret"  # in every secret key and token, for tests to look for in messages


@dataclass
class Reply:
    """Any other answer; `delay_s` before it."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    normal: bool = False  # only the delay, then the usual answer


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass(frozen=True)
class Keys:
    access: str
    secret: str
    token: str
    expires: int

    @property
    def iso(self) -> str:
        when = datetime.fromtimestamp(self.expires, timezone.utc)
        return when.strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeAws(HttpFake):
    def __init__(self, server: OwnServer | None = None, *, lifetime_s: float = 3600) -> None:
        self.server, self.lifetime_s = server, lifetime_s
        self.seen: list[Seen] = []
        self.issued: list[Keys] = []
        self.script: list[Reply] = []
        self.delay_s = 0.0
        self.accepted: dict[str, tuple[str, str | None]] = {}  # who may assume roles
        self.lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            service = fake

        super().__init__(Handler)

    def actions(self) -> list[str]:
        """What was asked, in order: STS's Action, or method and path."""
        return [
            seen.form.get("Action") or f"{seen.method} {seen.path.split('?')[0]}"
            for seen in list(self.seen)
        ]

    def issue(self) -> Keys:
        """Fresh keys that the S3 server accepts until they end."""
        with self.lock:
            number = len(self.issued) + 1
            keys = Keys(
                f"FAKE{self._http.server_port}X{number}",
                f"{SECRET}{number}/+key",
                f"{SECRET}{number}token/+==",
                int(time.time() + self.lifetime_s),
            )
            self.issued.append(keys)
        self.accepted[keys.access] = (keys.secret, keys.token)
        if self.server is not None:
            self.server.put_key(keys.access, keys.secret, keys.token, keys.expires)
        return keys

    def document(self, **changes: Any) -> dict[str, Any]:
        """As containers and metadata answer; a change to None leaves the member out."""
        keys = self.issue()
        whole = {
            "Code": "Success",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Extra": {"nested": [1, -2.5e3, True, None, {"a": "b"}]},
            "AccessKeyId": keys.access,
            "SecretAccessKey": keys.secret,
            "Token": keys.token,
            "Expiration": keys.iso,
        }
        whole |= changes
        return {name: value for name, value in whole.items() if value is not None}


class _Handler(BaseHTTPRequestHandler):
    service: FakeAws
    protocol_version = "HTTP/1.1"

    def log_message(self, *unused: object) -> None:
        pass

    def _handle(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(length)
        form = dict(urllib.parse.parse_qsl(body.decode())) if body else {}
        headers = {name.lower(): value for name, value in self.headers.items()}
        fake = self.service
        with fake.lock:
            fake.seen.append(Seen(self.command, self.path, headers, form))
            reply = fake.script.pop(0) if fake.script else Reply(normal=True)
        time.sleep(reply.delay_s + fake.delay_s)
        if reply.normal:
            reply = self._answer(headers, form, body)
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
        except OSError:  # the client gave up, as some tests want
            self.close_connection = True

    do_GET = do_PUT = do_POST = _handle

    def _answer(self, headers: dict[str, str], form: dict[str, str], body: bytes) -> Reply:
        path = self.path.split("?")[0]
        if self.command == "POST" and path == "/":
            return self._sts(headers, form, body)
        if path == "/federation/credentials":
            return self._sso(headers)
        if path.startswith("/container"):
            return Reply(body=json.dumps(self.service.document()).encode())
        if path.startswith("/latest/"):
            return self._metadata(headers, path)
        return Reply(404)

    def _metadata(self, headers: dict[str, str], path: str) -> Reply:
        if path == "/latest/api/token" and self.command == "PUT":
            if not headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
                return Reply(400)
            return Reply(body=b"SESSIONtoken==")
        if headers.get("x-aws-ec2-metadata-token") != "SESSIONtoken==":
            return Reply(401)
        roles = "/latest/meta-data/iam/security-credentials/"
        if path == roles:
            return Reply(body=b"the-role\n")
        if path == roles + "the-role":
            return Reply(body=json.dumps(self.service.document(), indent=1).encode())
        return Reply(404)

    def _sso(self, headers: dict[str, str]) -> Reply:
        query = urllib.parse.parse_qs(self.path.partition("?")[2])
        if headers.get("x-amz-sso_bearer_token") != "ssotoken/+=" or query != {
            "role_name": ["Reader & Co"],
            "account_id": ["123456789012"],
        }:
            return Reply(401, b'{"message":"Session token not found or invalid"}')
        keys = self.service.issue()
        credentials = {
            "accessKeyId": keys.access,
            "secretAccessKey": keys.secret,
            "sessionToken": keys.token,
            "expiration": keys.expires * 1000,
        }
        return Reply(body=json.dumps({"roleCredentials": credentials}).encode())

    def _sts(self, headers: dict[str, str], form: dict[str, str], body: bytes) -> Reply:
        action = form.get("Action", "")
        if action == "AssumeRole" and not self._is_signed(headers, body):
            return sts_error(403, "SignatureDoesNotMatch", "the signature does not match")
        if action == "AssumeRoleWithWebIdentity" and "authorization" in headers:
            return sts_error(400, "MissingAction", "this action is not signed")
        if not form.get("RoleSessionName") or form.get("Version") != "2011-06-15":
            return sts_error(400, "ValidationError", "a parameter is missing")
        return sts_reply(action, self.service.issue())

    def _is_signed(self, headers: dict[str, str], body: bytes) -> bool:
        """SigV4, for service sts. Source: AWS General Reference, "Signature Version 4"."""
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        fields = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
        access, _, scope = fields.get("Credential", "").partition("/")
        if scheme != "AWS4-HMAC-SHA256" or access not in self.service.accepted:
            return False
        secret, token = self.service.accepted[access]
        names = fields["SignedHeaders"].split(";")
        if headers.get("x-amz-security-token") != token or "host" not in names:
            return False
        lines = [f"{name}:{headers[name]}" for name in names]
        digest = hashlib.sha256(body).hexdigest()
        canonical = "\n".join(["POST", "/", "", *lines, "", ";".join(names), digest])
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{secret}".encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}"
        return (
            scope.split("/")[2] == "sts"
            and hmac.digest(key, to_sign.encode(), "sha256").hex() == fields["Signature"]
        )


def sts_reply(action: str, keys: Keys) -> Reply:
    body = f"""<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
      <{action}Result>
        <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn></AssumedRoleUser>
        <Credentials>
          <AccessKeyId>{keys.access}</AccessKeyId>
          <SecretAccessKey>{keys.secret}</SecretAccessKey>
          <SessionToken>{keys.token}</SessionToken>
          <Expiration>{keys.iso}</Expiration>
        </Credentials>
      </{action}Result>
      <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>
    </{action}Response>"""
    return Reply(body=body.encode())


def sts_error(status: int, code: str, message: str) -> Reply:
    body = f"""<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
      <Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>
      <RequestId>request-7</RequestId></ErrorResponse>"""
    return Reply(status, body.encode())
