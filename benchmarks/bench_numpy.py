"""NumPy files, raw bytes, pickles and small objects, beside peers, on the project's own server.

    .venv-interop/bin/python benchmarks/bench_numpy.py [--size-mib 1024] [--rounds 3] [--out FILE]

Ways: this project natively (load, savez, get_bytes_view); its file objects under NumPy's and
pickle's own functions; boto3 through BytesIO (its transfer manager); s3fs and smart_open, whose
files NumPy takes; obstore and s3dlio, which give and take whole objects, through BytesIO. The
limit for bytes is curl_get.c, libcurl alone with the same part size. Every way ends with the same
arrays. Ratios, not absolute figures, mean something on a shared machine.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import io
import mmap
import os
import pickle
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import ROOT, Step, job

BUCKET = "bench"
PART = 8 * 2**20
MEMBERS = 16
SMALL_COUNT, SMALL_BYTES, AT_ONCE = 1000, 64 * 1024, 64
NPY, NPZ, PICKLE = "seed.npy", "seed.npz", "seed.pickle"
Array = np.ndarray[Any, Any]


def uri(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def small_keys() -> list[str]:
    return [f"seed-small/{i:04}" for i in range(SMALL_COUNT)]


def members(size: int) -> dict[str, Array]:
    count = size // MEMBERS // 8
    return {f"member{i:02}": np.arange(i, i + count, dtype=np.float64) for i in range(MEMBERS)}


def boto3_client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=os.environ["AWS_ENDPOINT_URL"],
        config=Config(max_pool_connections=AT_ONCE),
    )


def s3fs_system() -> Any:
    import s3fs

    return s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False)


def smart_open(mode: str) -> Callable[[str], Any]:
    import smart_open

    parameters = {"client": boto3_client()}
    return lambda key: smart_open.open(uri(key), mode, transport_params=parameters)


def obstore_store() -> Any:
    from obstore.store import S3Store

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    return S3Store(BUCKET, endpoint=endpoint, client_options={"allow_http": True})


def ours(mode: str) -> Callable[[str], Any]:
    import s3dlio_np

    return lambda key: s3dlio_np.open(uri(key), mode)


def s3fs_files(mode: str) -> Callable[[str], Any]:
    system = s3fs_system()
    return lambda key: system.open(f"{BUCKET}/{key}", mode)


def boto3_memory() -> Callable[[str], Any]:
    client = boto3_client()

    def fetch(key: str) -> Any:
        buffer = io.BytesIO()
        client.download_fileobj(BUCKET, key, buffer)
        buffer.seek(0)
        return buffer

    return fetch


def obstore_memory() -> Callable[[str], Any]:
    import obstore

    store = obstore_store()
    return lambda key: io.BytesIO(obstore.get(store, key).bytes())


def s3dlio_memory() -> Callable[[str], Any]:
    import s3dlio

    return lambda key: io.BytesIO(s3dlio.get(uri(key)))


READERS: dict[str, Callable[[], Callable[[str], Any]]] = {
    "file": lambda: ours("rb"),
    "boto3": boto3_memory,
    "s3fs": lambda: s3fs_files("rb"),
    "smart_open": lambda: smart_open("rb"),
    "obstore": obstore_memory,
    "s3dlio": s3dlio_memory,
}


def boto3_upload() -> Callable[[str, io.BytesIO], Any]:
    client = boto3_client()

    def upload(key: str, buffer: io.BytesIO) -> None:
        buffer.seek(0)
        client.upload_fileobj(buffer, BUCKET, key)

    return upload


def obstore_upload() -> Callable[[str, io.BytesIO], Any]:
    import obstore

    store = obstore_store()

    def upload(key: str, buffer: io.BytesIO) -> None:
        buffer.seek(0)
        obstore.put(store, key, buffer)

    return upload


def s3dlio_upload() -> Callable[[str, io.BytesIO], Any]:
    import s3dlio

    return lambda key, buffer: s3dlio.put_bytes(uri(key), buffer.getbuffer())


OPENERS: dict[str, Callable[[], Callable[[str], Any]]] = {
    "file": lambda: ours("wb"),
    "s3fs": lambda: s3fs_files("wb"),
    "smart_open": lambda: smart_open("wb"),
}
UPLOADS: dict[str, Callable[[], Callable[[str, io.BytesIO], Any]]] = {
    "boto3": boto3_upload,
    "obstore": obstore_upload,
    "s3dlio": s3dlio_upload,
}


def writer(way: str, key: str, save: Callable[[Any], Any]) -> Step:
    """Runs save(file) on an opened object, or on memory that is then uploaded."""
    if way in OPENERS:
        open_object = OPENERS[way]()

        def through_file() -> None:
            with open_object(key) as stream:
                save(stream)

        return through_file
    upload = UPLOADS[way]()

    def through_memory() -> None:
        buffer = io.BytesIO()
        save(buffer)
        upload(key, buffer)

    return through_memory


# ---- NumPy files ----


@job
def load_npy(way: str, size: int) -> tuple[Step, int]:
    if way == "ours":
        import s3dlio_np

        return lambda: s3dlio_np.load(uri(NPY)), size
    read = READERS[way]()

    def step() -> Any:
        with read(NPY) as stream:
            return np.load(stream)

    return step, size


@job
def load_npz(way: str, size: int) -> tuple[Step, int]:
    if way == "ours":
        import s3dlio_np

        return lambda: s3dlio_np.load(uri(NPZ), load_all=True), size
    read = READERS[way]()

    def step() -> Any:
        with read(NPZ) as stream, np.load(stream) as archive:
            return dict(archive)

    return step, size


@job
def savez(way: str, size: int) -> tuple[Step, int]:
    arrays = members(size)
    if way == "ours":
        import s3dlio_np

        return lambda: s3dlio_np.savez(uri("out.npz"), **arrays), 0
    return writer(way, "out.npz", lambda file: np.savez(file, **arrays)), 0


# ---- pickle ----


@job
def pickle_dump(way: str, size: int) -> tuple[Step, int]:
    arrays = list(members(size).values())
    return writer(way, "out.pickle", lambda file: pickle.dump(arrays, file, protocol=5)), 0


@job
def pickle_load(way: str, size: int) -> tuple[Step, int]:
    read = READERS[way]()

    def step() -> Any:
        with read(PICKLE) as stream:
            return pickle.load(stream)

    return step, size


# ---- bytes ----


@job
def view(way: str, size: int) -> tuple[Step, int]:
    if way == "ours":
        import s3dlio_np

        return lambda: s3dlio_np.get_bytes_view(uri(NPY)), size
    if way == "boto3":  # its transfer manager, which reads in parallel
        fetch = boto3_memory()
        return lambda: fetch(NPY).getbuffer(), size
    get = one_object(way)
    return lambda: get(NPY), size


@job
def view_curl(size: int, library: str, threads: int) -> tuple[Step, int]:
    get = ctypes.CDLL(library).curl_get
    get.argtypes = [
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_uint,
    ]
    url = f"{os.environ['AWS_ENDPOINT_URL']}/{BUCKET}/{NPY}".encode()

    def step() -> Any:
        memory = mmap.mmap(-1, size)
        memory.madvise(mmap.MADV_HUGEPAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        line = get(url, start, size, PART, AT_ONCE // threads, threads)
        if line:
            raise RuntimeError(f"curl_get.c gave up at line {line}")
        return memory

    return step, size


# ---- many small objects ----


def check_small(bodies: Any) -> None:
    count = sum(len(body) for body in bodies)
    if count != SMALL_COUNT * SMALL_BYTES:
        raise RuntimeError(f"{count} bytes")


def one_object(way: str) -> Callable[[str], Any]:
    if way == "ours":
        import s3dlio_np

        return lambda key: s3dlio_np.get_bytes(uri(key))
    if way == "file":
        import s3dlio_np

        def read(key: str) -> bytes:
            with s3dlio_np.open(uri(key)) as stream:
                return stream.read()

        return read
    if way == "boto3":
        client = boto3_client()
        return lambda key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    if way == "s3fs":
        system = s3fs_system()
        return lambda key: system.cat_file(f"{BUCKET}/{key}")
    if way == "smart_open":
        open_object = smart_open("rb")

        def read_all(key: str) -> bytes:
            with open_object(key) as stream:
                body: bytes = stream.read()
                return body

        return read_all
    if way == "obstore":
        import obstore

        store = obstore_store()
        return lambda key: memoryview(obstore.get(store, key).bytes())
    import s3dlio

    return lambda key: memoryview(s3dlio.get(uri(key)))


@job
def small_in_turn(way: str) -> tuple[Step, int]:
    get = one_object(way)
    return lambda: check_small(get(key) for key in small_keys()), 0


@job
def small_at_once(way: str) -> tuple[Step, int]:
    """Each by its own means where it has any, else by 64 threads."""
    keys = small_keys()
    if way == "s3fs":
        system = s3fs_system()
        paths = [f"{BUCKET}/{key}" for key in keys]
        return lambda: check_small(system.cat(paths, batch_size=AT_ONCE).values()), 0
    if way == "obstore":
        return lambda: asyncio.run(_obstore_at_once(keys)), 0
    if way == "s3dlio":
        import s3dlio

        uris = [uri(key) for key in keys]
        return lambda: check_small(
            memoryview(body) for _, body in s3dlio.get_many(uris, AT_ONCE)
        ), 0
    get = one_object(way)

    def step() -> None:
        with ThreadPoolExecutor(AT_ONCE) as threads:
            check_small(threads.map(get, keys))

    return step, 0


async def _obstore_at_once(keys: list[str]) -> None:
    import obstore

    store, room = obstore_store(), asyncio.Semaphore(AT_ONCE)

    async def get(key: str) -> Any:
        async with room:
            return memoryview(await (await obstore.get_async(store, key)).bytes_async())

    check_small(await asyncio.gather(*map(get, keys)))


# ---- all of it ----

NATIVE, FILE = "s3dlio_np", "on s3dlio_np.open"
PEERS = {
    "boto3 + BytesIO": "boto3",
    "s3fs": "s3fs",
    "smart_open": "smart_open",
    "obstore": "obstore",
    "s3dlio": "s3dlio",
}
Figures = dict[str, dict[str, float]]
Plan = list[tuple[str, str, dict[str, Any]]]


def plan_of(name: str, *, native: bool = True, **arguments: Any) -> Plan:
    ways = {NATIVE: "ours"} if native else {}
    ways |= {FILE: "file", **PEERS}
    return [(label, name, {"way": way, **arguments}) for label, way in ways.items()]


def over(figures: Figures, label: str, others: list[str]) -> float | None:
    """How many times as fast as the best of the others; None when there is nothing to compare."""
    speeds = [figures[other]["gb_per_s"] for other in others if other in figures]
    return figures[label]["gb_per_s"] / max(speeds) if label in figures and speeds else None


def ratios(figures: Figures) -> dict[str, float | None]:
    return {
        f"{name}_over_{rival}": over(figures, label, others)
        for name, label in (("native", NATIVE), ("file_object", FILE))
        for rival, others in (("boto3", ["boto3 + BytesIO"]), ("best_peer", list(PEERS)))
        if label in figures
    }


def curl_library(folder: Path) -> Path:
    target = folder / "curl_get.so"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC"]
    source = ROOT / "benchmarks" / "curl_get.c"
    subprocess.run(
        [os.environ.get("CC", "gcc"), *flags, "-o", target, source, "-lcurl", "-lpthread"],
        check=True,
    )
    return target


def plans(size: int, library: Path) -> dict[str, tuple[Plan, int]]:
    whole = {"size": size}
    curl = {"size": size, "library": str(library)}
    limit = [
        ("libcurl alone, one loop", "view_curl", {**curl, "threads": 1}),
        ("libcurl alone, two loops", "view_curl", {**curl, "threads": 2}),
    ]
    small = SMALL_COUNT * SMALL_BYTES
    return {
        "load of a .npy": ([*plan_of("load_npy", **whole), *limit], size),
        f"load of a .npz of {MEMBERS} members": (plan_of("load_npz", **whole), size),
        f"savez of {MEMBERS} arrays": (plan_of("savez", **whole), size),
        "get_bytes_view": ([*plan_of("view", **whole), *limit], size),
        "pickle.dump, protocol 5": (plan_of("pickle_dump", native=False, **whole), size),
        "pickle.load, protocol 5": (plan_of("pickle_load", native=False, **whole), size),
        "1,000 objects of 64 KiB in turn": (plan_of("small_in_turn"), small),
        "1,000 objects of 64 KiB, 64 at once": (plan_of("small_at_once"), small),
    }


def seed(size: int) -> None:
    import s3dlio_np

    with s3dlio_np.open(uri(NPY), "wb") as stream:
        np.save(stream, np.arange(size // 8, dtype=np.float64))
    with s3dlio_np.open(uri(NPZ), "wb") as stream:
        np.savez(stream, **members(size))
    with s3dlio_np.open(uri(PICKLE), "wb") as stream:
        pickle.dump(list(members(size).values()), stream, protocol=5)
    for key in small_keys():
        s3dlio_np.put(uri(key), bytes(SMALL_BYTES))


def compare(server: Any, title: str, plan: Plan, size: int, rounds: int) -> dict[str, Any]:
    def tidy() -> None:
        for item in server.objects():
            if not item["key"].startswith("seed"):
                server.delete_object(item["bucket"], item["key"])

    figures = harness.measure(
        __file__, plan, size=size, rounds=rounds, env=server.env(), between=tidy
    )
    harness.report(f"{title}, {size / 2**20:.0f} MiB", figures)
    found = ratios(figures)
    curl = [label for label in figures if label.startswith("libcurl")]
    if curl:
        found["of_libcurl_alone"] = over(figures, NATIVE, curl)
    for name, value in found.items():
        print(f"  {name}: {'-' if value is None else format(value, '.2f')}")
    return {"figures": figures, "ratios": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run what has this in its title")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "numpy.json")
    options = parser.parse_args()

    import s3dlio_np
    from tests.servers.own import OwnServer

    size = options.size_mib * 2**20
    with (
        tempfile.TemporaryDirectory() as folder,
        OwnServer(buckets=(BUCKET,), verify=False) as server,
    ):
        os.environ.update(server.env())
        seed(size)
        results = {
            title: compare(server, title, plan, bytes_moved, options.rounds)
            for title, (plan, bytes_moved) in plans(size, curl_library(Path(folder))).items()
            if options.only in title
        }

    packages = ("numpy", "boto3", "s3fs", "smart_open", "obstore", "s3dlio")
    harness.write_json(
        options.out,
        {
            "benchmark": "NumPy files, bytes, pickles and small objects, own server on loopback",
            "machine": harness.machine(),
            "versions": {
                **{package: version(package) for package in packages},
                "s3dlio_np": s3dlio_np.__version__,
            },
            "size_bytes": size,
            "rounds": options.rounds,
            "results": results,
        },
    )


if __name__ == "__main__":
    if not harness.run_as_worker():
        main()
