"""Where credentials come from, source by source, and in which order; see test_renewal.py."""

from __future__ import annotations

import hashlib
import json
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import s3dlio_np
from tests import child
from tests.np.credentials import HANGING, put, refused, use_container, write_config
from tests.servers.fake_aws import SECRET, FakeAws, Keys, Reply, sts_error, sts_reply

METADATA = [
    "PUT /latest/api/token",
    "GET /latest/meta-data/iam/security-credentials/",
    "GET /latest/meta-data/iam/security-credentials/the-role",
]


# --- providers, one by one ----------------------------------------------------------------------


def use_metadata(fake: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", fake.endpoint + "/")


def use_web_identity(fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("web.identity-token_/+=\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r & d")


def test_web_identity(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_ROLE_SESSION_NAME", "me@work")
    put(place)
    assert fake.actions() == ["AssumeRoleWithWebIdentity"]
    assert fake.seen[0].form == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::1:role/r & d",
        "RoleSessionName": "me@work",
        "WebIdentityToken": "web.identity-token_/+=",
    }
    assert place.server.keys() == {fake.issued[0].access: 1}


def test_web_identity_of_a_profile(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    write_config(
        tmp_path,
        "[default]\nrole_arn = arn:r\nrole_session_name = s\n"
        f"web_identity_token_file = {tmp_path}/token\n",
    )
    put(place)
    assert fake.seen[0].form["RoleSessionName"] == "s"


@pytest.mark.parametrize("token", [None, "", "two words", "two\nlines", "nul\0", "\xe4"])
def test_a_web_identity_token_that_is_none(
    place: Any,
    fake: FakeAws,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    token: str | None,
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    (tmp_path / "token").unlink()
    if token is not None:
        (tmp_path / "token").write_text(token)
    refused(
        place, str(tmp_path / "token"), kind=PermissionError if token is None else ValueError
    )
    assert fake.seen == []


def test_web_identity_without_a_role(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    monkeypatch.delenv("AWS_ROLE_ARN")
    refused(place, "AWS_ROLE_ARN", kind=ValueError)


BASE = "[base]\naws_access_key_id = testkey\naws_secret_access_key = testsecret\n"


def test_assume_role(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    (tmp_path / ".aws" / "credentials").write_text(BASE)
    write_config(
        tmp_path,
        "[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n"
        "external_id = e=1&2\nduration_seconds = 900\nregion = us-east-1\n",
    )
    put(place)
    form = fake.seen[0].form
    assert form.pop("RoleSessionName").startswith("s3dlio-")
    assert form == {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::1:role/r",
        "ExternalId": "e=1&2",
        "DurationSeconds": "900",
    }
    assert place.server.keys() == {fake.issued[0].access: 1}


def test_a_chain_of_roles(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The middle one's keys sign the last one's request, their token with it."""
    write_config(
        tmp_path,
        "[profile top]\nrole_arn = arn:top\nsource_profile = middle\n"
        "[profile middle]\nrole_arn = arn:middle\nsource_profile = middle\n"
        "aws_access_key_id = testkey\naws_secret_access_key = testsecret\n",
    )
    monkeypatch.setenv("AWS_PROFILE", "top")
    put(place)
    assert [seen.form["RoleArn"] for seen in fake.seen] == ["arn:middle", "arn:top"]
    assert fake.seen[1].headers["x-amz-security-token"] == fake.issued[0].token
    assert place.server.keys()[fake.issued[1].access] == 1


def test_the_profiles_own_sts_endpoint(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", place.endpoint)
    (tmp_path / ".aws" / "credentials").write_text(BASE)
    write_config(
        tmp_path,
        f"[default]\nrole_arn = arn:r\nsource_profile = base\nendpoint_url = {fake.endpoint}\n",
    )
    put(place)
    assert fake.actions() == ["AssumeRole"]


@pytest.mark.parametrize(
    "source", ["Environment", "EcsContainer", "Ec2InstanceMetadata", "Nowhere"]
)
def test_credential_source(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    write_config(tmp_path, f"[default]\nrole_arn = arn:r\ncredential_source = {source}\n")
    if source == "Nowhere":
        refused(place, "credential_source", '"Nowhere"', kind=ValueError)
        return
    if source == "Environment":
        # The environment's own keys would win, so the profile is the base of another process's.
        refused(place, "AWS_ACCESS_KEY_ID", kind=ValueError)
        return
    refused(place, source)
    use_container(fake, monkeypatch)
    use_metadata(fake, monkeypatch)
    put(place)
    before = METADATA if source == "Ec2InstanceMetadata" else ["GET /container"]
    assert fake.actions() == [*before, "AssumeRole"]


@pytest.mark.parametrize(
    ("profile", "texts"),
    [
        ("role_arn = r\n", ["role_arn", "source_profile"]),
        ("role_arn = r\nsource_profile = no\n", ['"no" does not exist']),
        ("role_arn = r\nsource_profile = a\ncredential_source = Environment\n", ["both"]),
        ("role_arn = r\nsource_profile = loop\n", ["leads on"]),
    ],
)
def test_a_role_that_leads_nowhere(
    place: Any, fake: FakeAws, tmp_path: Path, profile: str, texts: list[str]
) -> None:
    loop = "[profile loop]\nrole_arn = r\nsource_profile = pool\n"
    pool = "[profile pool]\nrole_arn = r\nsource_profile = loop\n"
    write_config(tmp_path, f"[default]\n{profile}{loop}{pool}")
    refused(place, *texts, kind=ValueError)
    assert fake.seen == []


def test_mfa_cannot_be_asked_for(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    write_config(
        tmp_path, "[default]\nrole_arn = r\nsource_profile = default\nmfa_serial = arn:mfa\n"
    )
    refused(place, "mfa_serial")


def test_sts_refuses(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    fake.script.append(sts_error(403, "AccessDenied", "Not authorized to assume it"))
    error = refused(place, "STS AssumeRoleWithWebIdentity", "Not authorized to assume it")
    assert (error.status, error.server_code) == (403, "AccessDenied")
    assert error.request_id == "request-7"
    assert len(fake.seen) == 1


def test_sts_recovers(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    fake.script += [Reply(500), sts_error(400, "IDPCommunicationError", "again")]
    put(place)
    assert len(fake.seen) == 3


KEYS = Keys("FAKE", f"{SECRET}key", f"{SECRET}token", 4102444800)
GOOD = sts_reply("AssumeRoleWithWebIdentity", KEYS).body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"rubbish",
        GOOD[:-10],
        GOOD.replace(b"<Credentials>", b"<Others>").replace(b"</Credentials>", b"</Others>"),
        GOOD.replace(b"SecretAccessKey", b"Nothing"),
        GOOD.replace(b"2100-01-01T00:00:00Z", b"tomorrow"),
        GOOD.replace(b"2100-01-01T00:00:00Z", b"2001-01-01T00:00:00Z"),
        GOOD.replace(b"FAKE", b"FA KE"),
        GOOD.replace(b"FAKE", b"FA&#10;KE"),
        GOOD.replace(b"token<", b"token" + b"x" * 20000 + b"<"),
        b"<a>" + b"x" * 70000 + b"</a>",
        b'<!DOCTYPE x [<!ENTITY e "E">]>' + GOOD,
    ],
)
def test_sts_answers_rubbish(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: bytes
) -> None:
    use_web_identity(fake, monkeypatch, tmp_path)
    fake.script += [Reply(body=body)] * 3
    refused(place, kind=s3dlio_np.StorageError)
    assert len(fake.seen) >= 1


def sso_login(tmp_path: Path, name: str, **changes: Any) -> Path:
    folder = tmp_path / ".aws" / "sso" / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha1(name.encode()).hexdigest()}.json"
    token = {"accessToken": "ssotoken/+=", "expiresAt": "2100-01-01T00:00:00Z", "region": "x"}
    path.write_text(json.dumps(token | changes))
    return path


SSO = "sso_account_id = 123456789012\nsso_role_name = Reader & Co\n"
SESSION = (
    f"[default]\nsso_session = work\n{SSO}"
    "[sso-session work]\nsso_region = eu-1\nsso_start_url = https://start\n"
)


def test_sso_session(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    write_config(tmp_path, SESSION)
    sso_login(tmp_path, "work")
    put(place)
    assert fake.actions() == ["GET /federation/credentials"]
    assert place.server.keys() == {fake.issued[0].access: 1}


def test_sso_by_start_url(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    write_config(tmp_path, f"[default]\nsso_start_url = https://start\nsso_region = e\n{SSO}")
    sso_login(tmp_path, "https://start")
    put(place)


@pytest.mark.parametrize(
    "changes",
    [
        None,
        {"expiresAt": "2001-01-01T00:00:00Z"},
        {"expiresAt": None},
        {"expiresAt": "soon"},
        {"accessToken": None},
        {"accessToken": ""},
        {"accessToken": f"{SECRET}\r\nx: y"},
    ],
)
def test_sso_without_a_login(
    place: Any, fake: FakeAws, tmp_path: Path, changes: dict[str, Any] | None
) -> None:
    write_config(tmp_path, SESSION)
    path = sso_login(tmp_path, "work", **(changes or {}))
    if changes is None:
        path.unlink()
    refused(place, str(path), "aws sso login")
    assert fake.seen == []


def test_sso_refuses(place: Any, fake: FakeAws, tmp_path: Path) -> None:
    write_config(tmp_path, SESSION)
    sso_login(tmp_path, "work", accessToken=SECRET)
    assert refused(place, "aws sso login").status == 401


def test_an_sso_endpoint_that_is_none(
    place: Any, fake: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tmp_path, SESSION)
    sso_login(tmp_path, "work")
    address = fake.endpoint.removeprefix("http://")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", address)
    refused(place, f"write http://{address} or", "(AWS_ENDPOINT_URL_SSO)", kind=ValueError)
    assert fake.seen == []


@pytest.mark.parametrize("missing", ["sso_region", "sso_role_name", "[sso-session work]"])
def test_half_an_sso_profile(place: Any, fake: FakeAws, tmp_path: Path, missing: str) -> None:
    lines = [line for line in SESSION.splitlines() if not line.startswith(missing)]
    write_config(tmp_path, "\n".join(lines))
    sso_login(tmp_path, "work")
    if missing == "[sso-session work]":
        refused(place, "[sso-session work]", kind=ValueError)
    else:
        refused(place, missing, kind=ValueError)


# --- a program ----------------------------------------------------------------------------------


def use_process(tmp_path: Path, script: str, arguments: str = "") -> Path:
    """A Python program as credential_process; every run adds a line to `runs`."""
    program = tmp_path / "give keys.py"
    runs = tmp_path / "runs"
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        f"open({str(runs)!r}, 'a').write('run\\n')\n{script}\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    write_config(tmp_path, f'[default]\ncredential_process = "{program}" {arguments}\n')
    return runs


def printed(**changes: Any) -> str:
    whole: dict[str, Any] = {
        "Version": 1,
        "AccessKeyId": "testkey",
        "SecretAccessKey": "testsecret",
    } | changes
    return f"print({json.dumps(whole)!r})"


def test_a_process(place: Any, tmp_path: Path) -> None:
    script = "assert sys.argv[1:] == ['a b', '$HOME', 'c\"d', '']\n" + printed()
    runs = use_process(tmp_path, script, """'a b' '$HOME' "c\\"d" ''""")
    put(place)
    put(place)
    assert runs.read_text() == "run\n"


@pytest.mark.parametrize("form", ["2100-01-01T00:00:00Z", "2100-01-01T00:00:00.123+01:30"])
def test_a_process_with_an_expiry(place: Any, tmp_path: Path, form: str) -> None:
    use_process(tmp_path, printed(Expiration=form))
    put(place)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("sys.exit(3)", "status 3"),
        (printed() + "; sys.stdout.flush(); os.kill(os.getpid(), 9)", "signal 9"),
        (f"sys.stderr.write({SECRET!r}); sys.exit(1)", "status 1"),
        ("", "broken"),
        (f"print({SECRET!r})", "broken"),
        (f"print('{{}} {SECRET}')", "broken"),
        ("print('[1]')", "broken"),
        ("print('[' * 60000)", "broken"),
        ("print('{\"a\":' * 10000)", "broken"),
        (printed(Version=2), "Version"),
        (printed(Version=None), "Version"),
        (printed(Version="1"), "broken"),
        (printed(AccessKeyId=None), "access key"),
        (printed(SecretAccessKey=""), "secret key"),
        (printed(SecretAccessKey=17), "broken"),
        (printed(SecretAccessKey=f"{SECRET}\u0000"), "NUL"),
        (printed(SecretAccessKey=f"{SECRET}\u00e4"), "ASCII"),
        (printed(AccessKeyId="a\r\nb"), "ASCII"),
        (printed(Expiration="tomorrow"), "ISO 8601"),
        (printed(Expiration="2001-01-01T00:00:00Z"), "expired"),
        (printed() + printed(), "follows"),
        ('print(\'{"Version":1,\' + \'"AccessKeyId":"a",\' * 2 + \'"b":1}\')', "twice"),
        ("while True: sys.stdout.write('x' * 4096)", "65536 bytes"),
    ],
)
def test_a_process_that_fails(place: Any, tmp_path: Path, script: str, text: str) -> None:
    script = script.replace(")print", "); print")
    runs = use_process(tmp_path, script)
    refused(place, text, kind=s3dlio_np.StorageError)
    assert "run" in runs.read_text()


@pytest.mark.parametrize(
    ("command", "kind"),
    [("/no/such/program", PermissionError), ("'open", ValueError), ("x " * 70, ValueError)],
)
def test_a_process_that_cannot_be(
    place: Any, tmp_path: Path, command: str, kind: type[Exception]
) -> None:
    write_config(tmp_path, f"[default]\ncredential_process = {command}\n")
    refused(place, "credential_process", kind=kind)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_ctrl_c_while_a_process_hangs(place: Any, tmp_path: Path) -> None:
    """The exception comes at once, and the program ends with the interpreter."""
    pid_file = tmp_path / "pid"
    use_process(
        tmp_path, f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    started = child.start(HANGING, place.uri("x"))
    ready = lambda: pid_file.exists() and pid_file.read_text() != ""  # noqa: E731
    status, said = child.kill_when(started, ready, signal.SIGINT)
    assert (status, said) == (0, "")
    assert not is_running(int(pid_file.read_text()))
    assert not any(place.server.counters()["requests"].values())


# --- a container --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["nothing", "variable", "file"])
def test_a_container(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    use_container(fake, monkeypatch, "/container/v1?a=b")
    if by != "nothing":
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Basic abc")
    if by == "file":
        (tmp_path / "auth").write_text("eyJ.from.file\n")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "auth"))
    # No proxy, whatever the environment says.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", place.server.address[0])
    s3dlio_np.open(place.uri("x"), "wb").abort()
    assert [seen.path for seen in fake.seen] == ["/container/v1?a=b"]
    expected = {"nothing": None, "variable": "Basic abc", "file": "eyJ.from.file"}
    assert fake.seen[0].headers.get("authorization") == expected[by]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "http://169.254.170.3/",
        "http://169.254.169.254/",
        "http://10.0.0.1/",
        "http://127.1/",
        "http://0x7f000001/",
        "http://127.0.0.1.example.com/",
        "http://localhost.example.com/",
        "http://localhost@example.com/",
        "http://127.0.0.1:80@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://127.0.0.1 .example.com/",
        "http://[fd00:ec2::24]/",
        "http://[::1]x/",
        "http://[::ffff:10.0.0.1]/",
        "http:///",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "127.0.0.1",
    ],
)
def test_a_container_elsewhere(place: Any, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
    refused(place, "AWS_CONTAINER_CREDENTIALS_FULL_URI", kind=ValueError)


@pytest.mark.parametrize("uri", ["creds", "@example.com/", ".example.com/", "/a b"])
def test_a_relative_uri_that_is_none(
    place: Any, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", uri)
    refused(place, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", kind=ValueError)


def test_a_container_token_with_a_line_break(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_container(fake, monkeypatch)
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", f"{SECRET}\r\nX: y")
    refused(place, "AWS_CONTAINER_AUTHORIZATION_TOKEN", kind=ValueError)
    assert fake.seen == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(302, headers={"Location": "/container"}),
        Reply(403, SECRET.encode()),
        Reply(200, b""),
        Reply(200, SECRET.encode()),
        Reply(200, b'{"AccessKeyId":"a"}'),
        Reply(200, b'{"a":"' + b"x" * 70000 + b'"}'),
        Reply(200, b"{}", headers={"X-Long": "x" * 90000}),
    ],
)
def test_a_container_answers_rubbish(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    use_container(fake, monkeypatch)
    fake.script += [reply] * 3
    refused(place, kind=s3dlio_np.StorageError)
    assert set(fake.actions()) == {"GET /container"}


# --- instance metadata --------------------------------------------------------------------------


def test_metadata(place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    use_metadata(fake, monkeypatch)
    put(place)
    assert fake.actions() == METADATA
    assert fake.seen[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
    assert place.server.keys() == {fake.issued[0].access: 1}


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_metadata_without_version_2(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    use_metadata(fake, monkeypatch)
    fake.script.append(Reply(status))
    error = refused(place, "version 1 is never used", "AWS_ACCESS_KEY_ID")
    assert (error.code, error.status) == ("NO_CREDENTIALS", status)
    assert fake.actions() == METADATA[:1]


def test_metadata_without_a_role(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_metadata(fake, monkeypatch)
    fake.script += [Reply(normal=True), Reply(404)]
    assert refused(place, "no role", "AWS_ACCESS_KEY_ID").code == "NO_CREDENTIALS"


@pytest.mark.parametrize("token", [b"", b"two words", b"two\r\nLines: x", b"nul\0"])
def test_a_metadata_token_that_is_none(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, token: bytes
) -> None:
    use_metadata(fake, monkeypatch)
    fake.script.append(Reply(body=token))
    refused(place, "token", kind=s3dlio_np.StorageError)
    assert fake.actions() == METADATA[:1]


def test_slow_metadata(place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice longer than AWS_METADATA_SERVICE_TIMEOUT, then as usual."""
    use_metadata(fake, monkeypatch)
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "2")
    fake.script.append(Reply(delay_s=2))
    put(place)
    assert fake.actions() == METADATA[:1] + METADATA


def test_metadata_is_not_there(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
    error = refused(place, "AWS_ACCESS_KEY_ID", "AWS_EC2_METADATA_DISABLED=true")
    assert error.code == "NO_CREDENTIALS"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AWS_EC2_METADATA_DISABLED", "maybe"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "127.0.0.1"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv5"),
    ],
)
def test_wrong_metadata_settings(
    place: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv(variable, value)
    refused(place, variable, kind=ValueError)


# --- the order ----------------------------------------------------------------------------------


def test_the_order(
    place: Any, fake: FakeAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the last to the first, each new one takes over."""

    def used(count: int = 1) -> list[str]:
        before = len(fake.seen)
        put(place)
        return fake.actions()[before:]

    refused(place, "AWS_ACCESS_KEY_ID", str(tmp_path / ".aws" / "config"))
    use_metadata(fake, monkeypatch)
    assert used() == METADATA
    use_container(fake, monkeypatch)
    assert used() == ["GET /container"]
    use_web_identity(fake, monkeypatch, tmp_path)
    assert used() == ["AssumeRoleWithWebIdentity"]
    write_config(tmp_path, "[profile role]\nrole_arn = r\nsource_profile = base\n")
    (tmp_path / ".aws" / "credentials").write_text(BASE)
    assert used() == []  # the default profile has nothing, and the keys at hand are good
    monkeypatch.setenv("AWS_PROFILE", "role")
    assert used() == ["AssumeRole"]
    before = place.server.counters()["signatures_verified"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
    assert used() == []
    asked: list[int] = []

    def callback() -> tuple[str, str, str | None, None]:
        asked.append(1)
        return "testkey", "testsecret", None, None

    s3dlio_np.configure(credentials=callback)
    assert (used(), asked) == ([], [1])
    s3dlio_np.configure(access_key="testkey", secret_key="testsecret")
    try:
        s3dlio_np.configure(credentials=callback)
        assert (used(), asked) == ([], [1])
    finally:
        s3dlio_np.configure(access_key=None, secret_key=None)
    assert place.server.counters()["signatures_verified"] == before + 3
    monkeypatch.setenv("S3DLIO_ANONYMOUS", "1")
    with pytest.raises(PermissionError):
        put(place)
    assert asked == [1]


@pytest.mark.parametrize("wins", ["role", "keys", "process", "config"])
def test_the_order_within_a_profile(
    place: Any, fake: FakeAws, tmp_path: Path, wins: str
) -> None:
    good = "aws_access_key_id = testkey\naws_secret_access_key = testsecret\n"
    bad = "aws_access_key_id = wrong\naws_secret_access_key = wrong\n"
    process = use_process(
        tmp_path, printed(AccessKeyId="testkey" if wins == "process" else "no")
    )
    command = (tmp_path / ".aws" / "config").read_text().splitlines()[1]
    role = "role_arn = r\nsource_profile = base\n" if wins == "role" else ""
    if wins in ("role", "keys"):
        keys = bad if wins == "role" else good
        (tmp_path / ".aws" / "credentials").write_text(f"{BASE}[default]\n{keys}")
    command = "" if wins == "config" else f"{command}\n"
    write_config(tmp_path, f"[default]\n{role}{command}{good if wins == 'config' else bad}")
    put(place)
    assert process.exists() == (wins == "process")
    assert fake.actions() == (["AssumeRole"] if wins == "role" else [])
