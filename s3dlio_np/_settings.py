"""Process-wide settings and counters."""

from __future__ import annotations

import os
from types import EllipsisType

from s3dlio_np import _native
from s3dlio_np._credentials import CredentialsCallback, set_callback

Setting = str | int | bool | os.PathLike[str] | None


def configure(
    *, credentials: CredentialsCallback | None | EllipsisType = ..., **settings: Setting
) -> None:
    """Sets process-wide settings, which win over the environment; None goes back to it.

    Transfers: put_part_bytes, put_inflight, get_part_bytes, get_inflight, get_threshold_bytes,
    sign_payload, file_direct. Process: threads, max_connections, memory_limit_bytes, max_attempts,
    hedge_ms; these five count when the engine starts, so set them before the first use. Access:
    endpoint, region, access_key, secret_key, session_token, profile, config_file,
    credentials_file, ca_bundle, proxy ("http://[name:password@]host[:port]"; "": none),
    http_proxy, https_proxy, no_proxy, addressing ("auto", "path", "virtual"), anonymous,
    checksum_calculation and checksum_validation ("when_supported", "when_required"). What S3
    requests say besides: request_payer ("requester"), expected_bucket_owner, sse ("AES256",
    "aws:kms", "aws:kms:dsse"), sse_kms_key_id, sse_kms_context, sse_bucket_key ("true", "false"),
    sse_customer_key (32 bytes in base64: SSE-C; only over https:// or to loopback). Where
    credentials are fetched: sts_endpoint, sso_endpoint, role_arn, role_session_name,
    web_identity_token_file, container_relative_uri, container_full_uri, container_token,
    container_token_file, metadata_disabled ("true", "false"), metadata_endpoint, metadata_mode
    ("IPv4", "IPv6"), metadata_timeout_s, metadata_attempts.

    credentials: a callable without arguments that returns (access_key, secret_key, session_token or
    None, expiry or None), asked by a thread of its own when the first stream needs keys and again
    about five minutes before they end, whether or not a save is under way; None removes it. Its
    expiry is a datetime with a time zone, Unix seconds or ISO 8601 text. It comes behind
    configure()'s own access_key and before the environment. What it raises is told as an
    AccessDeniedError, by kind and text. It must not itself open s3:// streams that need it.

    They count for streams opened afterwards. They are set in order; those before a wrong one stay
    set. Raises ValueError naming a setting that does not exist or a value out of range, TypeError
    for a value of another kind and for a callback that cannot be called.
    """
    if credentials is not ...:
        set_callback(credentials)
    for field, value in settings.items():
        _native.configure(field, _text(field, value))


def _text(field: str, value: Setting) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (str, int)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{field} must be str, int, bool, a path or None, not {type(value).__name__}"
    )


def stats() -> dict[str, int]:
    """Counters of this process, only ever growing, and its memory for part buffers in bytes.

    requests, retries, hedges (GETs asked for again because they were late), failures, bytes_received,
    bytes_sent, objects_opened, objects_written, uploads_aborted; memory_held_bytes,
    memory_peak_bytes, memory_limit_bytes.
    """
    return _native.stats()
