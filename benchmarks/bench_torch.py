"""torch save and load of a decoder-shaped state dict, beside peers, on the project's own server.

    python benchmarks/bench_torch.py [--size-mib 1024] [--rounds 3] [--out FILE.json]
                                     [--latency-ms 30 --bandwidth-mbps 80 --concurrency 8]

Ways: this project natively; this project's file objects under torch's public functions; boto3
through BytesIO (its transfer manager); s3torchconnector; s3dlio (its multipart writer; get). The
raw limit is the same bytes over plain sockets in eight threads, into or out of memory that is
there already. Ratios, not absolute figures, mean something on a shared machine.

With --latency-ms and --bandwidth-mbps the server is far: each answer starts late and each
connection is slow, and what the plan allows is --concurrency x bandwidth. Not every peer keeps to
a given concurrency: s3torchconnector's client takes a target throughput only, of which 0.4 Gbit/s
a connection are asked for, and opens ten connections or more; s3dlio.get takes none. So each row
tells how many requests the server saw in flight at once, and two ratios are given: over the best
peer whatever it used, and over the best of those that kept to the plan. "Raw sockets" then read and
write parts of 8 MiB, each with its own wait: no limit there.
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


def boto3_config(concurrency: int | None) -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(max_concurrency=concurrency) if concurrency else TransferConfig()


def connector(concurrency: int | None) -> Any:
    from s3torchconnector import S3Checkpoint, S3ClientConfig

    target = {"throughput_target_gbps": 0.4 * concurrency} if concurrency else {}
    return S3Checkpoint(
        region=os.environ["AWS_REGION"],
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        s3client_config=S3ClientConfig(force_path_style=True, **target),
    )


def one_tensor(size_mib: int) -> dict[str, Any]:
    import torch

    return {"one": torch.ones(size_mib * 2**18)}


def small_tensors(size_mib: int) -> dict[str, Any]:
    """The same amount in tensors of 4 KiB."""
    import torch

    return {f"t{i}": torch.full((1024,), float(i)) for i in range(size_mib * 256)}


STATES = {"decoder": decoder_state, "small": small_tensors, "one": one_tensor}


# ---- saving ----


@job
def save_ours(size_mib: int, state: str = "decoder", concurrency: int | None = None) -> tuple[Step, int]:
    import s3dlio_torch

    value, uri = STATES[state](size_mib), f"s3://{BUCKET}/ours.pt"
    return lambda: s3dlio_torch.save(value, uri, max_concurrency=concurrency), 0


@job
def save_file_object(size_mib: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    import s3dlio_np

    state = decoder_state(size_mib)

    def step() -> None:
        with s3dlio_np.open(f"s3://{BUCKET}/file.pt", "wb", max_concurrency=concurrency) as f:
            torch.save(state, f)

    return step, 0


@job
def save_s3dlio(size_mib: int, concurrency: int | None = None) -> tuple[Step, int]:
    import s3dlio
    import torch

    state = decoder_state(size_mib)

    def step() -> None:
        writer = s3dlio.MultipartUploadWriter.from_uri(
            f"s3://{BUCKET}/s3dlio.pt", part_size=PART, max_in_flight=concurrency
        )
        torch.save(state, writer)
        writer.close()

    return step, 0


@job
def save_boto3(size_mib: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    client, state = boto3_client(), decoder_state(size_mib)

    def step() -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.seek(0)
        client.upload_fileobj(buffer, BUCKET, "boto3.pt", Config=boto3_config(concurrency))

    return step, 0


@job
def save_s3torchconnector(size_mib: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    checkpoint, state = connector(concurrency), decoder_state(size_mib)

    def step() -> None:
        with checkpoint.writer(f"s3://{BUCKET}/connector.pt") as writer:
            torch.save(state, writer)

    return step, 0


# ---- loading ----


@job
def load_ours(size: int, key: str = SEED_KEY, concurrency: int | None = None) -> tuple[Step, int]:
    import s3dlio_torch

    return lambda: s3dlio_torch.load(f"s3://{BUCKET}/{key}", max_concurrency=concurrency), size


@job
def load_file_object(size: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    import s3dlio_np

    def step() -> Any:
        with s3dlio_np.open(f"s3://{BUCKET}/{SEED_KEY}", max_concurrency=concurrency) as f:
            return torch.load(f)

    return step, size


@job
def load_s3dlio(size: int, concurrency: int | None = None) -> tuple[Step, int]:
    import s3dlio
    import torch

    def step() -> Any:
        return torch.load(io.BytesIO(s3dlio.get(f"s3://{BUCKET}/{SEED_KEY}")))

    return step, size


@job
def load_boto3(size: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    client = boto3_client()

    def step() -> Any:
        buffer = io.BytesIO()
        client.download_fileobj(BUCKET, SEED_KEY, buffer, Config=boto3_config(concurrency))
        buffer.seek(0)
        return torch.load(buffer)

    return step, size


@job
def load_s3torchconnector(size: int, concurrency: int | None = None) -> tuple[Step, int]:
    import torch

    checkpoint = connector(concurrency)

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
    errors: list[OSError | AssertionError] = []

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
        except (OSError, AssertionError) as error:
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


OURS, FILE_OBJECT, RAW = "s3dlio_torch", "torch on s3dlio_np.open", "raw sockets"
PEERS = {
    "boto3 + BytesIO": "boto3",
    "s3torchconnector": "s3torchconnector",
    "s3dlio": "s3dlio",
}


def ratios(
    figures: dict[str, dict[str, float]], concurrency: int, planned_gb_per_s: float
) -> dict[str, float]:
    speed = {label: row["gb_per_s"] for label, row in figures.items()}
    best = max((speed[peer] for peer in PEERS if peer in speed), default=float("nan"))
    rows = {
        "over_best_peer": speed[OURS] / best,
        "file_object_over_best_peer": speed[FILE_OBJECT] / best,
        "of_raw_limit": speed[OURS] / speed[RAW],
    }
    if planned_gb_per_s:
        kept = [p for p in PEERS if p in speed and figures[p]["requests_in_flight"] <= concurrency]
        rows["over_best_peer_within_plan"] = speed[OURS] / max(speed[peer] for peer in kept)
        rows["of_what_the_plan_allows"] = speed[OURS] / planned_gb_per_s
        rows["file_object_of_what_the_plan_allows"] = speed[FILE_OBJECT] / planned_gb_per_s
    return rows


def compare(server: Any, verb: str, argument: dict[str, Any], size: int, options: Any) -> dict[str, Any]:
    """All ways of one verb, in turn."""

    def tidy() -> None:
        for item in server.objects():
            if item["key"] != SEED_KEY:
                server.delete_object(item["bucket"], item["key"])
        server.reset()

    def in_flight() -> dict[str, float]:
        return {"requests_in_flight": server.counters()["max_requests"]}

    if verb == "save":  # a server touches its memory for the first time only once
        harness.warm_up(__file__, "save_raw", {"size": size}, server.env())
    tidy()
    argument = {**argument, "concurrency": options.concurrency}
    plan = [
        (OURS, f"{verb}_ours", argument),
        (FILE_OBJECT, f"{verb}_file_object", argument),
        *((label, f"{verb}_{name}", argument) for label, name in PEERS.items()),
        (RAW, f"{verb}_raw", {"size": size}),
    ]
    figures = harness.measure(
        __file__,
        plan,
        size=size,
        rounds=options.rounds,
        env=server.env(),
        between=tidy,
        observe=in_flight,
    )
    harness.report(f"torch.{verb}, {size / 2**20:.0f} MiB", figures)
    planned = (options.concurrency or 0) * options.bandwidth_mbps / 1000
    result = {"figures": figures, "ratios": ratios(figures, options.concurrency or 0, planned)}
    for name, value in result["ratios"].items():
        print(f"  {name}: {value:.2f}")
    return result


def compare_small(server: Any, options: Any) -> dict[str, Any]:
    """10,000 tensors of 4 KiB beside one of 40 MiB's worth, and beside stock torch in memory."""
    from s3dlio_torch import save

    size = 40 * 2**20
    save(small_tensors(40), f"s3://{BUCKET}/small.pt")
    save(one_tensor(40), f"s3://{BUCKET}/one.pt")
    plan = [
        ("10,240 tensors of 4 KiB", "load_ours", {"size": size, "key": "small.pt"}),
        ("one tensor of 40 MiB", "load_ours", {"size": size, "key": "one.pt"}),
        ("torch.load of the 10,240 in memory", "load_memory", {"size": size}),
    ]
    figures = harness.measure(__file__, plan, size=size, rounds=options.rounds, env=server.env())
    harness.report("many small tensors, load", figures)
    many, one, memory = (figures[label]["seconds"] for label, _, _ in plan)
    saves = [
        ("save of 10,240 tensors of 4 KiB", "save_ours", {"size_mib": 40, "state": "small"}),
        ("save of one tensor of 40 MiB", "save_ours", {"size_mib": 40, "state": "one"}),
        ("torch.save of the 10,240 in memory", "save_memory", {"size_mib": 40}),
    ]
    saved = harness.measure(__file__, saves, size=size, rounds=options.rounds, env=server.env())
    harness.report("many small tensors, save", saved)
    save_many, save_one, save_memory = (saved[label]["seconds"] for label, _, _ in saves)
    result = {
        "over_one_tensor": many / one,
        "over_torch_in_memory": many / memory,
        "save_over_one_tensor": save_many / save_one,
        "save_over_torch_in_memory": save_many / save_memory,
    }
    figures = {**figures, **saved}
    for name, value in result.items():
        print(f"  {name}: {value:.2f}")
    return {"figures": figures, "ratios": result}


