"""save_safetensors and load_safetensors, held against the safetensors package."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch as stock
import torch

import s3dlio_np
import s3dlio_torch
from s3dlio_torch import _ring
from tests.marks import near

PART = 5 * 1024 * 1024
DTYPES: list[torch.dtype] = sorted(filter(None, stock._SIZE), key=str)
Tensors = dict[str, torch.Tensor]


def bits(tensor: torch.Tensor) -> bytes:
    """The elements' bytes, NaNs and dtypes that cannot be compared included."""
    flat = tensor.detach().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def assert_same(one: Tensors, other: Tensors) -> None:
    assert set(one) == set(other)
    for name in one:
        a, b = one[name], other[name]
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert bits(a) == bits(b), name


def of_dtype(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    top = 2 if dtype == torch.bool else 256
    size = torch.empty(0, dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(1)
    count = size * torch.Size(shape).numel()
    raw = torch.randint(0, top, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).view(shape)


def all_dtypes() -> Tensors:
    return {str(dtype): of_dtype(dtype, 3, 4) for dtype in DTYPES}


def mixed() -> Tensors:
    base = torch.randn(100, 10)
    return {
        "z.weight": torch.randn(5, 7),
        "a.weight": torch.randn(3),
        "a.bias": torch.randn(2).to(torch.bfloat16),
        "ab": torch.arange(4),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "first rows": base[:10],
        "last rows": base[90:],
        "": torch.ones(1),
        'é"\n\x01\x7f\u2028/\\': torch.ones(1),
        "😀": torch.ones(1),
        "\t\b\f\r\0": torch.ones(1),
    }


def large() -> Tensors:
    """Several parts, and tensors on both sides of what is sent without a copy."""
    generator = torch.Generator().manual_seed(2)
    sizes = [1, 16_383, 16_384, 16_385, 3_000_000, 70_000]
    return {f"t{i}": torch.randn(size, generator=generator) for i, size in enumerate(sizes)}


# --- the same bytes -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [all_dtypes, mixed, large, dict])
@pytest.mark.parametrize("metadata", [None, {"k": "v\n\"é😀"}])
def test_bytes_are_those_of_the_package(
    target: Any, make: Callable[[], Tensors], metadata: dict[str, str] | None
) -> None:
    tensors = make()
    s3dlio_torch.save_safetensors(
        tensors, target.uri("m"), metadata, part_size=PART, max_concurrency=3
    )
    assert target.read("m") == stock.save(tensors, metadata)
    assert target.leftovers() == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 4), (0, 3), (1,), (2, 0), ()])
