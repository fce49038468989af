"""Holds the architecture: who may include what, who may allocate, what a library exports."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a layer may include of the others; its own headers are always allowed.
ALLOWED: dict[str, tuple[str, ...]] = {
    "core": (),
    "formats": ("core/error.h", "core/mem.h", "core/str.h"),
    "backends": ("core/", "formats/"),
    "bind": ("core/", "formats/", "backends/open.h"),
}
# The only files that may include a third party's headers.
OWNERS = {
    r"curl/": r"backends/http\w*\.c",
    r"openssl/": r"backends/(auth|http)\w*\.c",
    r"libxml/": r"backends/xml\.c",
    r"isa-l": r"formats/(crc|inflate)\.c",
    r"zstd(_errors)?\.h|zdict\.h": r"formats/zstd\.c",
    r"Python\.h": r"bind/\w+\.[ch]",
}
FORBIDDEN_CALL = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|reallocarray|free|strdup|strndup|aligned_alloc|"
    r"posix_memalign|asprintf|v?sprintf|strcpy|strcat|atoi|atol|atoll)\s*\("
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT_OR_STRING = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)


def wrong_includes(name: str, text: str) -> list[str]:
    """`name` is the path below csrc, as core/put.c."""
    layer = name.split("/")[0]
    problems = []
    for quote, header in INCLUDE.findall(text):
        for pattern, owner in OWNERS.items():
            if re.match(pattern, header) and not re.fullmatch(owner, name):
                problems.append(f"{name}: <{header}> belongs to {owner}")
        if quote == '"' and "/" in header:
            allowed = (f"{layer}/", *ALLOWED[layer])
            if not any(
                header == a or (a.endswith("/") and header.startswith(a)) for a in allowed
            ):
                problems.append(f'{name}: "{header}" is not below {layer}/')
    return problems


def forbidden_calls(name: str, text: str) -> list[str]:
    if name == "core/mem.c":
        return []
    code = COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    return [
        f"{name}:{code.count(chr(10), 0, hit.start()) + 1}: {hit.group(1)}()"
        for hit in FORBIDDEN_CALL.finditer(code)
    ]


def sources() -> dict[str, str]:
    files = sorted([*ROOT.glob("csrc/*/*.c"), *ROOT.glob("csrc/*/*.h")])
    return {str(f.relative_to(ROOT / "csrc")): f.read_text(encoding="utf-8") for f in files}


def test_dependencies_point_downwards() -> None:
    found = sources()
    assert {name.split("/")[0] for name in found} <= set(ALLOWED), "an unknown layer in csrc/"
    assert len(found) > 10
    assert [
        problem for name, text in found.items() for problem in wrong_includes(name, text)
    ] == []


def test_allocation_and_string_functions_stay_in_mem() -> None:
    found = sources()
    assert [call for name, text in found.items() for call in forbidden_calls(name, text)] == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("core/put.c", '#include "backends/open.h"'),
        ("core/put.c", '#include "formats/crc.h"'),
        ("formats/crc.c", '#include "core/put.h"'),
        ("formats/crc.c", '#include "backends/s3.h"'),
        ("backends/s3.c", "#include <curl/curl.h>"),
        ("backends/s3.c", "# include <openssl/hmac.h>"),
        ("backends/http.h", "#include <curl/curl.h>"),
        ("backends/s3.c", "#include <libxml/parser.h>"),
        ("formats/zip_read.c", "#include <isa-l/crc.h>"),
        ("bind/capi.c", "#include <isa-l.h>"),
        ("bind/inflate.c", "#include <zstd.h>"),
        ("core/mem.c", "#include <Python.h>"),
        ("bind/np_module.c", '#include "backends/http.h"'),
    ],
)
def test_a_wrong_include_is_caught(name: str, line: str) -> None:
    assert len(wrong_includes(name, f"/* x */\n{line}\n")) == 1


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("core/put.c", '#include "core/pool.h"'),
        ("formats/zip.c", '#include "core/mem.h"'),
        ("backends/s3_checksum.c", '#include "formats/crc.h"'),
        ("backends/http_curl.c", "#include <curl/curl.h>"),
        ("backends/auth_sigv4.c", "#include <openssl/hmac.h>"),
        ("formats/crc.c", "#include <isa-l/crc.h>"),
        ("bind/np_module.c", '#include "backends/open.h"'),
    ],
)
def test_a_right_include_passes(name: str, line: str) -> None:
    assert wrong_includes(name, line) == []


def test_forbidden_calls_are_told_from_words() -> None:
    assert forbidden_calls("core/x.c", "int a;\n  p = malloc (4); free(p);") == [
        "core/x.c:2: malloc()",
        "core/x.c:2: free()",
    ]
    assert forbidden_calls("core/mem.c", "free(p);") == []
    for text in ("s3d_free(p)", "v->free(p)", "/* free(p) */", '"atoi(x)"', "// strcpy(a)"):
        assert forbidden_calls("core/x.c", text) == []


@pytest.mark.parametrize("package", ["s3dlio_np", "s3dlio_torch"])
def test_a_library_exports_its_init_function_only(package: str) -> None:
    libraries = list((ROOT / package).glob("_native*.so"))
    if not libraries:
        if os.environ.get("CI"):
            pytest.fail(f"{package}._native is not built")
        pytest.skip(f"{package}._native IS NOT BUILT: run make")
    for library in libraries:
        table = subprocess.run(
            ["nm", "-D", "--defined-only", str(library)],
            check=True,
            capture_output=True,
            text=True,
        )
        names = [line.split()[-1] for line in table.stdout.splitlines()]
        if any(name.startswith(("__asan", "__tsan", "__odr_asan")) for name in names):
            pytest.skip(f"{library.name} is a sanitizer build")
        assert names == ["PyInit__native"]


def test_the_version_is_in_one_place() -> None:
    line = (ROOT / "s3dlio_np" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', line, re.MULTILINE)
    assert match is not None
    assert version("s3dlio-native") == match.group(1)
    copies = [
        name
        for name in ("setup.py", "pyproject.toml", "tests/c/Makefile")
        if f'"{match.group(1)}"' in (ROOT / name).read_text(encoding="utf-8")
    ]
    assert copies == []
