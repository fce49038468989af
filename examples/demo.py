"""The main job, end to end, without any account: `make demo` runs it.

Starts the project's own S3 server on loopback, trains a small classifier on scikit-learn's
handwritten digits, and saves and loads the checkpoint and the data three ways: to S3 with this
project, to a local file with this project, and to S3 with boto3 through BytesIO. Predictions and
arrays are compared after each load.
"""

from __future__ import annotations

import gc
import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for tests.servers

import s3dlio_np
import s3dlio_torch
from tests.servers.own import OwnServer

BUCKET = "demo"
WIDTH = 4096
EPOCHS = 3


def status_bytes(field: str) -> int:
    """A field of /proc/self/status, such as VmRSS (now) or VmHWM (peak), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


@dataclass
class Figure:
    what: str
    way: str
    size: int
    seconds: float
    extra: int

    def row(self) -> str:
        return (
            f"{self.what:<14} {self.way:<28} {self.size / 2**20:8.1f} {self.seconds:9.3f} "
            f"{self.size / self.seconds / 1e9:8.2f} {self.extra / 2**20:12.1f}"
        )


def measure(what: str, way: str, size: int, job: Callable[[], Any], keeps: int) -> tuple[Any, Figure]:
    """Runs job once; extra memory is its peak beyond the start and the `keeps` bytes it returns."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = status_bytes("VmRSS")
    start = time.perf_counter()
    result = job()
    seconds = time.perf_counter() - start
    extra = max(0, status_bytes("VmHWM") - before - keeps)
    return result, Figure(what, way, size, seconds, extra)


class Classifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Linear(WIDTH, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def train(x: torch.Tensor, y: torch.Tensor) -> tuple[Classifier, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        print(f"  epoch {epoch + 1}: loss {total / len(x):.3f}")
    return model, optimizer


def predictions(state: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    with torch.device("meta"):
        model = Classifier()
    model.load_state_dict(state["model"], assign=True)
    with torch.no_grad():
        return model(x).argmax(1)


def boto3_save(client: Any, state: dict[str, Any], key: str) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    client.upload_fileobj(buffer, BUCKET, key)


def boto3_read(client: Any, key: str) -> io.BytesIO:
    buffer = io.BytesIO()
    client.download_fileobj(BUCKET, key, buffer)
    buffer.seek(0)
    return buffer


def boto3_savez(client: Any, arrays: dict[str, np.ndarray], key: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    buffer.seek(0)
    client.upload_fileobj(buffer, BUCKET, key)


def checkpoints(state: dict[str, Any], x: torch.Tensor, client: Any, folder: Path) -> list[Figure]:
    expected = predictions(state, x)
    uris = {"s3dlio_torch, S3": f"s3://{BUCKET}/model.pt", "s3dlio_torch, file": str(folder / "model.pt")}
    figures = []
    for way, uri in uris.items():
        _, saved = measure("torch save", way, 0, lambda u=uri: s3dlio_torch.save(state, u), 0)
        saved.size = size = s3dlio_np.stat(uri)["size"]
        loaded, figure = measure("torch load", way, size, lambda u=uri: s3dlio_torch.load(u), size)
        figures += [saved, figure]
        assert torch.equal(predictions(loaded, x), expected), f"{way}: predictions differ"
        del loaded
    way = "boto3 + BytesIO, S3"
    _, saved = measure("torch save", way, size, lambda: boto3_save(client, state, "boto3.pt"), 0)
    loaded, figure = measure(
        "torch load", way, size, lambda: torch.load(boto3_read(client, "boto3.pt")), size
    )
    assert torch.equal(predictions(loaded, x), expected), f"{way}: predictions differ"
    return [*figures, saved, figure]


def savez(uri: str, arrays: dict[str, np.ndarray]) -> None:
    with s3dlio_np.open(uri, "wb") as f:
        np.savez(f, **arrays)


def loadz(file: Any) -> dict[str, np.ndarray]:
    with np.load(file) as members:
        return {name: members[name] for name in members.files}


def arrays_round_trip(arrays: dict[str, np.ndarray], client: Any, folder: Path) -> list[Figure]:
    uris = {"s3dlio_np, S3": f"s3://{BUCKET}/data.npz", "s3dlio_np, file": str(folder / "data.npz")}
    nbytes = sum(a.nbytes for a in arrays.values())
    figures = []

    def check(way: str, loaded: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            assert np.array_equal(loaded[name], array), f"{way}: {name} differs"

    for way, uri in uris.items():
        _, saved = measure("np.savez", way, nbytes, lambda u=uri: savez(u, arrays), 0)
        loaded, figure = measure(
            "np.load", way, nbytes, lambda u=uri: loadz(s3dlio_np.open(u)), nbytes
        )
        check(way, loaded)
        figures += [saved, figure]
        del loaded
    way = "boto3 + BytesIO, S3"
    _, saved = measure("np.savez", way, nbytes, lambda: boto3_savez(client, arrays, "boto3.npz"), 0)
    loaded, figure = measure(
        "np.load", way, nbytes, lambda: loadz(boto3_read(client, "boto3.npz")), nbytes
    )
    check(way, loaded)
    return [*figures, saved, figure]


def main() -> None:
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    y = torch.tensor(digits.target)
    print(f"training on {len(x)} handwritten digits")
    model, optimizer = train(x, y)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": EPOCHS}
    accuracy = float((predictions(state, x) == y).float().mean())
    print(f"  accuracy {accuracy:.1%}")
    # The first layer's activations make a data set of a size worth timing.
    with torch.no_grad():
        hidden = model.layers[:2](x).numpy()
    arrays = {"images": digits.images, "labels": digits.target, "hidden": hidden}

    with OwnServer(buckets=(BUCKET,)) as server, tempfile.TemporaryDirectory() as folder:
        env = server.env()
        s3dlio_np.configure(
            endpoint=server.endpoint,
            access_key=env["AWS_ACCESS_KEY_ID"],
            secret_key=env["AWS_SECRET_ACCESS_KEY"],
            region=env["AWS_REGION"],
        )
        client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_REGION"],
        )
        print(f"saving to s3://{BUCKET} at {server.endpoint} and to {folder}")
        figures = checkpoints(state, x, client, Path(folder))
        figures += arrays_round_trip(arrays, client, Path(folder))
    print(f"\n{'job':<14} {'way':<28} {'MiB':>8} {'seconds':>9} {'GB/s':>8} {'extra MiB':>12}")
    for figure in figures:
        print(figure.row())
    print("\nevery prediction and every array came back equal")


if __name__ == "__main__":
    main()