def test_each_dtype(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if dtype == torch.float4_e2m1fn_x2 and not shape:
        with pytest.raises(ValueError, match="half-byte"):
            s3dlio_torch.save_safetensors({"x": of_dtype(dtype)}, tmp_path / "m")
        return
    tensors = {"x": of_dtype(dtype, *shape)}
    s3dlio_torch.save_safetensors(tensors, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == stock.save(tensors)
    assert_same(s3dlio_torch.load_safetensors(tmp_path / "m"), tensors)
    assert_same(stock.load_file(tmp_path / "m"), tensors)


def test_the_order_of_the_dict_does_not_matter(tmp_path: Path) -> None:
    tensors = {**mixed(), **all_dtypes()}
    names = list(tensors)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        s3dlio_torch.save_safetensors({name: tensors[name] for name in names}, tmp_path / "m")
        assert (tmp_path / "m").read_bytes() == stock.save(tensors)


def test_several_metadata_entries_keep_their_order(tmp_path: Path) -> None:
    metadata = {"z": "1", "a": "2", "m": "ü"}
    s3dlio_torch.save_safetensors({"x": torch.ones(2)}, tmp_path / "m", metadata)
    data = (tmp_path / "m").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"].items()) == list(metadata.items())
    with safetensors.safe_open(tmp_path / "m", "pt") as file:
        assert file.metadata() == metadata
    # The package's own order changes from call to call, so only the rest is compared.
    assert len(data) == len(stock.save({"x": torch.ones(2)}, metadata))


def test_empty_metadata(tmp_path: Path) -> None:
    s3dlio_torch.save_safetensors({"x": torch.ones(2)}, tmp_path / "m", {})
    assert (tmp_path / "m").read_bytes() == stock.save({"x": torch.ones(2)}, {})
    s3dlio_torch.save_safetensors({}, tmp_path / "m", {})  # safetensors 0.8.0 writes broken JSON
    assert s3dlio_torch.load_safetensors(tmp_path / "m") == {}
    assert stock.load_file(tmp_path / "m") == {}


# --- both ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [all_dtypes, mixed, large])
def test_interchange(target: Any, tmp_path: Path, make: Callable[[], Tensors]) -> None:
    tensors = make()
    s3dlio_torch.save_safetensors(tensors, target.uri("ours"), {"a": "b"}, part_size=PART)
    (tmp_path / "copy").write_bytes(target.read("ours"))
    assert_same(stock.load_file(tmp_path / "copy"), tensors)
    target.write("theirs", stock.save(tensors, {"a": "b"}))
    loaded = s3dlio_torch.load_safetensors(
        target.uri("theirs"), part_size=1024**2, max_concurrency=3
    )
    assert_same(loaded, tensors)
    assert list(loaded) == list(stock.load_file(tmp_path / "copy"))


def test_each_tensor_has_a_storage_of_its_own(target: Any) -> None:
    target.write("m", stock.save(mixed()))
    loaded = s3dlio_torch.load_safetensors(target.uri("m"))
    full = [tensor for tensor in loaded.values() if tensor.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in full}) == len(full)
    for tensor in full:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(0)  # writable, and nobody else's
    assert_same(
        s3dlio_torch.load_safetensors(target.uri("m")), stock.load(target.read("m"))
    )


def test_an_unaligned_data_section(tmp_path: Path) -> None:
    """Other writers need not pad the header: then no tensor lies at a multiple of its size."""
    header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[1,17]},'
    header += b'"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    values = torch.tensor([1.5, -2.0], dtype=torch.float64)
    data = len(header).to_bytes(8, "little") + header + b"\7" + bits(values)
    (tmp_path / "m").write_bytes(data)
    loaded = s3dlio_torch.load_safetensors(tmp_path / "m")
    assert_same(loaded, {"a": values, "b": torch.tensor([7], dtype=torch.uint8)})


def test_many_small_tensors(s3_own: Any) -> None:
    tensors = {f"layer.{i}": torch.full((16,), float(i)) for i in range(5000)}
    s3dlio_torch.save_safetensors(tensors, s3_own.uri("m"))
    assert s3_own.get("m") == stock.save(tensors)
    assert_same(s3dlio_torch.load_safetensors(s3_own.uri("m")), tensors)
    some = [f"layer.{i}" for i in range(0, 5000, 2)]
    assert len(s3dlio_torch.load_safetensors(s3_own.uri("m"), keys=some)) == 2500


# --- parts --------------------------------------------------------------------------------------


def state() -> Tensors:
    return {
        f"{layer}.{kind}": torch.full((PART // 8,), float(i))
        for i, layer in enumerate(["encoder.0", "encoder.1", "encoder.10", "head"])
        for kind in ("weight", "bias")
    }


@near
@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ("head", ["head.bias", "head.weight"]),
        (["encoder.1"], ["encoder.1.bias", "encoder.1.weight"]),
        (
            ["encoder.10.bias", "head.weight"],
            ["encoder.10.bias", "head.weight"],
        ),
        (lambda name: name.startswith("encoder.1") and name.endswith("bias"),
         ["encoder.1.bias", "encoder.10.bias"]),
        ([], []),
        (lambda _: False, []),
    ],
)  # fmt: skip
def test_keys_fetch_only_what_they_name(target: Any, keys: Any, names: list[str]) -> None:
    tensors = state()
    target.write("m", stock.save(tensors))
    before = s3dlio_np.stats()["bytes_received"]
    loaded = s3dlio_torch.load_safetensors(target.uri("m"), keys=keys)
    received = s3dlio_np.stats()["bytes_received"] - before
    assert list(loaded) == names
    assert_same(loaded, {name: tensors[name] for name in names})
    wanted = sum(tensor.nbytes for tensor in loaded.values())
    assert wanted <= received <= wanted + 1024**2  # tail, header and what lies beside it


@pytest.mark.parametrize("keys", ["none", ["head", "none"], "encode", iter(["none"])])
def test_a_key_that_is_not_there(tmp_path: Path, keys: Any) -> None:
    s3dlio_torch.save_safetensors({"head.w": torch.ones(1), "encoder": torch.ones(1)},
                                  tmp_path / "m")
    with pytest.raises(KeyError, match="none|encode"):
        s3dlio_torch.load_safetensors(tmp_path / "m", keys=keys)


