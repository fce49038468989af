"""torch save and load of a decoder-shaped state dict, beside peers, on the project's own server.

    python benchmarks/bench_torch.py [--size-mib 1024] [--rounds 3] [--out FILE.json]

Ways: this project; boto3 through BytesIO (its transfer manager, ten threads); s3torchconnector.
The raw limit is the same bytes over plain sockets in eight threads, into or out of memory that
is there already. Ratios, not absolute figures, mean something on a shared machine.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import harness
from harness import ROOT, Step, job

BUCKET = "bench"
SEED_KEY = "seed.pt"
PART = 8 * 2**20
STREAMS = 8


def decoder_state(size_mib: int) -> dict[str, Any]:
    """Layers of a decoder (attention, MLP, norms) until size_mib MiB of float32 are reached."""
    import torch

    torch.manual_seed(0)
    width = 1024
    shapes = {
        "attention.query": (width, width),
        "attention.key": (width, width),
        "attention.value": (width, width),
        "attention.output": (width, width),
        "mlp.up": (4 * width, width),
        "mlp.down": (width, 4 * width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    state: dict[str, Any] = {"embedding": torch.rand(8 * width, width)}
    left = size_mib * 2**20 - state["embedding"].nbytes
    layer = 0
    while left > 0:
        for name, shape in shapes.items():
            tensor = torch.rand(shape)
            state[f"layers.{layer}.{name}"] = tensor
            left -= tensor.nbytes
        layer += 1
    return state


def boto3_client() -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def connector() -> Any:
    from s3torchconnector import S3Checkpoint, S3ClientConfig

    return S3Checkpoint(
        region=os.environ["AWS_REGION"],
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        s3client_config=S3ClientConfig(force_path_style=True),
    )


# ---- saving ----


@job
def save_ours(size_mib: int) -> tuple[Step, int]:
    import s3dlio_torch

    state = decoder_state(size_mib)
    return lambda: s3dlio_torch.save(state, f"s3://{BUCKET}/ours.pt"), 0


@job
def save_boto3(size_mib: int) -> tuple[Step, int]:
    import torch

    client, state = boto3_client(), decoder_state(size_mib)

    def step() -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        client.upload_fileobj(buffer, BUCKET, "boto3.pt")

    return step, 0


@job
def save_s3torchconnector(size_mib: int) -> tuple[Step, int]:
    import torch

    checkpoint, state = connector(), decoder_state(size_mib)

    def step() -> None:
        with checkpoint.writer(f"s3://{BUCKET}/connector.pt") as writer:
            torch.save(state, writer)

    return step, 0


# ---- loading ----


@job
def load_ours(size: int) -> tuple[Step, int]:
    import s3dlio_torch

    return lambda: s3dlio_torch.load(f"s3://{BUCKET}/{SEED_KEY}"), size


@job
def load_boto3(size: int) -> tuple[Step, int]:
    import torch

    client = boto3_client()

    def step() -> Any:
        buffer = io.BytesIO()
        client.download_fileobj(BUCKET, SEED_KEY, buffer)
        buffer.seek(0)
        return torch.load(buffer)

    return step, size


@job
def load_s3torchconnector(size: int) -> tuple[Step, int]:
    import torch

    checkpoint = connector()

    def step() -> Any:
        with checkpoint.reader(f"s3://{BUCKET}/{SEED_KEY}") as reader:
            return torch.load(reader)

    return step, size


# ---- the raw limit: sockets and memory, no checks, no signing ----


def _in_threads(size: int, work: Callable[[socket.socket, str, int, int], None]) -> None:
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    assert endpoint.hostname and endpoint.port
    address, host = (endpoint.hostname, endpoint.port), endpoint.netloc
    starts = iter(range(0, size, PART))
    lock = threading.Lock()
    errors: list[Exception] = []

    def run() -> None:
        try:
            with socket.create_connection(address) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    with lock:
                        start = next(starts, None)
                    if start is None:
                        return
                    work(connection, host, start, min(start + PART, size))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # byte by byte would be slow, peeking is not
        peeked = connection.recv(4096, socket.MSG_PEEK)
        end = (head + peeked).find(b"\r\n\r\n")
        take = len(peeked) if end < 0 else end + 4 - len(head)
        head += connection.recv(take)
    return head


@job
def load_raw(size: int) -> tuple[Step, int]:
    view = memoryview(bytearray(size))

    def work(connection: socket.socket, host: str, start: int, end: int) -> None:
        request = f"GET /{BUCKET}/{SEED_KEY} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{end - 1}\r\n\r\n"
        connection.sendall(request.encode())
        assert _read_head(connection).startswith(b"HTTP/1.1 206")
        while start < end:
            start += connection.recv_into(view[start:end])

    return lambda: _in_threads(size, work), 0


@job
def save_raw(size: int) -> tuple[Step, int]:
    view = memoryview(bytearray(size))

    def work(connection: socket.socket, host: str, start: int, end: int) -> None:
        request = f"PUT /{BUCKET}/raw-{start} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {end - start}\r\n\r\n"
        connection.sendall(request.encode())
        connection.sendall(view[start:end])
        assert _read_head(connection).startswith(b"HTTP/1.1 200")

    return lambda: _in_threads(size, work), 0


def ratios(figures: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    speed = {label: row["gb_per_s"] for label, row in figures.items()}
    peers = [speed[label] for label in speed if label not in (ours, "raw sockets")]
    return {
        "over_best_peer": speed[ours] / max(peers) if peers else float("nan"),
        "of_raw_limit": speed[ours] / speed["raw sockets"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "torch.json")
    options = parser.parse_args()

    import s3dlio_np
    import s3dlio_torch
    from tests.servers.own import OwnServer

    with OwnServer(buckets=(BUCKET,), verify=False) as server:
        os.environ.update(server.env())
        s3dlio_torch.save(decoder_state(options.size_mib), f"s3://{BUCKET}/{SEED_KEY}")
        size = s3dlio_np.stat(f"s3://{BUCKET}/{SEED_KEY}")["size"]

        def tidy() -> None:
            for item in server.objects():
                if item["key"] != SEED_KEY:
                    server.delete_object(item["bucket"], item["key"])

        results: dict[str, Any] = {}
        for verb, argument in (("save", {"size_mib": options.size_mib}), ("load", {"size": size})):
            plan = [
                ("s3dlio_torch", f"{verb}_ours", argument),
                ("boto3 + BytesIO", f"{verb}_boto3", argument),
                ("s3torchconnector", f"{verb}_s3torchconnector", argument),
                ("raw sockets", f"{verb}_raw", {"size": size}),
            ]
            if verb == "save":  # a server touches its memory for the first time only once
                harness.warm_up(__file__, "save_raw", {"size": size}, server.env())
                tidy()
            figures = harness.measure(
                __file__, plan, size=size, rounds=options.rounds, env=server.env(), between=tidy
            )
            harness.report(f"torch.{verb}, {size / 2**20:.0f} MiB", figures)
            results[verb] = {"figures": figures, "ratios": ratios(figures, "s3dlio_torch")}
            for name, value in results[verb]["ratios"].items():
                print(f"  {name}: {value:.2f}")

    packages = ("torch", "boto3", "s3torchconnector", "s3dlio-native")
    harness.write_json(
        options.out,
        {
            "benchmark": "torch save and load, own server on loopback",
            "machine": harness.machine(),
            "versions": {package: version(package) for package in packages},
            "size_bytes": size,
            "rounds": options.rounds,
            **results,
        },
    )


if __name__ == "__main__":
    if not harness.run_as_worker():
        main()
