"""Saves from and loads to an accelerator's memory, beside peers, on the project's own server.

    python benchmarks/bench_device.py [--size-mib 2048] [--rounds 3] [--device cuda]
                                      [--only save stall load safetensors] [--out FILE.json]

Ways to save and load a decoder-shaped state dict in torch's format: this project; boto3 through
BytesIO, s3torchconnector and s3dlio, each under torch.save and torch.load(map_location=device). To
load safetensors: this project; Run:ai Model Streamer; boto3 with safetensors.torch.load; from a
local file also safetensors.torch.load_file. async_save: how long the caller waits until it may go
on, beside all that the caller can do without it, a copy of each tensor to the CPU.

The device is synchronized before a step's time is taken. Two limits: "pinned copies" moves the same
bytes between one pinned slot and the device, "raw sockets" the same bytes through eight plain
sockets without a device (see bench_torch.py); "CPU memory" is this project without the device. Extra MiB is host memory.

Peers that are not installed are left out. Needs an accelerator; --device cpu only tries the script.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench_torch
import harness
from bench_torch import BUCKET, SEED_KEY, decoder_state
from harness import ROOT, Step, job

TENSORS_KEY = "seed.safetensors"
PINNED_SLOT = 16 * 2**20


def on_device(size_mib: int, device: str) -> dict[str, Any]:
    return {name: tensor.to(device) for name, tensor in decoder_state(size_mib).items()}


def synchronized(work: Callable[[], Any], device: str) -> Step:
    """The step: `work`, and until the device has done all that it queued."""
    import torch

    if device == "cpu":
        return work
    torch.ones(1, device=device).cpu()  # what the first use of a device costs is nobody's
    torch.accelerator.synchronize()

    def step() -> Any:
        result = work()
        torch.accelerator.synchronize()
        return result

    return step


def kept(size: int, device: str) -> int:
    return size if device == "cpu" else 0


# ---- saving ----


def saver(way: str) -> Callable[[dict[str, Any]], None]:
    import torch

    if way == "ours":
        import s3dlio_torch

        return lambda state: s3dlio_torch.save(state, f"s3://{BUCKET}/ours.pt")
    if way == "boto3":
        client = bench_torch.boto3_client()

        def through_memory(state: dict[str, Any]) -> None:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            client.upload_fileobj(buffer, BUCKET, "boto3.pt")

        return through_memory
    if way == "s3torchconnector":
        checkpoint = bench_torch.connector(None)

        def through_writer(state: dict[str, Any]) -> None:
            with checkpoint.writer(f"s3://{BUCKET}/connector.pt") as writer:
                torch.save(state, writer)

        return through_writer
    import s3dlio

    def through_parts(state: dict[str, Any]) -> None:
        writer = s3dlio.MultipartUploadWriter.from_uri(
            f"s3://{BUCKET}/s3dlio.pt", part_size=8 * 2**20
        )
        torch.save(state, writer)
        writer.close()

    return through_parts


@job
def device_save(size_mib: int, device: str, way: str, again: bool = False) -> tuple[Step, int]:
    """again: the second save of a process, which finds memory and connections of the first."""
    state, save = on_device(size_mib, device), saver(way)
    if again:
        save(state)
    return synchronized(lambda: save(state), device), 0


@job
def device_stall(size_mib: int, device: str, again: bool) -> tuple[Step, int]:
    """Until async_save lets the caller go on."""
    import s3dlio_torch

    state = on_device(size_mib, device)
    if again:
        s3dlio_torch.async_save(state, f"s3://{BUCKET}/ours.pt").result()
    return synchronized(
        lambda: s3dlio_torch.async_save(state, f"s3://{BUCKET}/ours.pt"), device
    ), 0


@job
def device_clone(size_mib: int, device: str) -> tuple[Step, int]:
    state = on_device(size_mib, device)
    return synchronized(lambda: {name: t.cpu() for name, t in state.items()}, device), 0


# ---- loading ----


def loader(way: str, device: str) -> Callable[[], Any]:
    import torch

    if way == "ours":
        import s3dlio_torch

        return lambda: s3dlio_torch.load(f"s3://{BUCKET}/{SEED_KEY}", device)
    if way == "boto3":
        client = bench_torch.boto3_client()

        def through_memory() -> Any:
            buffer = io.BytesIO()
            client.download_fileobj(BUCKET, SEED_KEY, buffer)
            buffer.seek(0)
            return torch.load(buffer, device)

        return through_memory
    if way == "s3torchconnector":
        checkpoint = bench_torch.connector(None)

        def through_reader() -> Any:
            with checkpoint.reader(f"s3://{BUCKET}/{SEED_KEY}") as reader:
                return torch.load(reader, device)

        return through_reader
    import s3dlio

    return lambda: torch.load(io.BytesIO(s3dlio.get(f"s3://{BUCKET}/{SEED_KEY}")), device)


@job
def device_load(size: int, device: str, way: str, again: bool = False) -> tuple[Step, int]:
    load = loader(way, device)
    if again:
        load()
    return synchronized(load, device), kept(size, device)


def tensors_loader(way: str, device: str, path: str) -> Callable[[], Any]:
    import safetensors.torch

    if way == "ours":
        import s3dlio_torch

        return lambda: s3dlio_torch.load_safetensors(path, device=device)
    if way == "runai":
        from runai_model_streamer import SafetensorsStreamer

        def stream() -> Any:
            with SafetensorsStreamer() as streamer:
                streamer.stream_file(path, device=device)
                return {name: tensor.clone() for name, tensor in streamer.get_tensors()}

        return stream
    if way == "file":
        return lambda: safetensors.torch.load_file(path, device=device)
    client = bench_torch.boto3_client()

    def through_memory() -> Any:
        buffer = io.BytesIO()
        client.download_fileobj(BUCKET, TENSORS_KEY, buffer)
        state = safetensors.torch.load(buffer.getvalue())
        return {name: tensor.to(device) for name, tensor in state.items()}

    return through_memory


@job
def device_tensors(size: int, device: str, way: str, path: str) -> tuple[Step, int]:
    load = tensors_loader(way, device, path)
    return synchronized(load, device), kept(size, device)


# ---- limits ----


@job
def device_copies(size: int, device: str, save: bool) -> tuple[Step, int]:
    """One pinned slot, over and over, by the device's own queue."""
    import torch

    there = torch.empty(size, dtype=torch.uint8, device=device)
    slot = torch.ones(PINNED_SLOT, dtype=torch.uint8, pin_memory=device != "cpu")

    def work() -> None:
        for start in range(0, size, PINNED_SLOT):
            piece = there[start : start + PINNED_SLOT]
            mine = slot[: piece.numel()]
            pair = (mine, piece) if save else (piece, mine)
            pair[0].copy_(pair[1], non_blocking=True)

    return synchronized(work, device), 0


