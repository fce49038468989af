"""Every setting: what it does, by environment and by configure(), and what rubbish is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import s3dlio_np
from tests import child
from tests.marks import near
from tests.servers.own import OwnServer
from tests.servers.relay import Head, Relay

MIB = 1 << 20
PART = 5 * MIB
ROOT = Path(__file__).resolve().parents[2]

# variable, configure()'s name, smallest and largest value
NUMBERS = [
    ("S3DLIO_PUT_PART_SIZE", "put_part_bytes", 5 * MIB, 5 * 1024 * MIB),
    ("S3DLIO_PUT_INFLIGHT", "put_inflight", 1, 1024),
    ("S3DLIO_GET_PART_SIZE", "get_part_bytes", 65536, 5 * 1024 * MIB),
    ("S3DLIO_GET_INFLIGHT", "get_inflight", 1, 1024),
    ("S3DLIO_GET_THRESHOLD", "get_threshold_bytes", 0, 2**64 - 1),
    ("S3DLIO_RT_THREADS", "threads", 0, 256),
    ("S3DLIO_HTTP_MAX_CONNS", "max_connections", 1, 65536),
    ("S3DLIO_MEMORY_LIMIT", "memory_limit_bytes", 0, 2**64 - 1),
    ("AWS_MAX_ATTEMPTS", "max_attempts", 1, 100),
    ("S3DLIO_HEDGE", "hedge_ms", 0, 60000),
    ("AWS_METADATA_SERVICE_TIMEOUT", "metadata_timeout_s", 1, 300),
    ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "metadata_attempts", 1, 20),
    ("S3DLIO_SIGN_PAYLOAD", "sign_payload", 0, 1),
    ("S3DLIO_FILE_DIRECT", "file_direct", 0, 1),
]
RUBBISH = ["many", "-1", "1.5", "8MiB", "0x10", "1 ", " 1", "+1", "1e3", "", "9" * 30]
TEXTS = [
    *("endpoint", "region", "access_key", "secret_key", "session_token", "profile"),
    *("config_file", "credentials_file", "ca_bundle", "addressing", "anonymous"),
    *("proxy", "http_proxy", "https_proxy", "no_proxy"),
    *("checksum_calculation", "checksum_validation", "request_payer", "expected_bucket_owner"),
    *("sse", "sse_kms_key_id", "sse_kms_context", "sse_bucket_key", "sse_customer_key"),
    *("sts_endpoint", "sso_endpoint", "role_arn", "role_session_name"),
    *("web_identity_token_file", "container_relative_uri", "container_full_uri"),
    *("container_token", "container_token_file"),
    *("metadata_disabled", "metadata_endpoint", "metadata_mode"),
]


@pytest.fixture(autouse=True)
def nothing_stays_configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable, _, _, _ in NUMBERS:
        monkeypatch.delenv(variable, raising=False)
    yield
    names = [name for _, name, _, _ in NUMBERS] + TEXTS
    s3dlio_np.configure(**dict.fromkeys(names))


def requests(bucket: Any, operation: str, work: Callable[[], Any]) -> int:
    """How many requests of this kind the work makes."""
    before: int = bucket.server.counters()["requests"].get(operation, 0)
    work()
    after: int = bucket.server.counters()["requests"].get(operation, 0)
    return after - before


# --- values -------------------------------------------------------------------------------------


def test_the_readme_has_them_all() -> None:
    rows = re.findall(r"^\| (`.*?) \| `(\w+)` \| (\S+)", (ROOT / "README.md").read_text(), re.M)
    documented = {name: re.findall(r"`(\w+)`", variables) for variables, name, _ in rows}
    assert set(documented) == {name for _, name, _, _ in NUMBERS} | set(TEXTS)
    for variable, name, _, _ in NUMBERS:
        assert documented[name] == [variable]


@pytest.mark.parametrize("value", RUBBISH)
@pytest.mark.parametrize(("variable", "name", "low", "high"), NUMBERS)
def test_rubbish(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    name: str,
    low: int,
    high: int,
    value: str,
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    monkeypatch.setenv(variable, value)
    if value == "":  # counts as not set
        s3dlio_np.open(path).close()
        return
    for use in (
        lambda: s3dlio_np.open(path),
        lambda: s3dlio_np.open(path, "wb"),
        lambda: s3dlio_np.put(path, b"2"),
        lambda: s3dlio_np.get_bytes(path),
        lambda: s3dlio_np.stat(path),
        lambda: s3dlio_np.list(path),
    ):
        with pytest.raises(ValueError) as caught:
            use()
        for text in (str(path), variable, f'"{value}"', f"{low} to {high}"):
            assert text in str(caught.value)
    assert path.read_bytes() == b"1"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(("variable", "name", "low", "high"), NUMBERS)
def test_limits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    name: str,
    low: int,
    high: int,
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    for value in (low, high):
        monkeypatch.setenv(variable, str(value))
        s3dlio_np.open(path).close()
        s3dlio_np.configure(**{name: value})
        s3dlio_np.open(path).close()
    for wrong in (low - 1, high + 1):
        with pytest.raises(ValueError, match=name):
            s3dlio_np.configure(**{name: wrong})
        s3dlio_np.configure(**{name: None})
        monkeypatch.setenv(variable, str(wrong))
        with pytest.raises(ValueError, match=variable):
            s3dlio_np.open(path)
        s3dlio_np.configure(**{name: low})
        s3dlio_np.open(path).close()  # what is configured wins, the variable is not looked at


@pytest.mark.parametrize("wrong", [1.5, [1], {}, b"1", object()])
def test_configure_takes_plain_values_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match="put_inflight"):
        s3dlio_np.configure(put_inflight=wrong)


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="part_size"):
        s3dlio_np.configure(part_size=PART)


# --- transfers ----------------------------------------------------------------------------------


def by_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str, value: int
) -> None:
    monkeypatch.setenv(variable, str(value))


def by_configure(monkeypatch: pytest.MonkeyPatch, variable: str, name: str, value: int) -> None:
    s3dlio_np.configure(**{name: value})


def both_ways() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("set_it", [by_environment, by_configure])


@both_ways()
def test_put_part_size(s3_own: Any, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    def put() -> None:
        s3dlio_np.put(s3_own.uri("x"), bytes(24 * MIB))

    assert requests(s3_own, "UploadPart", put) == 3
    set_it(monkeypatch, "S3DLIO_PUT_PART_SIZE", "put_part_bytes", 6 * MIB)
    assert requests(s3_own, "UploadPart", put) == 4
    options = s3dlio_np.WriterOptions(part_size=12 * MIB)
    work = lambda: s3dlio_np.put(s3_own.uri("x"), bytes(24 * MIB), options=options)  # noqa: E731
    assert requests(s3_own, "UploadPart", work) == 2


@both_ways()
def test_put_inflight(s3_own: Any, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    s3_own.server.add_fault(op="UploadPart", kind="stall", seconds=0.1, count=-1)
    set_it(monkeypatch, "S3DLIO_PUT_INFLIGHT", "put_inflight", 2)
    monkeypatch.setenv("S3DLIO_PUT_PART_SIZE", str(PART))
    s3dlio_np.put(s3_own.uri("x"), bytes(8 * PART))
    assert s3_own.server.counters()["max_requests"] <= 2


@both_ways()
def test_get_part_size(s3_own: Any, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    s3_own.put("x", bytes(16 * MIB))
    monkeypatch.setenv("S3DLIO_GET_THRESHOLD", "0")
    monkeypatch.setenv("S3DLIO_GET_INFLIGHT", "1")

    def get() -> None:
        s3dlio_np.get_bytes(s3_own.uri("x"))

    usual = requests(s3_own, "GetObject", get)
    set_it(monkeypatch, "S3DLIO_GET_PART_SIZE", "get_part_bytes", 2 * MIB)
    smaller = requests(s3_own, "GetObject", get)
    assert (usual <= 3, 8 <= smaller <= 9) == (True, True), (usual, smaller)


@both_ways()
def test_get_inflight(s3_own: Any, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    s3_own.put("x", bytes(16 * MIB))
    s3_own.server.reset()
    s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.05, count=-1)
    monkeypatch.setenv("S3DLIO_GET_THRESHOLD", "0")
    monkeypatch.setenv("S3DLIO_GET_PART_SIZE", str(MIB))
    set_it(monkeypatch, "S3DLIO_GET_INFLIGHT", "get_inflight", 3)
    s3dlio_np.get_bytes(s3_own.uri("x"))
    with s3dlio_np.open(s3_own.uri("x")) as stream:
        stream.read()
    counters = s3_own.server.counters()
    assert counters["max_requests"] <= 3
    assert counters["requests"]["GetObject"] >= 16


@both_ways()
def test_get_threshold(s3_own: Any, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    """Up to it an object is one request, the opening one apart."""
    s3_own.put("x", bytes(20 * MIB))

    def get() -> None:
        s3dlio_np.get_bytes(s3_own.uri("x"))

    whole = requests(s3_own, "GetObject", get)
    set_it(monkeypatch, "S3DLIO_GET_THRESHOLD", "get_threshold_bytes", 20 * MIB)
    assert requests(s3_own, "GetObject", get) > whole
    set_it(monkeypatch, "S3DLIO_GET_THRESHOLD", "get_threshold_bytes", 20 * MIB + 1)
    assert requests(s3_own, "GetObject", get) == whole <= 2


@both_ways()
def test_file_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_it: Any) -> None:
    """The same bytes, whatever the alignment."""
    data = os.urandom(3 * PART + 777)
    set_it(monkeypatch, "S3DLIO_FILE_DIRECT", "file_direct", 1)
    path = tmp_path / "x"
    with s3dlio_np.open(path, "wb", part_size=PART) as stream:
        for start in range(0, len(data), 999_999):
            stream.write(data[start : start + 999_999])
    assert path.read_bytes() == data
    with s3dlio_np.open(path, part_size=MIB) as stream:
        assert stream.read(12345) + stream.read() == data
    assert s3dlio_np.get_bytes(path) == data
    memory = bytearray(1001)
    assert s3dlio_np.get_into(path, memory, offset=4097, length=1001) == 1001
    assert memory == data[4097 : 4097 + 1001]


# --- the engine's -------------------------------------------------------------------------------

ENGINE = """
    import json, os, sys, s3dlio_np
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    s3dlio_np.configure(**settings)
    uri = sys.argv[1]
    s3dlio_np.configure(get_threshold_bytes=0)
    with s3dlio_np.open(uri, "wb", part_size=5 << 20, max_concurrency=16) as stream:
        stream.write(bytes(60 << 20))
    assert s3dlio_np.get_bytes(uri, part_size=1 << 20, max_concurrency=32) == bytes(60 << 20)
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    print(names.count("s3dlio-io\\n"), s3dlio_np.stats()["memory_limit_bytes"])
"""


@near
@pytest.mark.parametrize("count", [1, 3, 0])
def test_threads(target: Any, count: int) -> None:
    by_variable = child.run(ENGINE, target.uri("x"), env={"S3DLIO_RT_THREADS": str(count)})
    configured = child.run(ENGINE, target.uri("x"), f'{{"threads": {count}}}')
    expected = count or min(len(os.sched_getaffinity(0)), 16)
    assert [int(printed.split()[0]) for printed in (by_variable, configured)] == [expected] * 2


@pytest.mark.parametrize("limit", [1, 4])
def test_max_connections(s3_own: Any, limit: int) -> None:
    s3_own.server.add_fault(op="GetObject", kind="stall", seconds=0.02, count=-1)
    env = {"S3DLIO_HTTP_MAX_CONNS": str(limit), "S3DLIO_RT_THREADS": "1"}
    control = s3_own.server.counters()["max_connections"]
    child.run(ENGINE, s3_own.uri("x"), env=env)
    assert s3_own.server.counters()["max_connections"] <= control + limit
    assert s3_own.server.counters()["max_requests"] <= limit


def test_memory_limit(s3_own: Any) -> None:
    by_variable = child.run(ENGINE, s3_own.uri("x"), env={"S3DLIO_MEMORY_LIMIT": "20000000"})
    configured = child.run(ENGINE, s3_own.uri("x"), '{"memory_limit_bytes": 30000000}')
    default = child.run(ENGINE, s3_own.uri("x"))
    limits = [int(printed.split()[1]) for printed in (by_variable, configured, default)]
    assert limits == [20_000_000, 30_000_000, 2 * 64 * 8 * MIB]


@pytest.mark.parametrize("attempts", [1, 3])
def test_max_attempts(s3_own: Any, attempts: int) -> None:
    fault = s3_own.server.add_fault(op="GetObject", kind="status", status=500, count=-1)
    script = """
        import sys, s3dlio_np
        try:
            s3dlio_np.open(sys.argv[1])
        except s3dlio_np.StorageError as error:
            print(error.attempts)
    """
    printed = child.run(script, s3_own.uri("x"), env={"AWS_MAX_ATTEMPTS": str(attempts)})
    assert int(printed) == fault.hits() == attempts


# --- access -------------------------------------------------------------------------------------


@pytest.fixture
def relay(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Before the own server, to see what is sent."""
    with Relay(s3_own.server.address) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        yield relay


