"""Keys of any bytes: what is written under one is read, listed and deleted under it, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

import s3dlio_np
from tests import child
from tests.servers.moto_server import MotoServer
from tests.servers.proxy_fake import ProxyFake
from tests.servers.relay import Relay

PART = 5 << 20

CONTROL = [f"<{chr(byte)}>" for byte in [*range(1, 32), 127]]
PRINTABLE = [f"a{chr(byte)}z" for byte in range(32, 127) if chr(byte) != "/"]
SPELLINGS = [  # of what a client, a proxy or a server may take for another
    *(
        "%",
        "%%",
        "%2F",
        "%2f",
        "%25",
        "%252F",
        "%C3%A9",
        "%zz",
        "+",
        " ",
        "  ",
        " a ",
        "a+b c%20d",
    ),
    *(
        "a?b",
        "a?versionId=1",
        "a#b",
        "a&b=c",
        "a;b",
        "a=b",
        "a,b",
        "&amp;",
        "&#65;",
        "<Key>",
        "]]>",
    ),
    *(
        "'",
        '"',
        "`",
        "\\",
        "\\n",
        "$HOME",
        "*",
        "?",
        "[a]",
        "{a}",
        "|",
        "~",
        "~root",
        "^",
        "!",
        "@",
        ":",
    ),
    *(
        "a\n",
        "\na",
        "\r\n",
        "\t",
        "a\r\nHost: x",
        "a HTTP/1.1",
        "\x1b[2J",
        "http://x/y",
        "s3://x/y",
    ),
    *(
        "file:///etc/passwd",
        "C:\\x",
        "CON",
        "-rf",
        "x-amz-meta-a",
        "?uploads",
        "?delete",
        "list-type=2",
    ),
]
TEXTS = [
    *(
        "é",
        "e\N{COMBINING ACUTE ACCENT}",
        "ÅÅ",
        "ß",
        "ſ",
        "💾",
        "👩\N{ZERO WIDTH JOINER}💻",
        "日本語",
    ),
    *(
        "\N{RIGHT-TO-LEFT OVERRIDE}gpj",
        "\N{ZERO WIDTH SPACE}",
        "\N{NO-BREAK SPACE}",
        "\N{LINE SEPARATOR}",
    ),
    *("\N{BYTE ORDER MARK}a", "\x80", "\x85", "\x9f", "\ufffd", "\U0010fffd", "Ａ", "ﬁ"),
]
PATHS = [
    *(
        "/",
        "//",
        "a/",
        "/a",
        "//a",
        "a//b",
        "a/b/",
        "a/./b",
        "./a",
        ".",
        "..",
        "...",
        "../a",
        "a/..",
        "a/../b",
    ),
    *("../../../etc/passwd", "a/.", "/..", "/../a", "%2e%2e/a", ".a", "a.", " /a", "a/ "),
]
LONG = ["x" * 1024, "/" * 1024, "é" * 512, "💾" * 256, "%" * 1024, "a/" * 512, " " * 1024]
NO_TEXT = ["\udcff", "a\udc80b", "\udcc0\udcaf", "\udced\udca0\udc80", "é\udcc3"]

GROUPS: dict[str, Iterable[str]] = {
    "control": CONTROL,
    "printable": PRINTABLE,
    "spellings": SPELLINGS,
    "texts": TEXTS,
    "paths": PATHS,
    "long": LONG,
}


def order(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: key.encode("utf-8", "surrogateescape"))


def round_trips(s3: Any, keys: list[str]) -> None:
    """All keys lie in the bucket at the same time, so that one taken for another shows."""
    body = {key: f"{number}".encode() for number, key in enumerate(keys)}
    for key in keys:
        s3dlio_np.put(s3.uri(key), body[key])
    listed = s3dlio_np.list(s3.uri(""))
    assert [row["uri"] for row in listed] == [s3.uri(key) for key in order(keys)]
    for row in listed:
        key = row["uri"].removeprefix(s3.uri(""))
        assert s3dlio_np.get_bytes(row["uri"]) == body[key], repr(key)
        assert s3dlio_np.stat(row["uri"])["size"] == len(body[key]), repr(key)
    for key in keys:
        below = [row["uri"] for row in s3dlio_np.list(s3.uri(key))]
        assert below == [s3.uri(each) for each in order(keys) if each.startswith(key)], repr(
            key
        )
    left = set(keys)
    for key in keys[::2]:
        s3dlio_np.delete(s3.uri(key))
        left.remove(key)
        assert not s3dlio_np.exists(s3.uri(key)), repr(key)
    assert {row["uri"] for row in s3dlio_np.list(s3.uri(""))} == {s3.uri(key) for key in left}


def is_known(s3: Any, key: str, *, in_parts: bool = False) -> bool:
    """moto 5.2 takes no key with a line feed, and repeats a raw control character in XML."""
    wrong = "\n" in key or (in_parts and not key.isprintable())
    return not (wrong and isinstance(s3.server, MotoServer))


def needs(s3: Any, key: str, *, in_parts: bool = False) -> None:
    if not is_known(s3, key, in_parts=in_parts):
        pytest.skip("moto 5.2 cannot do this")


@pytest.mark.parametrize("group", GROUPS)
def test_round_trips(s3: Any, group: str) -> None:
    round_trips(s3, [key for key in GROUPS[group] if is_known(s3, key)])


ODD = ["\x01", "a\n<&>\"'", "%2F+ ?#", "../💾/", "é" * 512]


@pytest.mark.parametrize("key", ODD)
def test_uploads_in_parts(s3: Any, key: str) -> None:
    """Ceph's answers repeat the key, with a control character as XML does not allow it, and cut a long one."""
    needs(s3, key, in_parts=True)
    data = np.random.default_rng(1).bytes(PART + 1)
    with s3dlio_np.open(s3.uri(key), "wb", part_size=PART) as stream:
        stream.write(data)
    assert s3dlio_np.get_bytes(s3.uri(key), concurrent=True, part_size=PART) == data
    with pytest.raises(KeyError), s3dlio_np.open(s3.uri(key), "wb", part_size=PART) as stream:
        stream.write(data)
        raise KeyError  # the upload is aborted under its key
    assert s3.uploads() == []
    assert list(s3.objects()) == [key]