@job
def save_memory(size_mib: int) -> tuple[Step, int]:
    import torch

    value = small_tensors(size_mib)
    return lambda: torch.save(value, io.BytesIO()), 0


@job
def load_memory(size: int) -> tuple[Step, int]:
    import torch

    buffer = io.BytesIO()
    torch.save(small_tensors(size // 2**20), buffer)
    buffer.seek(0)
    return lambda: torch.load(buffer), size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=int, default=0)
    parser.add_argument("--bandwidth-mbps", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()

    import s3dlio_np
    import s3dlio_torch
    from tests.servers.own import OwnServer

    far = {"latency_ms": options.latency_ms, "bandwidth_mbps": options.bandwidth_mbps}
    with OwnServer(buckets=(BUCKET,), verify=False, **far) as server:
        os.environ.update(server.env())
        s3dlio_torch.save(decoder_state(options.size_mib), f"s3://{BUCKET}/{SEED_KEY}")
        size = s3dlio_np.stat(f"s3://{BUCKET}/{SEED_KEY}")["size"]
        results = {
            "save": compare(server, "save", {"size_mib": options.size_mib}, size, options),
            "load": compare(server, "load", {"size": size}, size, options),
        }
        if not any(far.values()):
            results["small"] = compare_small(server, options)

    name = "torch_far.json" if any(far.values()) else "torch.json"
    packages = ("torch", "boto3", "s3torchconnector", "s3dlio", "s3dlio-native")
    harness.write_json(
        options.out or ROOT / "benchmarks" / "results" / name,
        {
            "benchmark": "torch save and load, own server on loopback",
            "machine": harness.machine(),
            "versions": {package: version(package) for package in packages},
            "size_bytes": size,
            "rounds": options.rounds,
            "server": far,
            "concurrency": options.concurrency,
            **results,
        },
    )


if __name__ == "__main__":
    if not harness.run_as_worker():
        main()