# ---- the comparison ----

OURS = "s3dlio_torch"
PEERS = {"boto3": "boto3 + BytesIO", "s3torchconnector": "s3torchconnector", "s3dlio": "s3dlio"}


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def plans(
    options: Any, size: int, files: dict[str, str]
) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    device = {"device": options.device}
    state, object_ = {"size_mib": options.size_mib, **device}, {"size": size, **device}
    peers = [(label, way) for way, label in PEERS.items() if is_installed(way)]
    tensors = [(OURS, "ours", "s3"), ("boto3 + safetensors", "boto3", "s3")]
    if is_installed("runai-model-streamer"):
        tensors.append(("Run:ai Model Streamer", "runai", "s3"))
    tensors += [
        (f"{OURS}, local file", "ours", "local"),
        ("safetensors, local file", "file", "local"),
    ]
    on_cpu = {"device": "cpu"}
    return {
        "save": [
            (OURS, "device_save", {**state, "way": "ours"}),
            (f"{OURS}, again", "device_save", {**state, "way": "ours", "again": True}),
            (f"{OURS}, CPU memory", "device_save", {**state, **on_cpu, "way": "ours"}),
            *((label, "device_save", {**state, "way": way}) for label, way in peers),
            ("pinned copies", "device_copies", {**object_, "save": True}),
            ("raw sockets", "save_raw", {"size": size}),
        ],
        "stall": [
            ("async_save returns", "device_stall", {**state, "again": False}),
            ("async_save returns, again", "device_stall", {**state, "again": True}),
            (".cpu() of each tensor", "device_clone", state),
            ("pinned copies", "device_copies", {**object_, "save": True}),
        ],
        "load": [
            (OURS, "device_load", {**object_, "way": "ours"}),
            (f"{OURS}, again", "device_load", {**object_, "way": "ours", "again": True}),
            (f"{OURS}, CPU memory", "device_load", {**object_, **on_cpu, "way": "ours"}),
            *((label, "device_load", {**object_, "way": way}) for label, way in peers),
            ("pinned copies", "device_copies", {**object_, "save": False}),
            ("raw sockets", "load_raw", {"size": size}),
        ],
        "safetensors": [
            (label, "device_tensors", {**object_, "way": way, "path": files[where]})
            for label, way, where in tensors
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=["save", "stall", "load", "safetensors"])
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="for the local file"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "device.json"
    )
    options = parser.parse_args()

    import torch

    import s3dlio_np
    import s3dlio_torch
    from tests.servers.own import OwnServer

    local = options.folder / "s3dlio-bench.safetensors"
    files = {"s3": f"s3://{BUCKET}/{TENSORS_KEY}", "local": str(local)}
    results: dict[str, Any] = {}
    with OwnServer(buckets=(BUCKET,), verify=False) as server:
        os.environ.update(server.env(), RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING="0")
        state = on_device(options.size_mib, options.device)
        s3dlio_torch.save(state, f"s3://{BUCKET}/{SEED_KEY}")
        for uri in files.values():
            s3dlio_torch.save_safetensors(state, uri)
        del state
        size = s3dlio_np.stat(f"s3://{BUCKET}/{SEED_KEY}")["size"]

        def tidy() -> None:
            for item in server.objects():
                if not item["key"].startswith("seed."):
                    server.delete_object(item["bucket"], item["key"])

        harness.warm_up(bench_torch.__file__, "save_raw", {"size": size}, server.env())
        tidy()
        try:
            for name in options.only:
                plan = plans(options, size, files)[name]
                figures = harness.measure(
                    __file__,
                    plan,
                    size=size,
                    rounds=options.rounds,
                    env=server.env(),
                    between=tidy,
                )
                harness.report(f"{name}, {size / 2**20:.0f} MiB on {options.device}", figures)
                results[name] = figures
        finally:
            local.unlink()

    packages = ("torch", *PEERS, "runai-model-streamer", "safetensors")
    harness.write_json(
        options.out,
        {
            "benchmark": "saves from and loads to an accelerator, own server on loopback",
            "machine": {
                **harness.machine(),
                "device": "cpu" if options.device == "cpu" else torch.cuda.get_device_name(),
            },
            "versions": {
                package: version(package) for package in packages if is_installed(package)
            },
            "size_bytes": size,
            "rounds": options.rounds,
            **results,
        },
    )


if __name__ == "__main__":
    if not harness.run_as_worker():
        main()