def test_meta_fetches_nothing(s3_own: Any) -> None:
    tensors = state()
    s3_own.put("m", stock.save(tensors))
    before = s3dlio_np.stats()["bytes_received"]
    loaded = s3dlio_torch.load_safetensors(s3_own.uri("m"), device="meta")
    assert s3dlio_np.stats()["bytes_received"] - before < 1024**2
    for name, tensor in tensors.items():
        assert loaded[name].is_meta
        assert (loaded[name].shape, loaded[name].dtype) == (tensor.shape, tensor.dtype)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_pinned_memory_needs_an_accelerator(tmp_path: Path) -> None:
    s3dlio_torch.save_safetensors({"x": torch.ones(2)}, tmp_path / "m")
    with pytest.raises(RuntimeError, match="(?i)accelerator|pin|cuda"):
        s3dlio_torch.load_safetensors(tmp_path / "m", pin_memory=True)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="NEEDS AN ACCELERATOR")
@pytest.mark.parametrize("pin_memory", [False, True])
def test_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pin_memory: bool) -> None:
    monkeypatch.setattr(_ring, "SLOT_BYTES", PART)
    device = torch.accelerator.current_accelerator()
    assert device is not None
    tensors = {name: tensor.to(device) for name, tensor in state().items()}
    s3dlio_torch.save_safetensors(tensors, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == stock.save(tensors)
    loaded = s3dlio_torch.load_safetensors(
        tmp_path / "m", device=device, pin_memory=pin_memory
    )
    assert all(tensor.device.type == device.type for tensor in loaded.values())
    assert_same({name: tensor.cpu() for name, tensor in loaded.items()}, state())


# --- what is refused ----------------------------------------------------------------------------

BASE = torch.zeros(10, 10)
OLD = b"the old content"


@pytest.mark.parametrize(
    ("tensors", "kind", "text"),
    [
        ([torch.ones(1)], ValueError, "dict"),
        ({"a": 1}, ValueError, "'a' must be a Tensor"),
        ({1: torch.ones(1)}, TypeError, "1 must be str"),
        ({"a": BASE.t()}, ValueError, r"'a' is not contiguous.*\.contiguous\(\)"),
        ({"a": BASE[:, ::2]}, ValueError, r"\.contiguous\(\)"),
        ({"a": BASE[0].expand(3, 10)}, ValueError, r"\.contiguous\(\)"),
        ({"a": BASE.to_sparse()}, ValueError, r"to_dense\(\)"),
        ({"a": BASE.to_sparse_csr()}, ValueError, r"to_dense\(\)"),
        ({"a": torch.ones(2, device="meta")}, ValueError, "'a' is on the meta device"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, ValueError, "complex128"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj()}, ValueError, "resolve_conj"),
        ({"a": torch.ones(2, dtype=torch.complex64).conj().imag}, ValueError, "resolve_neg"),
        ({"__metadata__": torch.ones(2)}, ValueError, "__metadata__"),
        ({"a": BASE, "b": BASE}, RuntimeError, r"share memory.*'a', 'b'"),
        ({"a": BASE, "b": BASE[3]}, RuntimeError, "share memory"),
        ({"a": BASE, "b": BASE.t()}, RuntimeError, "share memory"),
        ({"a": BASE[:5], "b": BASE[4:]}, RuntimeError, "share memory"),
        ({"a": BASE, "b": BASE[1:2], "c": BASE[3:4]}, RuntimeError, "'a', 'b', 'c'"),
        ({"\ud800": torch.ones(2)}, ValueError, "surrogates"),
    ],
)  # fmt: skip
def test_refused_before_anything_is_sent(
    tmp_path: Path, tensors: Any, kind: type[Exception], text: str
) -> None:
    (tmp_path / "m").write_bytes(OLD)
    with pytest.raises(kind, match=text):
        s3dlio_torch.save_safetensors(tensors, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == OLD


def test_wrong_metadata(tmp_path: Path) -> None:
    wrong: Any = {"a": 1}
    with pytest.raises(TypeError, match="'a', 1"):
        s3dlio_torch.save_safetensors({}, tmp_path / "m", wrong)
    assert list(tmp_path.iterdir()) == []


def test_what_the_package_refuses_is_refused(tmp_path: Path) -> None:
    """Memory that is shared, or not: the same verdict."""
    generator = random.Random(5)
    base = torch.zeros(64)
    for _ in range(300):
        tensors = {}
        for name in "abc"[: generator.randint(1, 3)]:
            first = generator.randint(0, 63)
            tensors[name] = base[first : generator.randint(first, 64)]
        verdicts = []
        for save in (
            lambda: stock.save(tensors),  # noqa: B023
            lambda: s3dlio_torch.save_safetensors(tensors, tmp_path / "m"),  # noqa: B023
        ):
            try:
                save()
                verdicts.append("saved")
            except RuntimeError:
                verdicts.append("refused")
        assert verdicts[0] == verdicts[1], tensors


def test_a_failed_upload_leaves_nothing(s3_own: Any) -> None:
    rule = s3_own.server.add_fault(
        op="UploadPart", skip=1, count=-1, kind="status", status=403, code="AccessDenied"
    )
    with pytest.raises(PermissionError):
        s3dlio_torch.save_safetensors(large(), s3_own.uri("m"), part_size=PART)
    assert rule.hits() >= 1
    assert (s3_own.objects(), s3_own.uploads()) == ({}, [])
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


# --- damaged files ------------------------------------------------------------------------------


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(name: str = "a", dtype: str = "F32", shape: str = "[1]", at: str = "[0,4]") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{at}}}'