def heads_of(relay: Relay, work: Callable[[], Any]) -> list[Head]:
    before = len(relay.heads)
    work()
    return relay.heads[before:]


@both_ways()
def test_sign_payload(
    s3_own: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, set_it: Any
) -> None:
    def put() -> None:
        s3dlio_np.put(s3_own.uri("x"), b"abc")

    assert [h.headers["x-amz-content-sha256"] for h in heads_of(relay, put)] == [
        "UNSIGNED-PAYLOAD"
    ]
    set_it(monkeypatch, "S3DLIO_SIGN_PAYLOAD", "sign_payload", 1)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [h.headers["x-amz-content-sha256"] for h in heads_of(relay, put)] == [digest]


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "configure"])
def test_endpoint(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, variable: str, relay: Relay
) -> None:
    """configure() before the S3 variable before the general one."""
    order = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "configure"]
    for weaker in order[: order.index(variable)]:
        monkeypatch.setenv(weaker, "http://127.0.0.1:1")
    if variable == "configure":
        s3dlio_np.configure(endpoint=relay.endpoint + "/")
    else:
        monkeypatch.setenv(variable, relay.endpoint)
    assert len(heads_of(relay, lambda: s3dlio_np.put(s3_own.uri("x"), b"1"))) == 1


@pytest.mark.parametrize(
    ("host", "spelling"),
    [
        ("127.0.0.1", "{}://127.0.0.1:{}//"),
        ("127.0.0.1", "{}://localhost:{}"),
        ("127.0.0.1", "{}://LOCALHOST:{}/"),
        ("::1", "{}://[::1]:{}"),
        ("::1", "{}://[0:0::1]:{}/"),
    ],
)
def test_spellings_of_an_endpoint(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch, host: str, spelling: str
) -> None:
    """Each is signed as it is sent. tests/c/test_host.c has those that are refused."""
    with OwnServer(host=host, verify=True) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        scheme = server.endpoint.partition(":")[0].upper()
        monkeypatch.setenv("AWS_ENDPOINT_URL", spelling.format(scheme, server.address[1]))
        assert s3dlio_np.put("s3://bucket/x", b"1")["size"] == 1
        assert server.counters()["signatures_verified"] == 1