@pytest.mark.parametrize("key", ODD)
def test_formats(s3: Any, key: str) -> None:
    needs(s3, key)
    s3dlio_np.save_numpy(s3.uri(key), {"a": np.arange(3)})
    assert s3dlio_np.load_numpy(s3.uri(key))["a"].tolist() == [0, 1, 2]
    s3dlio_np.save_pickle(s3.uri(key), {key: 1})
    assert s3dlio_np.load_pickle(s3.uri(key)) == {key: 1}
    assert list(s3.objects()) == [key]


@pytest.mark.parametrize("odd", ["\x01", "é +%2F<&>"])
def test_pages_end_at_any_key(s3: Any, odd: str) -> None:
    """Ceph's token is the key with which a page ends."""
    keys = [f"{odd}{number:04}{odd}" for number in range(1002)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: s3dlio_np.put(s3.uri(key), b""), keys))
        listed = [row["uri"] for row in s3dlio_np.list(s3.uri(""))]
        # Here, as boto3 would fail to: it takes such a token for something else.
        list(pool.map(lambda key: s3dlio_np.delete(s3.uri(key)), keys))
    assert listed == [s3.uri(key) for key in keys]


def test_keys_that_are_no_text(s3_own: Any) -> None:
    round_trips(s3_own, NO_TEXT)


@pytest.mark.parametrize("s3", [pytest.param("ceph", marks=pytest.mark.ceph)], indirect=True)
@pytest.mark.parametrize("key", NO_TEXT)
def test_keys_that_are_no_text_are_refused(s3: Any, key: str) -> None:
    with pytest.raises(s3dlio_np.StorageError) as caught:
        s3dlio_np.put(s3.uri(key), b"1")
    assert caught.value.server_code == "InvalidObjectName"
    assert caught.value.uri == s3.uri(key)


@pytest.mark.parametrize("uri", ["s3://bucket/" + "x" * 1025, "s3://bucket/" + "é" * 513])
def test_keys_that_are_too_long(s3_own: Any, uri: str) -> None:
    for use in (s3dlio_np.stat, s3dlio_np.list, s3dlio_np.delete, s3dlio_np.get_bytes):
        with pytest.raises(ValueError, match="S3 allows 1024"):
            use(uri)
    assert sum(s3_own.server.counters()["requests"].values()) == 0


@pytest.mark.parametrize(("addressing", "front"), [("path", "/bucket/"), ("virtual", "/")])
def test_what_goes_over_the_wire(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, addressing: str, front: str
) -> None:
    """Every byte but the unreserved ones and the slash is %XX, once, in upper case, in path and query."""
    keys = [key for group in GROUPS.values() for key in group] + NO_TEXT
    with Relay(s3_own.server.address) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{relay.port}")
        monkeypatch.setenv("S3DLIO_ADDRESSING", addressing)
        for key in keys:
            s3dlio_np.put(s3_own.uri(key), b"")
            s3dlio_np.list(s3_own.uri(key))
    raw = [key.encode("utf-8", "surrogateescape") for key in keys]
    puts = [head.target for head in relay.heads if head.method == "PUT"]
    assert puts == [front + quote(key, safe="/~") for key in raw]
    prefixes = [
        head.target.partition("&prefix=")[2]
        for head in relay.heads
        if "&prefix=" in head.target
    ]
    assert prefixes == [quote(key, safe="~") for key in raw]
    assert s3_own.server.counters()["signatures_verified"] == len(relay.heads)


