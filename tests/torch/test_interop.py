"""torch files: written here and read by stock torch, and the reverse, on every store."""

from __future__ import annotations

import collections
import functools
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import s3dlio_np
import s3dlio_torch

PART = 5 * 1024 * 1024
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of old and of new dtypes
NAMES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
DTYPES = [getattr(torch, name) for name in NAMES if hasattr(torch, name)]


def stock_file(value: object, **arguments: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(value, file, **arguments)
    file.seek(0)
    return file


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor's whole storage."""
    return bytes(torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy())


def assert_same(left: Any, right: Any) -> None:
    """The same types, structure, dtypes, shapes, strides, offsets and bytes."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape, left.requires_grad) == (
            right.dtype,
            right.shape,
            right.requires_grad,
        )
        if left.layout != torch.strided:
            assert_same(left.to_dense(), right.to_dense())
            return
        assert (left.stride(), left.storage_offset()) == (
            right.stride(),
            right.storage_offset(),
        )
        assert (left.is_conj(), left.is_neg()) == (right.is_conj(), right.is_neg())
        assert left.is_quantized == right.is_quantized
        if left.is_quantized:
            assert str(left) == str(right)
        assert raw(left.detach()) == raw(right.detach())
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for mine, theirs in zip(left, right, strict=True):
            assert_same(mine, theirs)
    else:
        assert left == right


def random_bits(dtype: torch.dtype) -> torch.Tensor:
    """Every bit pattern counts; bool has but two."""
    if dtype == torch.bool:
        return torch.tensor([True, False, True])
    width = torch.zeros(1, dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(5)
    bits = torch.randint(0, 256, (24 * width,), dtype=torch.uint8, generator=generator)
    return bits.view(dtype).reshape(4, 6)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        self.inner = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
        self.out = torch.nn.Linear(8, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.inner(self.embed(x)))
        return out


def trained() -> dict[str, Any]:
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        loss = model(torch.arange(10)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
    }


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(60, dtype=torch.float32).reshape(6, 10)
    return {
        "base": base,
        "again": base,
        "row": base[2],
        "column": base[:, 3],
        "transposed": base.t(),
        "reversed order": base.permute(1, 0)[::2],
        "expanded": base[:1].expand(6, 10),
    }


VALUES: dict[str, Callable[[], Any]] = {
    **{str(dtype): functools.partial(random_bits, dtype) for dtype in DTYPES},
    "views": views,
    "training": trained,
    "empty": lambda: [
        torch.empty(0),
        torch.empty(0, 3, dtype=torch.int8),
        torch.tensor([])[:0],
    ],
    "0-d": lambda: [torch.tensor(3.5), torch.tensor(True), torch.tensor(2 + 1j)],
    "a slice of much": lambda: torch.arange(100_000)[500:503],
    "conjugated": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "negative bit": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "parameter": lambda: torch.nn.Parameter(torch.randn(3, 2)),
    "buffer": lambda: torch.nn.Buffer(torch.randn(3)),
    "leaf": lambda: torch.randn(3, requires_grad=True),
    "channels last": lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse csr": lambda: torch.eye(4).to_sparse_csr(),
    "scalars": lambda: {"i": 1, "f": 2.5, "b": True, "n": None, "s": "ü", "c": 1j, 7: b"x"},
    "containers": lambda: collections.OrderedDict(
        a=[torch.ones(2), (1, {"x": torch.zeros(1)})]
    ),
    "sizes": lambda: [torch.Size([2, 3]), torch.float32, torch.device("cpu")],
    "large": lambda: {f"w{i}": torch.randn(700, 1000) for i in range(6)},
    "many small": lambda: {f"w{i}": torch.full((3,), float(i)) for i in range(300)},
    "nothing": dict,
}


def quantized() -> dict[str, torch.Tensor]:
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    tensors = {
        str(d): torch.quantize_per_tensor(x, 0.1, 3, d)
        for d in (torch.qint8, torch.quint8, torch.qint32)
    }
    scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2])
    tensors["channels"] = torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8)
    return tensors


if hasattr(torch, "quantize_per_tensor"):
    VALUES["quantized"] = quantized


def by_save(value: object, uri: str, **arguments: Any) -> None:
    s3dlio_torch.save(value, uri, part_size=PART, max_concurrency=2, **arguments)


def by_stream(value: object, uri: str, **arguments: Any) -> None:
    with s3dlio_np.open(uri, "wb", part_size=PART, max_concurrency=2) as stream:
        torch.save(value, stream, **arguments)


def load_stream(uri: str, **arguments: Any) -> Any:
    with s3dlio_np.open(uri, part_size=1 << 20) as stream:
        return torch.load(stream, **arguments)


SAVERS: list[Callable[..., None]] = [by_save, by_stream]
LOADERS: list[Callable[..., Any]] = [s3dlio_torch.load, load_stream]


@pytest.mark.parametrize("name", VALUES)
def test_both_ways(target: Any, name: str) -> None:
    value = VALUES[name]()
    for i, save in enumerate(SAVERS):
        save(value, target.uri(f"written{i}.pt"))
        assert_same(torch.load(io.BytesIO(target.read(f"written{i}.pt"))), value)
    target.write("stock.pt", stock_file(value).getvalue())
    for load in LOADERS:
        for file in ("stock.pt", "written0.pt"):
            assert_same(load(target.uri(file)), value)
    assert target.leftovers() == []


@pytest.mark.parametrize("load", LOADERS)
def test_aliases_stay_aliases(target: Any, load: Any) -> None:
    by_save(views(), target.uri("v.pt"))
    loaded = load(target.uri("v.pt"))
    storages = {tensor.untyped_storage().data_ptr() for tensor in loaded.values()}
    assert len(storages) == 1
    loaded["base"][2, 3] = -1.0
    assert loaded["row"][3] == loaded["column"][2] == loaded["transposed"][3, 2] == -1.0


@pytest.mark.parametrize("load", LOADERS)
def test_a_model_goes_on_as_before(target: Any, load: Any) -> None:
    state = trained()
    by_save(state, target.uri("m.pt"))
    loaded = load(target.uri("m.pt"))
    model = Tied()
    model.load_state_dict(loaded["model"])
    assert model.out.weight is model.embed.weight
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(loaded["optimizer"])
    assert_same(optimizer.state_dict(), state["optimizer"])
    ours, theirs = loaded["model"], state["model"]
    assert ours["out.weight"].data_ptr() == ours["embed.weight"].data_ptr()
    reference = Tied()
    reference.load_state_dict(theirs)
    x = torch.arange(7)
    assert torch.equal(model.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("save", SAVERS)
def test_the_files_are_torchs_own(target: Any, save: Any) -> None:
    value = trained()
    save(value, target.uri("m.pt"))
    here = zipfile.ZipFile(io.BytesIO(target.read("m.pt")))
    stock = zipfile.ZipFile(stock_file(value))
    assert here.testzip() is None
    assert here.namelist() == stock.namelist()
    for name in stock.namelist():
        mine, theirs = here.getinfo(name), stock.getinfo(name)
        assert (mine.file_size, mine.header_offset) == (theirs.file_size, theirs.header_offset)
        if not name.endswith("serialization_id"):
            assert here.read(name) == stock.read(name), name


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("save", SAVERS)
def test_pickle_protocols(target: Any, save: Any, protocol: int) -> None:
    value = trained()
    save(value, target.uri("m.pt"), pickle_protocol=protocol)
    for load in LOADERS:
        assert_same(load(target.uri("m.pt"), weights_only=False), value)
    assert_same(torch.load(io.BytesIO(target.read("m.pt")), weights_only=False), value)


@pytest.mark.parametrize("save", SAVERS)
def test_the_old_file_format(target: Any, save: Any) -> None:
    value = trained()
    save(value, target.uri("old.pt"), _use_new_zipfile_serialization=False)
    data = target.read("old.pt")
    assert not zipfile.is_zipfile(io.BytesIO(data))
    assert_same(torch.load(io.BytesIO(data)), value)
    for load in LOADERS:
        assert_same(load(target.uri("old.pt")), value)


@pytest.mark.parametrize("load", LOADERS)
def test_map_location(target: Any, load: Any) -> None:
    by_save({"a": torch.ones(3)}, target.uri("a.pt"))
    for place in ("cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, _: storage):
        assert_same(load(target.uri("a.pt"), map_location=place), {"a": torch.ones(3)})
    meta = load(target.uri("a.pt"), map_location="meta")["a"]
    assert (meta.device.type, meta.shape) == ("meta", (3,))


def test_mmap_for_local_files(tmp_path: Path, s3_own: Any) -> None:
    value = VALUES["large"]()
    for name in ("plain.pt", "with ü and %41.pt"):
        by_save(value, str(tmp_path / name))
        assert_same(s3dlio_torch.load(tmp_path / name, mmap=True), value)
        assert_same(s3dlio_torch.load((tmp_path / name).as_uri(), mmap=True), value)
    with pytest.raises(ValueError, match="mmap") as caught:
        s3dlio_torch.load(s3_own.uri("x"), mmap=True)
    assert s3_own.uri("x") in str(caught.value)


def test_files_and_streams_are_taken_too(target: Any, tmp_path: Path) -> None:
    value = trained()
    with open(tmp_path / "a.pt", "wb") as file:
        s3dlio_torch.save(value, file)
    with open(tmp_path / "a.pt", "rb") as file:
        assert_same(s3dlio_torch.load(file), value)
    memory = io.BytesIO()
    s3dlio_torch.save(value, memory)
    memory.seek(0)
    assert_same(s3dlio_torch.load(memory), value)
    with s3dlio_np.open(target.uri("b.pt"), "wb") as stream:
        s3dlio_torch.save(value, stream)
        assert not target.exists("b.pt")  # its opener commits
    with s3dlio_np.open(target.uri("b.pt")) as stream:
        assert_same(s3dlio_torch.load(stream), value)


# --- code in files ------------------------------------------------------------------------------


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("load", LOADERS)
def test_code_is_refused_unless_asked_for(
    target: Any, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    trace = tmp_path / "ran"
    by_save({"a": torch.ones(2), "evil": Malicious(trace)}, target.uri("evil.pt"))
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        load(target.uri("evil.pt"))
    with pytest.raises(pickle.UnpicklingError):
        load(target.uri("evil.pt"), weights_only=True)
    assert not trace.exists()
    load(target.uri("evil.pt"), weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("load", LOADERS)
def test_torchs_own_switches_count(
    target: Any, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "ran"
    by_save(Malicious(trace), target.uri("evil.pt"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    load(target.uri("evil.pt"))
    assert trace.exists()
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    by_save(torch.nn.Linear(2, 2), target.uri("module.pt"))
    with pytest.raises(pickle.UnpicklingError):
        load(target.uri("module.pt"))
    allowed: list[Any] = [torch.nn.Linear, torch.nn.Parameter]
    with torch.serialization.safe_globals(allowed):
        assert isinstance(load(target.uri("module.pt")), torch.nn.Linear)


# --- files that are not whole -------------------------------------------------------------------


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("size", [0, 10, 1000, -1])
def test_a_cut_file_is_an_error(target: Any, load: Any, size: int) -> None:
    target.write("cut.pt", stock_file({"a": torch.ones(1000)}).getvalue()[:size])
    with pytest.raises((RuntimeError, EOFError, pickle.UnpicklingError, ValueError)):
        load(target.uri("cut.pt"))