DAMAGED = {
    "nothing": (b"", "too few"),
    "seven bytes": (b"1234567", "too few"),
    "not at all": (b"PK\3\4" + bytes(100), "not a whole"),
    "pickle": (b"\x80\2}q\0.zzzzzzzz", "header would have"),
    "huge header": ((100_000_001).to_bytes(8, "little") + b"{}", "100000001"),
    "2^64 header": (b"\xff" * 8 + b"{}", "header would have"),
    "header past the end": ((30).to_bytes(8, "little") + b"{}", "30 bytes"),
    "no header": (file_of(b""), "broken at byte 0"),
    "json": (file_of(b"{" + entry().encode() + b",}", b"1234"), "broken at byte"),
    "utf-8": (file_of(b'{"\xff":1}'), "UTF-8"),
    "cut": (file_of(f"{{{entry()}}}".encode(), b"123"), "cut or damaged"),
    "longer": (file_of(f"{{{entry()}}}".encode(), b"12345"), "cut or damaged"),
    "dtype": (file_of(f"{{{entry(dtype='I128')}}}".encode(), b"1234"), '"a".*I128'),
    "size": (file_of(f"{{{entry(shape='[2]')}}}".encode(), b"1234"), '"a".*another size'),
    "overflow": (
        file_of(f"{{{entry(shape='[4294967296,4294967296]')}}}".encode(), b"1234"),
        '"a".*no size',
    ),
    "hole": (file_of(f"{{{entry(at='[1,5]')}}}".encode(), b"12345"), '"a".*hole'),
    "overlap": (
        file_of(f"{{{entry()},{entry('b', at='[2,6]')}}}".encode(), b"123456"),
        '"b".*overlap',
    ),
    "twice": (file_of(f"{{{entry()},{entry(at='[4,8]')}}}".encode(), b"12345678"), '"a" twice'),
    "f6": (
        file_of(f"{{{entry(dtype='F6_E2M3', shape='[4]', at='[0,3]')}}}".encode(), b"123"),
        "'a' has dtype F6_E2M3",
    ),
    "odd f4": (
        file_of(f"{{{entry(dtype='F4', shape='[8,1]')}}}".encode(), b"1234"),
        "'a'.*even last dimension",
    ),
    "shape": (
        file_of(f"{{{entry(shape='[0,9223372036854775807,2]', at='[0,0]')}}}".encode()),
        "'a'.*too large for torch",
    ),
    "rank": (
        file_of(f"{{{entry(shape='[' + '1,' * 5000 + '1]')}}}".encode(), b"1234"),
        "'a'.*too large for torch",
    ),
}


@near
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(target: Any, name: str) -> None:
    data, text = DAMAGED[name]
    target.write("m", data)
    with pytest.raises(ValueError, match=text) as caught:
        s3dlio_torch.load_safetensors(target.uri("m"))
    assert "m" in str(caught.value)
    assert target.uri("m").split("://")[1].split("/")[-2] in str(caught.value)  # the URI


