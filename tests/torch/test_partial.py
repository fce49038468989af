"""keys= loads a part of a checkpoint and fetches no more; inspect() fetches and runs nothing."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import s3dlio_np
import s3dlio_torch
from tests.marks import near
from tests.torch.test_interop import VALUES, Malicious, Tied
from tests.torch.test_native_load import packed_anew
from tests.torch.test_native_save import filled, stock, sums

MIB = 1 << 20
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of sparse layouts
OVERHEAD = 512 * 1024  # the directory with the end of the file, pickle, small records


def value() -> dict[str, Any]:
    base = filled(4 * MIB, 1)
    return {
        "model": {
            "layer1": {"weight": base, "bias": torch.ones(3)},
            "layer1.extra": filled(2 * MIB, 2),
            "layer10": {"weight": filled(3 * MIB, 3)},
            "view": base[100:200],
        },
        "optimizer": {
            "state": {0: {"exp": filled(5 * MIB, 4)}, 1: {"exp": filled(MIB, 5)}},
            "groups": [{"lr": 0.1, "params": [0, 1]}, filled(6 * MIB, 6)],
        },
        "epoch": 3,
        "rng": filled(5000, 7),
    }


@pytest.fixture
def uri(target: Any) -> str:
    target.write("m.pt", stock(value()))
    name: str = target.uri("m.pt")
    return name


def received() -> int:
    return s3dlio_np.stats()["bytes_received"]


def flat(prefix: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return {prefix: item}
    parts = [flat(f"{prefix}.{key}" if prefix else str(key), i) for key, i in item.items()]
    return {name: leaf for part in parts for name, leaf in part.items()}


# --- which entries, and what they cost ----------------------------------------------------------

SELECTIONS: dict[str, tuple[Any, set[str], int]] = {
    "one name": ("model.layer10.weight", {"model.layer10.weight"}, 3 * MIB),
    "one prefix": (
        "model.layer1",  # and neither layer10 nor anything else that begins so
        {"model.layer1.weight", "model.layer1.bias", "model.layer1.extra"},
        6 * MIB,
    ),
    "a prefix with its dot": (
        ["optimizer.state."],
        {"optimizer.state.0.exp", "optimizer.state.1.exp"},
        6 * MIB,
    ),
    "names": (["epoch", "rng"], {"epoch", "rng"}, 5000),
    "a tuple": (("rng",), {"rng"}, 5000),
    "a set": (frozenset({"rng"}), {"rng"}, 5000),
    "a predicate": (lambda name: name.endswith("exp"), {"optimizer.state.0.exp", "optimizer.state.1.exp"}, 6 * MIB),
    "a list is a leaf": ("optimizer.groups", {"optimizer.groups"}, 6 * MIB),
    "a view brings its whole storage": ("model.view", {"model.view"}, 4 * MIB),
    "a view and its base": (["model.view", "model.layer1.weight"], {"model.view", "model.layer1.weight"}, 4 * MIB),
    "a number": ("epoch", {"epoch"}, 0),
    "none, by a predicate": (lambda name: False, set(), 0),
}  # fmt: skip


@near
@pytest.mark.parametrize("name", SELECTIONS)
def test_only_what_was_asked_for(uri: str, name: str) -> None:
    keys, names, nbytes = SELECTIONS[name]
    before = received()
    loaded = s3dlio_torch.load(uri, keys=keys)
    assert nbytes <= received() - before <= nbytes + 2 * OVERHEAD
    assert set(flat("", loaded)) == names
    everything = flat("", value())
    for key, leaf in flat("", loaded).items():
        if isinstance(leaf, torch.Tensor):
            assert leaf.device.type == "cpu"
            assert torch.equal(leaf, everything[key])
        elif isinstance(leaf, list):
            assert leaf[0] == everything[key][0]
            assert torch.equal(leaf[1], everything[key][1])
        else:
            assert leaf == everything[key]


@near
def test_an_iterator_of_keys_is_read_once(uri: str) -> None:
    loaded = s3dlio_torch.load(uri, keys=iter(["rng", "epoch"]))
    assert set(loaded) == {"rng", "epoch"}
    with pytest.raises(KeyError, match="no entry 'none'"):
        s3dlio_torch.load(uri, keys=iter(["rng", "none"]))


@near
def test_aliases_stay_aliases(uri: str) -> None:
    model = s3dlio_torch.load(uri, keys=["model.view", "model.layer1"])["model"]
    base, view = model["layer1"]["weight"], model["view"]
    assert base.untyped_storage().data_ptr() == view.untyped_storage().data_ptr()
    base[100] = 99
    assert view[0] == 99


@near
@pytest.mark.parametrize(
    "keys", ["mod", "model.layer", ["rng", "none"], "", "model.layer1.w", ".", "model.."]
)
def test_unknown_names(uri: str, keys: Any) -> None:
    before = received()
    with pytest.raises(KeyError, match="no entry"):
        s3dlio_torch.load(uri, keys=keys)
    assert received() - before < 2 * OVERHEAD


@near
def test_a_predicate_sees_every_name_and_may_fail(uri: str) -> None:
    seen: list[str] = []
    s3dlio_torch.load(uri, keys=lambda name: bool(seen.append(name)))
    assert sorted(seen) == sorted(flat("", value()))
    with pytest.raises(ZeroDivisionError):
        s3dlio_torch.load(uri, keys=lambda name: bool(1 / 0))


@near
@pytest.mark.parametrize("keys", [3, [3], None])
def test_keys_of_other_types(uri: str, keys: Any) -> None:
    if keys is None:
        assert set(s3dlio_torch.load(uri, keys=None)) == set(value())
        return
    with pytest.raises((TypeError, AttributeError, KeyError)):
        s3dlio_torch.load(uri, keys=keys)


@near
@pytest.mark.parametrize(
    "place", ["cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda s, _: s]
)
def test_places(uri: str, place: Any) -> None:
    before = received()
    loaded = s3dlio_torch.load(uri, place, keys="rng")
    assert torch.equal(loaded["rng"], value()["rng"])
    assert received() - before < 2 * OVERHEAD


@near
def test_meta_and_fake_tensors(uri: str) -> None:
    before = received()
    assert s3dlio_torch.load(uri, "meta", keys="model.layer1")["model"]["layer1"][
        "bias"
    ].is_meta
    with FakeTensorMode():
        loaded = s3dlio_torch.load(uri, keys="model.layer10")
    assert loaded["model"]["layer10"]["weight"].shape == (3 * MIB,)
    assert received() - before < 4 * OVERHEAD


def test_the_place_is_asked_for_what_is_wanted_only(s3_own: Any) -> None:
    s3_own.put("m.pt", stock(value()))
    seen: list[int] = []

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        seen.append(storage.nbytes())
        return storage

    s3dlio_torch.load(s3_own.uri("m.pt"), place, keys=["rng", "model.layer10"])
    assert sorted(seen) == [5000, 3 * MIB]


# --- kinds of leaves ----------------------------------------------------------------------------


@near
def test_sparse_tensors(target: Any) -> None:
    parts = {
        "coo": torch.eye(30).to_sparse(),
        "csr": torch.eye(30).to_sparse_csr(),
        "csc": torch.eye(30).to_sparse_csc(),
        "bsr": torch.eye(30).to_sparse_bsr((2, 2)),
        "bsc": torch.eye(30).to_sparse_bsc((2, 2)),
        "big": filled(4 * MIB),
    }
    target.write("m.pt", stock(parts))
    before = received()
    for name in list(parts)[:-1]:
        loaded = s3dlio_torch.load(target.uri("m.pt"), keys=name)
        assert list(loaded) == [name]
        assert loaded[name].layout == parts[name].layout
        assert torch.equal(loaded[name].to_dense(), parts[name].to_dense())
    names = set(s3dlio_torch.inspect(target.uri("m.pt")))
    assert received() - before < 12 * OVERHEAD
    assert {"coo.indices", "coo.values", "csr.crow_indices", "bsc.ccol_indices", "big"} < names
    assert len(names) == 2 + 4 * 3 + 1


@near
def test_objects_bring_their_tensors(target: Any) -> None:
    """A module is a leaf: what is in it is found, however deep."""
    module = Tied()
    module.embed.weight.note = torch.full((5,), 3.0)  # type: ignore[attr-defined]
    target.write("m.pt", stock({"module": module, "big": filled(8 * MIB)}))
    before = received()
    loaded = s3dlio_torch.load(target.uri("m.pt"), keys="module", weights_only=False)
    assert received() - before < 3 * OVERHEAD
    assert list(loaded) == ["module"]
    ours = loaded["module"]
    assert all(tensor.device.type == "cpu" for tensor in ours.state_dict().values())
    assert all(
        torch.equal(tensor, module.state_dict()[name])
        for name, tensor in ours.state_dict().items()
    )
    assert ours.out.weight is ours.embed.weight


@near
def test_tensors_made_of_tensors(target: Any) -> None:
    two = TwoTensor(filled(2 * MIB, 1), filled(2 * MIB, 2))
    target.write("m.pt", stock({"two": two, "other": filled(8 * MIB)}))
    before = received()
    loaded = s3dlio_torch.load(target.uri("m.pt"), keys="two", weights_only=False)["two"]
    assert 4 * MIB <= received() - before < 4 * MIB + 2 * OVERHEAD
    assert torch.equal(loaded.a, two.a) and torch.equal(loaded.b, two.b)


@near
@pytest.mark.parametrize(
    "name", ["views", "training", "parameter", "empty", "0-d", "conjugated"]
)
def test_everything_by_a_predicate(target: Any, name: str) -> None:
    target.write("m.pt", stock({"x": VALUES[name]()}))
    loaded = s3dlio_torch.load(target.uri("m.pt"), keys=lambda name: True)
    theirs = torch.load(io.BytesIO(target.read("m.pt")))
    ours_flat, theirs_flat = flat("", loaded), flat("", theirs)
    assert list(ours_flat) == list(theirs_flat)
    for key, leaf in theirs_flat.items():
        assert stock(ours_flat[key]) == stock(leaf)


@near
def test_a_checkpoint_that_is_one_tensor(target: Any) -> None:
    target.write("m.pt", stock(torch.ones(3)))
    assert list(s3dlio_torch.inspect(target.uri("m.pt"))) == [""]
    assert torch.equal(s3dlio_torch.load(target.uri("m.pt"), keys=""), torch.ones(3))
    with pytest.raises(KeyError):
        s3dlio_torch.load(target.uri("m.pt"), keys="x")


QUANTIZED = ("per_tensor", "view", "wide", "per_channel", "packed", "empty")


def quantized() -> dict[str, torch.Tensor]:
    numbers, scales = torch.arange(24.0).reshape(4, 6), torch.tensor([0.1, 0.2, 0.3, 0.4])
    zeros = torch.tensor([1, 2, 3, 4])
    per_tensor = torch.quantize_per_tensor(numbers, 0.5, 3, torch.quint8)
    return {
        "per_tensor": per_tensor,
        "view": per_tensor[1:, 2:4],
        "wide": torch.quantize_per_tensor(numbers, 0.5, 0, torch.qint32),
        "per_channel": torch.quantize_per_channel(numbers, scales, zeros, 0, torch.qint8),
        "packed": torch.quantize_per_channel(numbers, scales, zeros.float(), 0, torch.quint4x2),
        "empty": torch.quantize_per_tensor(torch.empty(0, 3), 0.5, 3, torch.qint8),
    }


def same_quantized(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return stock(ours) == stock(theirs) and ours.qscheme() == theirs.qscheme()


@near
@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("weights_only", [True, False])
def test_quantized_tensors(target: Any, name: str, weights_only: bool) -> None:
    target.write("m.pt", stock({"big": filled(4 * MIB), "q": quantized(), "one": torch.ones(1)}))
    before = received()
    loaded = s3dlio_torch.load(
        target.uri("m.pt"), keys=f"q.{name}", weights_only=weights_only
    )
    assert received() - before < 2 * OVERHEAD
    assert list(loaded["q"]) == [name]
    assert same_quantized(loaded["q"][name], quantized()[name])
    # Beside what is quantized and not wanted, or deep in a leaf, and all that there is.
    assert torch.equal(s3dlio_torch.load(target.uri("m.pt"), keys="one")["one"], torch.ones(1))
    whole = s3dlio_torch.load(target.uri("m.pt"), keys=lambda _: True)["q"]
    assert tuple(whole) == QUANTIZED
    assert all(same_quantized(whole[n], tensor) for n, tensor in quantized().items())
    target.write("deep.pt", stock({"list": [quantized(), 3], "big": filled(4 * MIB)}))
    deep = s3dlio_torch.load(target.uri("deep.pt"), keys="list")["list"][0]
    assert same_quantized(deep[name], quantized()[name])


@near
def test_what_inspect_says_of_quantized_tensors(target: Any) -> None:
    data = stock({"q": quantized()})
    target.write("m.pt", data)
    infos = s3dlio_torch.inspect(target.uri("m.pt"))
    parts = {f"q.{n}.{p}" for n in ("per_channel", "packed") for p in ("scales", "zero_points")}
    assert set(infos) == {f"q.{n}" for n in quantized()} | parts
    for name, tensor in quantized().items():
        info = infos[f"q.{name}"]
        assert (info.dtype, info.shape) == (tensor.dtype, tuple(tensor.shape))
        assert info.stride == tensor.stride()
        assert info.nbytes == (12 if name == "packed" else tensor.nbytes)
    for name in ("per_tensor", "per_channel"):
        elements = quantized()[name].int_repr().numpy().tobytes()
        info = infos[f"q.{name}"]
        assert data[info.offset : info.offset + info.nbytes] == elements
    assert infos["q.view"].record == infos["q.per_tensor"].record
    assert infos["q.view"].offset == infos["q.per_tensor"].offset + 6 + 2
    assert infos["q.per_channel.scales"].dtype == torch.float64
    assert infos["q.per_channel.scales"].shape == (4,)


@near
def test_quantized_tensors_where_torch_has_none(target: Any) -> None:
    target.write("m.pt", stock({"a": [{"q": quantized()["per_channel"]}], "one": torch.ones(1)}))
    uri = target.uri("m.pt")

    def to_meta(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        return torch.UntypedStorage(storage.nbytes(), device="meta")

    for place in ("meta", torch.device("meta"), to_meta):
        assert s3dlio_torch.load(uri, place, keys="one")["one"].is_meta
        with pytest.raises(NotImplementedError, match="entry 'a' holds a quantized tensor"):
            s3dlio_torch.load(uri, place, keys="a")
    with FakeTensorMode():
        assert s3dlio_torch.load(uri, keys="one")["one"].shape == (1,)
        with pytest.raises(NotImplementedError, match="entry 'a' holds a quantized tensor"):
            s3dlio_torch.load(uri, keys="a")


@near
def test_ten_thousand_keys(target: Any) -> None:
    """Every name is looked up, not compared with every key; an unknown key still is found."""
    names = [f"layer{i}.{part}" for i in range(5000) for part in ("a", "b")]
    checkpoint = {f"layer{i}": {"a": i, "b": torch.ones(1)} for i in range(5000)}
    target.write("m.pt", stock(checkpoint))
    loaded = s3dlio_torch.load(target.uri("m.pt"), keys=names)
    assert list(flat("", loaded)) == names
    with pytest.raises(KeyError, match=r"no entry 'layer77\.c'"):
        s3dlio_torch.load(target.uri("m.pt"), keys=[*names, "layer77.c"])
    looked_at: list[str] = []

    class Key(str):
        def __eq__(self, other: object) -> bool:
            looked_at.append(str(other))
            return str.__eq__(self, other)

        def startswith(self, *arguments: Any) -> bool:
            looked_at.append(self)
            return str.startswith(self, *arguments)

        __hash__ = str.__hash__

    assert list(flat("", s3dlio_torch.load(target.uri("m.pt"), keys=map(Key, names)))) == names
    assert 0 < len(looked_at) < 10 * len(names)  # comparing each with each: 100,000,000


# --- what is broken -----------------------------------------------------------------------------


@near
def test_damage_counts_where_it_is_wanted(target: Any) -> None:
    data = bytearray(stock(value()))
    target.write("m.pt", bytes(data))
    info = s3dlio_torch.inspect(target.uri("m.pt"))["model.layer10.weight"]
    data[info.offset + 5] ^= 1
    target.write("m.pt", bytes(data))
    assert list(s3dlio_torch.load(target.uri("m.pt"), keys="rng")) == ["rng"]
    with pytest.raises(s3dlio_np.IntegrityError, match=f"archive/{info.record} "):
        s3dlio_torch.load(target.uri("m.pt"), keys="model.layer10")
    assert s3dlio_torch.load(target.uri("m.pt"), keys="model.layer10", verify=False)


@near
def test_parts_of_what_is_no_stored_archive(target: Any) -> None:
    for data in (
        packed_anew(stock(value()), compression=zipfile.ZIP_DEFLATED),
        stock(value(), _use_new_zipfile_serialization=False),
    ):
        target.write("m.pt", data)
        for use in (s3dlio_torch.inspect, lambda uri: s3dlio_torch.load(uri, keys="rng")):
            with pytest.raises(ValueError, match="compressed|not a zip"):
                use(target.uri("m.pt"))


def test_replaced_between_the_two_passes(s3_own: Any) -> None:
    """The names are those of one version: storages of another must not come under them."""
    s3_own.put("m.pt", stock(value()))

    def selects(name: str) -> bool:
        s3_own.put("m.pt", stock(value() | {"rng": filled(5000, 8)}))
        return True

    with pytest.raises(s3dlio_np.ObjectChangedError):
        s3dlio_torch.load(s3_own.uri("m.pt"), keys=selects)


# --- inspect ------------------------------------------------------------------------------------


@near
@pytest.mark.parametrize("kind", ["torch's", "torch's without sums", "packed anew"])
def test_what_inspect_says(target: Any, kind: str) -> None:
    checkpoint = value() | {
        "half": torch.ones(3, 4, dtype=torch.bfloat16).t(),
        "0-d": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "ordered": OrderedDict(x=torch.nn.Parameter(torch.ones(2))),
    }
    with sums(kind != "torch's without sums"):
        data = stock(checkpoint)
    data = packed_anew(data) if kind == "packed anew" else data
    target.write("m.pt", data)
    before = received()
    infos = s3dlio_torch.inspect(target.uri("m.pt"))
    # The local headers of what others have packed must be looked at, each with its surroundings.
    assert received() - before < (len(data) // 4 if kind == "packed anew" else 2 * OVERHEAD)
    expected = {n: t for n, t in flat("", checkpoint).items() if isinstance(t, torch.Tensor)}
    expected["optimizer.groups.1"] = checkpoint["optimizer"]["groups"][1]
    assert set(infos) == set(expected)
    for name, tensor in expected.items():
        info = infos[name]
        assert (info.dtype, info.shape, info.stride) == (
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
        )
        assert info.nbytes == tensor.nbytes
        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        start = tensor.storage_offset() * tensor.element_size()
        there = data[info.offset : info.offset + tensor.nbytes]
        assert there == storage[start : start + tensor.nbytes].numpy().tobytes()
    assert infos["model.view"].record == infos["model.layer1.weight"].record
    assert infos["model.view"].offset == infos["model.layer1.weight"].offset + 100


def test_inspect_takes_few_requests_and_no_storage(s3_own: Any) -> None:
    s3_own.put("m.pt", stock({f"w{i}": torch.ones(1000) for i in range(1000)}))
    s3_own.server.reset()
    assert len(s3dlio_torch.inspect(s3_own.uri("m.pt"))) == 1000
    counters = s3_own.server.counters()
    assert counters["requests"]["GetObject"] <= 4
    assert counters["bytes_out"] < MIB < 1000 * 4000


class Raiser:
    def __reduce__(self) -> Any:
        return (eval, ("1 / 0",))


@near
def test_hostile_pickles_are_not_run(target: Any, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for hostile in (Malicious(trace), [torch.ones(2), {"deep": Malicious(trace)}], Raiser()):
        target.write("m.pt", stock(hostile))
        with pytest.raises(pickle.UnpicklingError, match="weights_only|Weights only"):
            s3dlio_torch.inspect(target.uri("m.pt"))
        with pytest.raises(pickle.UnpicklingError):
            s3dlio_torch.load(target.uri("m.pt"), keys=lambda name: True)
    assert not trace.exists()


@near
def test_hostile_structures(target: Any) -> None:
    """A dict that holds itself; numbers that no archive could hold."""
    endless: dict[str, Any] = {}
    endless["self"] = endless
    target.write("m.pt", stock(endless))
    with pytest.raises(RecursionError):
        s3dlio_torch.inspect(target.uri("m.pt"))
    with pytest.raises(RecursionError):
        s3dlio_torch.load(target.uri("m.pt"), keys=lambda name: True)
    old, new = zipfile.ZipFile(io.BytesIO(stock([torch.ones(70)]))), io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"KF") >= 2  # 70 elements: of the storage, and of the tensor
                data = data.replace(b"KF", b"\x8a\x07" + b"\xff" * 6 + b"\x7f")
            archive.writestr(name, data)
    target.write("m.pt", new.getvalue())
    for use in (s3dlio_torch.inspect, s3dlio_torch.load):
        with pytest.raises(RuntimeError, match="data/0 has 280 bytes"):
            use(target.uri("m.pt"))