@pytest.mark.parametrize("variable", ["AWS_DEFAULT_REGION", "AWS_REGION", "configure"])
def test_region(s3_own: Any, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    with OwnServer(region="eu-test-7") as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_REGION")
        order = ["AWS_DEFAULT_REGION", "AWS_REGION", "configure"]
        for weaker in order[: order.index(variable)]:
            monkeypatch.setenv(weaker, "eu-wrong-1")
        if variable == "configure":
            s3dlio_np.configure(region="eu-test-7")
        else:
            monkeypatch.setenv(variable, "eu-test-7")
        assert s3dlio_np.put("s3://bucket/x", b"1")["size"] == 1
        # A region that is wrong would have been noticed, and cost a request.
        counters = server.counters()
        assert counters["requests"]["PutObject"] == counters["signatures_verified"] == 1


def test_credentials_with_a_token(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with OwnServer(session_token="a/token+=") as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        assert s3dlio_np.put("s3://bucket/x", b"1")["size"] == 1
        monkeypatch.delenv("AWS_SESSION_TOKEN")
        with pytest.raises(PermissionError):
            s3dlio_np.put("s3://bucket/x", b"1")
        s3dlio_np.configure(
            access_key=server.access_key,
            secret_key=server.secret_key,
            session_token=server.session_token,
        )
        assert s3dlio_np.put("s3://bucket/x", b"1")["size"] == 1
    s3dlio_np.configure(session_token=None)


def test_configured_credentials_hide_all_three_variables(
    s3_own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another identity's")
    s3dlio_np.configure(access_key="testkey", secret_key="testsecret")
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1
    s3dlio_np.configure(access_key=None)
    with pytest.raises((PermissionError, ValueError), match="AWS_ACCESS_KEY_ID"):
        s3dlio_np.put(s3_own.uri("x"), b"1")


CREDENTIALS = """
[default]
aws_access_key_id = wrong
aws_secret_access_key = wrong

[good one]
aws_access_key_id=testkey
aws_secret_access_key = testsecret
"""


@pytest.fixture
def profiles(s3_own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No credentials but in profile files; the endpoint is only there, too."""
    (tmp_path / "credentials").write_text(CREDENTIALS)
    (tmp_path / "config").write_text(
        "[default]\nregion = us-east-1\n"
        f"[profile good one]\nregion = us-east-1\nendpoint_url = {s3_own.endpoint}\n"
    )
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT_URL", "REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


def test_a_profile(s3_own: Any, profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "good one")
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_own.endpoint)
    with pytest.raises(PermissionError, match="InvalidAccessKeyId"):
        s3dlio_np.put(s3_own.uri("x"), b"1")
    s3dlio_np.configure(profile="good one")
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1


def test_an_unknown_profile(
    s3_own: Any, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises((PermissionError, ValueError), match="nobody") as caught:
        s3dlio_np.put(s3_own.uri("x"), b"1")
    assert s3_own.uri("x") in str(caught.value)


def test_profile_files_at_home(
    s3_own: Any, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = profiles / "home" / ".aws"
    folder.mkdir(parents=True)
    for name in ("credentials", "config"):
        (profiles / name).rename(folder / name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("AWS_PROFILE", "good one")
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1


def test_configured_profile_files(
    s3_own: Any, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)
    s3dlio_np.configure(
        credentials_file=profiles / "credentials",
        config_file=profiles / "config",
        profile="good one",
    )
    assert s3dlio_np.put(s3_own.uri("x"), b"1")["size"] == 1


@pytest.mark.parametrize("value", ["1", "true"])
def test_anonymous(
    s3_own: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("S3DLIO_ANONYMOUS", value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    if value == "true":
        with pytest.raises(ValueError, match="S3DLIO_ANONYMOUS"):
            s3dlio_np.stat(s3_own.uri("x"))
        return
    with pytest.raises(PermissionError):  # the server verifies signatures
        s3dlio_np.get_bytes(s3_own.uri("x"))
    assert relay.heads
    assert not any("authorization" in head.headers for head in relay.heads)


@pytest.mark.parametrize(
    ("addressing", "host"),
    [("path", "localhost"), ("auto", "localhost"), ("virtual", "bucket.localhost")],
)
def test_addressing(
    s3_own: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, addressing: str, host: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{relay.port}")
    monkeypatch.setenv("S3DLIO_ADDRESSING", addressing)
    s3dlio_np.put(s3_own.uri("k/x"), b"1")
    assert relay.heads[0].headers["host"] == f"{host}:{relay.port}"
    assert relay.heads[0].target == ("/k/x" if addressing == "virtual" else "/bucket/k/x")
    assert s3_own.objects() == {"k/x": 1}


def test_addressing_of_another_kind(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_ADDRESSING", "dns")
    with pytest.raises(ValueError, match="S3DLIO_ADDRESSING") as caught:
        s3dlio_np.open(s3_own.uri("x"))
    for text in (s3_own.uri("x"), '"dns"', "auto, path or virtual"):
        assert text in str(caught.value)


def test_nothing_is_latched(s3_own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream sees the environment of the moment it is opened; open ones keep theirs."""
    stream = s3dlio_np.open(s3_own.uri("x"), "wb", part_size=PART)
    stream.write(bytes(PART))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError):
        s3dlio_np.put(s3_own.uri("y"), b"1")
    stream.write(bytes(PART))
    stream.close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    assert s3dlio_np.put(s3_own.uri("y"), b"1")["size"] == 1


def test_parts_are_made_for_the_expected_size(s3_own: Any) -> None:
    """10,000 parts of 5 MiB carry 48.8 GiB: for more, parts are larger from the first on."""
    options = s3dlio_np.WriterOptions(part_size=5 << 20, expected_size=100 << 30)
    with s3dlio_np.open(s3_own.uri("x"), "wb", options=options) as stream:
        stream.write(bytes(30 << 20))
    counters = s3_own.server.counters()
    assert counters["requests"]["UploadPart"] == 3  # of 11 MiB: 100 GiB in 10,000


def test_more_than_the_store_can_hold_is_refused_at_once(s3_own: Any) -> None:
    options = s3dlio_np.WriterOptions(expected_size=49 << 40)
    with pytest.raises(ValueError, match="limit"):
        s3dlio_np.open(s3_own.uri("x"), "wb", options=options)
