"""What the real servers have in common: a child process on loopback, looked at through boto3.

The child prints one line of NAME=value settings when it answers, and ends when its standard
input closes, so that a test run that dies leaves no server behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from tests.servers.own import ServerError

ROOT = Path(__file__).resolve().parents[2]


class BotoServer:
    """A context manager around one server process; the same small interface as OwnServer."""

    name = "server"
    start_timeout_s = 180.0
    stop_timeout_s = 60.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._settings: dict[str, str] = {}
        self._client: Any = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self.command(),
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._settings = dict(word.split("=", 1) for word in self._first_line().split())
            self._client = self._connect()
        except BaseException:
            with contextlib.suppress(ServerError):
                self.stop()
            raise

    def _first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], self.start_timeout_s)
        line = self._process.stdout.readline() if ready else ""
        if "AWS_ENDPOINT_URL=" not in line:
            raise ServerError(
                f"{self.name} did not start: exit status {self._process.poll()}, "
                f"first line {line!r}; its own messages are on stderr"
            )
        return line

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self._settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._settings["AWS_SECRET_ACCESS_KEY"],
            region_name=self._settings["AWS_REGION"],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def stop(self) -> None:
        """Bounded in time; says so when the child had to be killed or ended badly."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServerError(f"{self.name} did not stop in {self.stop_timeout_s} s") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        if status != 0:
            raise ServerError(f"{self.name} ended with exit status {status}")

    @property
    def endpoint(self) -> str:
        return self._settings["AWS_ENDPOINT_URL"]

    def env(self) -> dict[str, str]:
        return {**self._settings, "AWS_EC2_METADATA_DISABLED": "true"}

    def create_bucket(self, bucket: str) -> None:
        self._client.create_bucket(Bucket=bucket)

    def delete_bucket(self, bucket: str) -> None:
        """With everything in it."""
        for key, upload_id in self._open_uploads(bucket):
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
        for key in self.objects(bucket):
            self._client.delete_object(Bucket=bucket, Key=key)
        self._client.delete_bucket(Bucket=bucket)

    def put_object(self, bucket: str, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def get_object(self, bucket: str, key: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def delete_object(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def objects(self, bucket: str) -> dict[str, int]:
        """Size of each object by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {
            item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])
        }

    def uploads(self, bucket: str) -> list[str]:
        """Key of each open multipart upload."""
        return [key for key, _ in self._open_uploads(bucket)]

    def _open_uploads(self, bucket: str) -> Iterator[tuple[str, str]]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        for page in pages:
            for item in page.get("Uploads", []):
                yield item["Key"], item["UploadId"]


def serve_in_foreground(server: BotoServer) -> None:
    """For people: prints the settings, serves until Ctrl-C."""
    with server:
        print(
            "\n".join(f"export {name}={value}" for name, value in server.env().items()),
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