def test_every_cut_of_a_file(tmp_path: Path) -> None:
    data = stock.save({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int8)}, {"k": "v"})
    for length in range(len(data)):
        (tmp_path / "m").write_bytes(data[:length])
        with pytest.raises(ValueError):
            s3dlio_torch.load_safetensors(tmp_path / "m")


def verdict(load: Callable[[], Tensors]) -> Tensors | str:
    try:
        return load()
    except (ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        return f"{type(error).__name__}: {error}"


def mutations(header: bytes, count: int) -> list[bytes]:
    """Headers one or two edits away; most are broken, some are not."""
    generator = random.Random(11)
    pieces = [b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"0", b"1", b"4", b"8", b"-", b".",
              b"\\", b"\\u00e9", b"\xc3", b"\xc3\xa9", b"F64", b"null", b"\n", b"\0"]  # fmt: skip
    found = []
    for _ in range(count):
        text = bytearray(header)
        for _ in range(generator.choice([1, 1, 1, 2])):
            at = generator.randrange(len(text))
            kind = generator.randrange(4)
            if kind == 0:
                text[at : at + 1] = generator.choice(pieces)
            elif kind == 1:
                text[at:at] = generator.choice(pieces)
            elif kind == 2:
                del text[at]
            else:
                text[at] ^= 1 << generator.randrange(8)
        found.append(bytes(text))
    return found


def test_the_verdict_is_the_packages_on_mutated_headers(tmp_path: Path) -> None:
    """What is refused there is refused here. What is accepted here has the same value there."""
    header = (
        '{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},'
        '"é":{"dtype":"BF16","shape":[4],"data_offsets":[8,16]}}'
    ).encode()
    data = bytes(range(16))
    accepted = stricter = 0
    for mutated in [header, *mutations(header, 1500)]:
        whole = file_of(mutated, data)
        (tmp_path / "m").write_bytes(whole)
        ours = verdict(lambda: s3dlio_torch.load_safetensors(tmp_path / "m"))
        theirs = verdict(lambda: stock.load(whole))  # noqa: B023
        if isinstance(ours, str):
            assert ours.startswith("ValueError"), ours
            if not isinstance(theirs, str):
                stricter += 1
                # Members and metadata that the format does not have, as safetensors.h says.
                assert "nothing else" in ours or "twice" in ours or "broken at" in ours, (
                    mutated,
                    ours,
                )
            continue
        accepted += 1
        assert not isinstance(theirs, str), (mutated, theirs)
        assert_same(ours, theirs)
    assert accepted > 30
    assert stricter < 20


# --- errors of the store ------------------------------------------------------------------------


def test_missing(target: Any) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        s3dlio_torch.load_safetensors(target.uri("none"))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"kind": "status", "status": 403, "code": "AccessDenied"}, "DENIED"),
        ({"kind": "etag_change"}, "CHANGED"),
    ],
)
def test_a_load_that_fails_says_why(s3_own: Any, fault: dict[str, Any], code: str) -> None:
    s3_own.put("m", stock.save(large()))
    rule = s3_own.server.add_fault(op="GetObject", skip=2, count=-1, **fault)
    with pytest.raises(s3dlio_np.StorageError) as caught:
        s3dlio_torch.load_safetensors(s3_own.uri("m"), part_size=1024**2)
    assert rule.hits() >= 1
    assert (caught.value.code, caught.value.uri) == (code, s3_own.uri("m"))
    assert s3dlio_np.stats()["memory_held_bytes"] == 0


def test_arguments(tmp_path: Path) -> None:
    s3dlio_torch.save_safetensors({"x": torch.ones(2)}, tmp_path / "m")
    with pytest.raises(ValueError, match="max_concurrency|1 to 1024"):
        s3dlio_torch.load_safetensors(tmp_path / "m", max_concurrency=0)
    with pytest.raises(RuntimeError, match="device"):
        s3dlio_torch.load_safetensors(tmp_path / "m", device="nonsense")
    wrong: Any = 3
    with pytest.raises(TypeError):
        s3dlio_torch.load_safetensors(wrong)
    with pytest.raises(TypeError):
        s3dlio_torch.save_safetensors({}, wrong)
