"""The unpickler in C on damaged and made-up pickles: nothing that torch would not have made of them."""

from __future__ import annotations

import collections
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch

import s3dlio_torch
from tests.torch.plain import BASE, Taken, change, check_same, outcome


def pickle_of(file: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


class Hostile:
    """Loads the same archive with other pickles, with and without the unpickler in C."""

    def __init__(self, file: str, taken: Taken) -> None:
        self._file, self._taken = file, taken
        self._whole = Path(file).read_bytes()
        self._pickle = pickle_of(file)
        self.plain = self.refused = 0

    def check(self, pickled: bytes) -> None:
        Path(self._file).write_bytes(self._whole)
        change(self._file, {"data.pkl": pickled})
        self._taken.clear()
        mine, my_error = outcome(s3dlio_torch.load, self._file)
        plain = True in self._taken
        self._taken.on = False
        by_torch, error = outcome(s3dlio_torch.load, self._file)
        self._taken.on = True
        assert type(my_error) is type(error)
        assert str(my_error) == str(error)
        if plain:  # of what is not, both are the same code's
            check_same(mine, by_torch)
            theirs, their_error = outcome(torch.load, self._file)
            assert their_error is None
            check_same(mine, theirs)
        self.plain += plain
        self.refused += error is not None


@pytest.fixture
def hostile(file: str, taken: Taken) -> Hostile:
    value = {
        "t": torch.arange(6.0).reshape(2, 3)[:, 1:],
        "m": collections.OrderedDict(p=torch.nn.Parameter(torch.ones(2))),
        "s": [1, (2.5, "x", None, torch.Size([1])), {3, 70_000}],
        "b": b"ab",
    }
    value["m"]._metadata = {"v": 1}  # type: ignore[union-attr]
    torch.save(value, file)
    return Hostile(file, taken)


def test_a_pickle_that_ends_early(hostile: Hostile) -> None:
    whole = hostile._pickle
    for length in range(len(whole)):
        hostile.check(whole[:length])
    assert hostile.plain == 0
    assert hostile.refused == len(whole)
    hostile.check(whole)
    assert hostile.plain == 1


@pytest.mark.parametrize("bits", [0x01, 0x02, 0x04, 0x20, 0x80, 0xFF])
def test_every_byte_flipped(hostile: Hostile, bits: int) -> None:
    whole = bytearray(hostile._pickle)
    for i in range(len(whole)):
        whole[i] ^= bits
        hostile.check(bytes(whole))
        whole[i] ^= bits
    assert hostile.refused > len(whole) // 3
    assert hostile.plain + hostile.refused > 0


def test_opcodes_put_in_and_left_out(hostile: Hostile) -> None:
    whole, dice = hostile._pickle, random.Random(5)
    for _ in range(400):
        at, opcode = dice.randrange(2, len(whole)), dice.choice(b"()].NQR]abcehtsu}\x85\x86\x87\x88")
        hostile.check(whole[:at] + bytes([opcode]) + whole[at:])
        at, length = dice.randrange(2, len(whole)), dice.randrange(1, 9)
        hostile.check(whole[:at] + whole[at + length :])
    assert hostile.refused > 400


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def storage(key: str = "0", count: bytes = b"K\x06", kind: str = "FloatStorage", place: str = "cpu") -> bytes:
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(place) + count + b"tQ"


HOOKS = b"ccollections\nOrderedDict\n)R"


def tensor(
    over: bytes = b"",
    offset: bytes = b"K\0",
    sizes: bytes = b"K\x06\x85",
    strides: bytes = b"K\x01\x85",
    rest: bytes = b"\x89" + HOOKS,
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    arguments = (over or storage()) + offset + sizes + strides + rest
    return f"ctorch._utils\n{function}\n(".encode() + arguments + b"tR"


UNTYPED = storage(count=b"K\x18").replace(b"ctorch\nFloat", b"ctorch.storage\nUntyped")
BIG = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1
NEGATIVE = b"J\xff\xff\xff\xff"

# By hand; True: it is plain.
BY_HAND: dict[str, tuple[bytes, bool]] = {
    "sound": (tensor(), True),
    "a view": (tensor(offset=b"K\x01", sizes=b"K\x02K\x02\x86", strides=b"K\x03K\x01\x86"), True),
    "up to the end": (tensor(offset=b"K\x05", sizes=b"K\x01\x85"), True),
    "beyond the end": (tensor(offset=b"K\x06", sizes=b"K\x01\x85"), False),
    "one too many": (tensor(offset=b"K\x01"), False),
    "a stride too many": (tensor(strides=b"K\x02\x85"), False),
    "no strides": (tensor(strides=b")"), False),
    "a negative offset": (tensor(offset=NEGATIVE, sizes=b"K\x01\x85"), False),
    "a negative size": (tensor(sizes=NEGATIVE + b"\x85"), False),
    "a negative stride": (tensor(strides=NEGATIVE + b"\x85"), False),
    "a huge size": (tensor(sizes=BIG + b"\x85"), False),
    "a huge stride": (tensor(strides=BIG + b"\x85"), False),
    "a huge offset": (tensor(offset=BIG), False),
    "a huge product": (tensor(sizes=BIG + BIG + b"\x86", strides=b"K\0K\0\x86"), False),
    "a huge product of nothing": (tensor(sizes=b"K\0" + BIG + BIG + b"\x87", strides=b"K\x01K\x01K\x01\x87"), False),
    "a huge expansion": (tensor(sizes=b"K\x02" + BIG + b"\x86", strides=b"K\0K\0\x86"), False),
    "an expansion": (tensor(sizes=b"K\x02M\xe8\x03\x86", strides=b"K\x01K\0\x86"), True),
    "nothing of it": (tensor(sizes=b"K\0\x85"), True),
    "nothing, far away": (tensor(offset=b"K\x63", sizes=b"K\0\x85"), True),
    "nothing, too far away": (tensor(offset=BIG, sizes=b"K\0\x85"), False),
    "another count": (tensor(storage(count=b"K\x05")), False),
    "a huge count": (tensor(storage(count=BIG)), False),
    "a negative count": (tensor(storage(count=NEGATIVE)), False),
    "a boolean count": (tensor(storage(count=b"\x88")), False),
    "no such record": (tensor(storage("7")), False),
    "a key of zeros": (tensor(storage("00")), False),
    "a key like a path": (tensor(storage("../data/0")), False),
    "a long key": (tensor(storage("9" * 20)), False),
    "an empty key": (tensor(storage("")), False),
    "of bytes": (tensor(storage(count=b"K\x18", kind="ByteStorage"), sizes=b"K\x18\x85"), True),
    "of another type": (tensor(storage(kind="QInt8Storage")), False),
    "of no type": (tensor(storage(kind="Size")), False),
    "from a GPU": (tensor(storage(place="cuda:0")), False),
    "two dtypes": (b"(" + tensor() + tensor(storage(kind="IntStorage")) + b"t", False),
    "two storages in one": (b"(" + tensor() + tensor() + b"t", True),
    "untyped, with a dtype": (
        tensor(
            UNTYPED,
            sizes=b"K\x0c\x85",
            rest=b"\x89" + HOOKS + b"ctorch\nuint16\n",
            function="_rebuild_tensor_v3",
        ),
        True,
    ),
    "untyped, under two dtypes": (
        b"".join(
            tensor(
                UNTYPED + b"q\x01" if name == "uint16" else b"h\x01",
                sizes=b"K\x01\x85",
                rest=b"\x89" + HOOKS + f"ctorch\n{name}\n".encode(),
                function="_rebuild_tensor_v3",
            )
            for name in ("uint16", "uint32")
        )
        + b"\x86",
        False,
    ),
    "a gradient": (tensor(rest=b"\x88" + HOOKS), True),
    "a gradient of integers": (tensor(storage(kind="IntStorage"), rest=b"\x88" + HOOKS), False),
    "a number for a gradient": (tensor(rest=b"K\x01" + HOOKS), False),
    "hooks": (tensor(rest=b"\x89" + HOOKS + b"K\x01K\x02s"), False),
    "no hooks": (tensor(rest=b"\x89N"), False),
    "hooks for two": (b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") * 2 + b"t", False),
    "hooks as a value": (b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") + b"t", False),
    "hooks filled later": (
        b"(" + HOOKS + b"q\x01" + tensor(rest=b"\x89h\x01") + b"h\x01K\x01K\x02st",
        False,
    ),
    "metadata": (tensor(rest=b"\x89" + HOOKS + b"}"), False),
    "no arguments": (b"ctorch._utils\n_rebuild_tensor_v2\n)R", False),
    "an old tensor": (tensor(rest=b"", function="_rebuild_tensor"), False),
    "a parameter of a list": (b"ctorch._utils\n_rebuild_parameter\n]\x89" + HOOKS + b"\x87R", False),
    "a parameter of a parameter": (
        b"ctorch._utils\n_rebuild_parameter\n" * 2 + tensor() + (b"\x89" + HOOKS + b"\x87R") * 2,
        False,
    ),
    "eval": (b"cbuiltins\neval\n" + text("1") + b"\x85R", False),
    "os.system": (b"cos\nsystem\n" + text("false") + b"\x85R", False),
    "a global in two lines": (b"ctorch\n_utils._rebuild_tensor_v2\n", False),
    "a call of text": (text("x") + b")R", False),
    "a call without a tuple": (b"ccollections\nOrderedDict\n]R", False),
    "a dict as a key": (b"}}K\x01s", False),
    "a list in a tuple as a key": (b"}]\x85K\x01s", False),
    "items for a list": (b"]K\x01K\x02s", False),
    "a key alone": (b"}(K\x01K\x02K\x03u", False),
    "append to a dict": (b"}K\x01a", False),
    "state for a dict": (b"}}b", False),
    "state that is no dict": (HOOKS + b"K\x01b", False),
    "state for an OrderedDict": (HOOKS + b"}" + text("a") + b"K\x01sb", True),
    "a set of lists": (b"c__builtin__\nset\n](]e\x85R", False),
    "a set of a list that grows": (b"(](K\x01eq\x01c__builtin__\nset\nh\x01\x85Rh\x01K\x05aK\x07t", True),
    "filled after it was put somewhere": (b"(}K\0]q\x01sh\x01K\x09at", True),
    "a memo that is not there": (b"h\x07", False),
    "a huge memo": (b"]r\xff\xff\xff\x7f", False),
    "a memo put twice": (b"]q\x01}q\x01h\x01\x87", True),
    "a memo behind a mark": (b"K\x01(q\x01t", False),
    "pops behind a mark": (b"K\x01K\x02(\x86", False),
    "two values": (b"K\x01K\x02", False),
    "an open mark": (b"(K\x01", False),
    "no mark": (b"K\x01t", False),
    "a persistent id of text": (text("storage") + b"Q", False),
    "a persistent id of another kind": (storage().replace(b"storage", b"module_"), False),
    "a storage": (storage(), False),
    "a class": (b"ctorch\nFloatStorage\n", False),
    "a text that is not UTF-8": (b"X\x02\0\0\0\xc3\x28", False),
    "a text longer than the rest": (b"X\xff\xff\xff\x7fab", False),
    "surrogates": (b"X\x03\0\0\0\xed\xa0\x80", False),
    "bytes beyond Latin-1": (b"c_codecs\nencode\n" + text("€") + text("latin1") + b"\x86R", False),
    "bytes by another code": (b"c_codecs\nencode\n" + text("a") + text("utf8") + b"\x86R", False),
    "a size that is negative": (b"ctorch\nSize\n" + NEGATIVE + b"\x85\x85R", False),
    "a device": (b"ctorch\ndevice\n" + text("cpu") + b"\x85R", True),
    "a device of another kind": (b"ctorch\ndevice\n" + text("nothing") + b"\x85R", False),
    "tuples a little deep": (b")" + b"\x85" * 50, True),
    "tuples very deep": (b")" + b"\x85" * 300, False),
    "lists a little deep": (b"]" * 200 + b"a" * 199, True),
    "a second protocol": (b"\x80\x02K\x01", False),
    "an opcode of protocol 4": (b"K\x01\x94", False),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_pickle_by_hand(file: str, taken: Taken, name: str) -> None:
    pickled, plain = BY_HAND[name]
    torch.save([torch.arange(6.0)], file)
    hostile = Hostile(file, taken)
    hostile.check(b"\x80\x02" + pickled + b".")
    assert hostile.plain == plain


def test_what_stands_after_the_stop_is_torchs_to_judge(hostile: Hostile) -> None:
    hostile.check(hostile._pickle + b"x")
    assert hostile.plain == hostile.refused == 0


@pytest.mark.parametrize("text", [b"", b"x", b"-1", b"0", b"1" * 30, b"64\n"])
def test_nonsense_as_the_alignment(file: str, taken: Taken, text: bytes) -> None:
    torch.save([BASE], file)
    change(file, {".storage_alignment": text})
    mine, my_error = outcome(s3dlio_torch.load, file)
    theirs, their_error = outcome(torch.load, file)
    assert type(my_error) is type(their_error)
    assert taken == [text == b"0"]
    check_same(mine, theirs)
