"""Credentials from a callable of the program's own.

A Python thread of this module's answers the engine's questions, so that no thread of the engine's
touches Python, and keys are renewed while the program's threads wait inside a save or compute.
"""

from __future__ import annotations

import datetime
import math
import os
import threading
from collections.abc import Callable

from s3dlio_np import _native

Expiry = datetime.datetime | float | int | str | None
Credentials = tuple[str, str, str | None, Expiry]
CredentialsCallback = Callable[[], Credentials]

_callback: CredentialsCallback | None = None


def set_callback(callback: CredentialsCallback | None) -> None:
    """Makes new streams ask `callback`; None: no callback. Streams that are open keep theirs."""
    global _callback
    if callback is not None and not callable(callback):
        raise TypeError(f"credentials must be callable, not {type(callback).__name__}")
    _callback = callback
    if callback is None:
        _native.credentials_remove()
        return
    number = _native.credentials_open()
    thread = threading.Thread(
        target=_serve, args=(number, callback), name="s3dlio-credentials", daemon=True
    )
    thread.start()


def _serve(number: int, callback: CredentialsCallback) -> None:
    """Until nobody can ask any more."""
    while _native.credentials_wait(number):
        try:
            access_key, secret_key, session_token, expiry = _checked(callback())
            _native.credentials_answer(
                number, access_key, secret_key, session_token, _unix_seconds(expiry)
            )
        except BaseException as error:  # noqa: BLE001 - whoever waits for the answer is told
            _native.credentials_refuse(number, f"{type(error).__name__}: {_shown(error)}")


def _shown(error: BaseException) -> str:
    """No NUL and no half characters: what C takes as a text."""
    return str(error).replace("\0", "").encode("utf-8", "replace").decode()[:300]


def _checked(answer: Credentials) -> Credentials:
    # Messages tell kinds, never values: those are secrets.
    if not isinstance(answer, tuple) or len(answer) != 4:
        raise TypeError(
            "it must return (access_key, secret_key, session_token or None, expiry or None), "
            f"not {type(answer).__name__}"
        )
    access_key, secret_key, session_token, expiry = answer
    if not isinstance(access_key, str) or not isinstance(secret_key, str):
        raise TypeError("access_key and secret_key must be str")
    if session_token is not None and not isinstance(session_token, str):
        raise TypeError("session_token must be str or None")
    if "\0" in access_key or "\0" in secret_key or "\0" in (session_token or ""):
        raise ValueError("a key holds a NUL")
    return access_key, secret_key, session_token, expiry


def _unix_seconds(expiry: Expiry) -> int:
    """0 for None: they never expire."""
    if expiry is None:
        return 0
    if isinstance(expiry, str):
        expiry = datetime.datetime.fromisoformat(expiry.replace("Z", "+00:00"))
    if isinstance(expiry, datetime.datetime):
        if expiry.tzinfo is None:
            raise ValueError("expiry must have a time zone")
        expiry = expiry.timestamp()
    if isinstance(expiry, bool) or not isinstance(expiry, (int, float)):
        raise TypeError(
            "expiry must be a datetime with a time zone, Unix seconds, ISO 8601 text or None, "
            f"not {type(expiry).__name__}"
        )
    if not math.isfinite(expiry) or not 0 < expiry < 2**53:
        raise ValueError("expiry must be a point in time after 1970")
    return math.floor(expiry)


def _after_fork() -> None:
    """The serving thread is the parent's alone."""
    if _callback is not None:
        set_callback(_callback)


os.register_at_fork(after_in_child=_after_fork)