def test_a_proxy_that_forwards_changes_nothing(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request names the whole URL to it; "..", "//" and "%2F" stay in that."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
    with ProxyFake({"store.invalid": s3_own.server.address}) as proxy:
        monkeypatch.setenv("S3DLIO_PROXY", proxy.endpoint)
        round_trips(s3_own, [*PATHS, *SPELLINGS])
        assert proxy.seen and not proxy.tunnels


LOCALES = {
    "UTF-8 mode": {"PYTHONUTF8": "1"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_a_key_is_the_same_under_every_locale(s3_own: Any, tmp_path: Path, locale: str) -> None:
    printed = child.run(
        r"""
        import os, sys
        import s3dlio_np
        s3dlio_np.put("s3://bucket/k\xe9\udcff", b"12")
        print(ascii([row["uri"] for row in s3dlio_np.list("s3://bucket/k\xe9")]))
        s3dlio_np.put(os.fsencode(sys.argv[1]) + b"/f\xc3\xa9\xff", b"1")
        """,
        tmp_path,
        env=LOCALES[locale],
    )
    assert printed == r"['s3://bucket/k\xe9\udcff']" + "\n"
    assert s3_own.objects() == {"ké\udcff": 2}
    assert os.listdir(os.fsencode(tmp_path)) == [b"f\xc3\xa9\xff"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2Jx", "\x7f\x9b\r"])
def test_an_error_is_one_line(s3_own: Any, tmp_path: Path, name: str) -> None:
    """Who chooses a key writes no lines into others' logs, and steers no terminal. Its attributes have it raw."""
    for uri in (s3_own.uri(name), str(tmp_path / name)):
        with pytest.raises(s3dlio_np.StorageError) as caught:
            s3dlio_np.get_bytes(uri)
        assert str(caught.value).isprintable()
        assert repr(name)[1:-1].replace("\\n", "\\x0a").replace("\\r", "\\x0d") in str(
            caught.value
        )
        assert caught.value.uri == caught.value.filename == uri


# --- local files ---------------------------------------------------------------------------------


def test_file_names_of_every_byte(tmp_path: Path) -> None:
    """By path, as str and bytes, and by file:// URI; what is listed opens what was written."""
    folder = os.fsencode(tmp_path)
    names = [b"n" + bytes([byte]) for byte in range(1, 256) if byte != ord("/")]
    names += [
        b"n%41",
        b"n%zz",
        b"n?a#b",
        b"n\xff\xfe",
        "né💾".encode(),
        b"n" * 255,
        b"n:" + b"n" * 20,
    ]
    for number, name in enumerate(names):
        path = folder + b"/" + name
        uris: list[Any] = [
            path,
            os.fsdecode(path),
            "file://" + quote(path),
            Path(os.fsdecode(path)),
        ]
        s3dlio_np.put(uris[number % 4], name)
        for uri in uris:
            assert s3dlio_np.get_bytes(uri) == name
            assert s3dlio_np.stat(uri)["size"] == len(name)
    assert sorted(os.listdir(folder)) == sorted(names)
    for prefix in (os.fsdecode(folder), "file://" + quote(folder), "FILE://" + quote(folder)):
        rows = s3dlio_np.list(prefix)
        assert [s3dlio_np.get_bytes(row["uri"]) for row in rows] == sorted(names)
        assert {row["uri"].partition(":")[0] for row in rows} <= {"file"} or prefix.startswith(
            "/"
        )
    for row in rows:
        s3dlio_np.delete(row["uri"])
    assert os.listdir(folder) == []


def test_paths_are_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for open(): nothing is taken out of a path, so ".." behind a link leads where the system says."""
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/deep")
    monkeypatch.chdir(tmp_path)
    for path, place in {
        "link/../one": "a/one",
        "a/./two": "a/two",
        "a//three": "a/three",
        "./-rf": "-rf",
        f"file://{tmp_path}/link/%2E%2E/four": "a/four",
        "file:five": "file:five",
        "~six": "~six",
    }.items():
        s3dlio_np.put(path, path.encode())
        assert (tmp_path / place).read_bytes() == path.encode()
        assert [row["uri"] for row in s3dlio_np.list(path)] == [path.replace("%2E", ".")]
    with pytest.raises(FileNotFoundError):
        s3dlio_np.put("none/../seven", b"")  # there is no such folder to leave again
    (tmp_path / "file:folder").mkdir()
    s3dlio_np.put("file:folder/x", b"1")
    assert [row["uri"] for row in s3dlio_np.list("file:folder")] == ["file:folder/x"]
