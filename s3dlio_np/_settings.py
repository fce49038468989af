"""Process-wide settings and counters."""

from __future__ import annotations

import os

from s3dlio_np import _native

Setting = str | int | bool | os.PathLike[str] | None


def configure(**settings: Setting) -> None:
    """Sets process-wide settings, which win over the environment; None goes back to it.

    Transfers: put_part_bytes, put_inflight, get_part_bytes, get_inflight, get_threshold_bytes,
    max_attempts, sign_payload, file_direct. Process: threads, max_connections, memory_limit_bytes,
    max_attempts; these four count when the engine starts, so set them before the first use. Access:
    endpoint, region, access_key, secret_key, session_token, profile, config_file,
    credentials_file, ca_bundle, addressing ("auto", "path", "virtual"), anonymous,
    checksum_calculation ("when_supported", "when_required").

    They count for streams opened afterwards. They are set in order; those before a wrong one stay
    set. Raises ValueError naming a setting that does not exist or a value out of range.
    """
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

    requests, retries, failures, bytes_received, bytes_sent, objects_opened, objects_written,
    uploads_aborted; memory_held_bytes, memory_peak_bytes, memory_limit_bytes.
    """
    return _native.stats()
