#!/usr/bin/env python3
"""Static analysis of the engine: gcc -fanalyzer, cppcheck and clang-tidy over csrc, bind/ left out.

    python3 tools/analyze.py [FILE.c ...]      from the top of the tree; needs no virtual environment

Every finding is printed and fails the run, unless tools/analyze.suppress answers it. A line there
that answers nothing any more fails the run of all files, too.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPRESS = ROOT / "tools" / "analyze.suppress"
FOLDERS = ("core", "formats", "backends")  # bind/ is Python.h's macros, which no analyzer follows
FINDING = re.compile(
    r"(?P<path>[^\s:][^:]*):(?P<line>\d+):\d+: (?P<level>\w+): (?P<text>.*) \[(?P<check>[\w.,=-]+)\]$"
)


@dataclass(frozen=True)
class Finding:
    check: str
    path: str
    line: int
    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text} [{self.check}]\n    {self.source}"


@dataclass
class Answer:
    """A line of analyze.suppress: the check, the file, and a piece of the source line."""

    number: int
    check: str
    path: str
    piece: str
    used: bool = field(default=False)

    def fits(self, finding: Finding) -> bool:
        return (
            self.check in finding.check.split(",")
            and self.path == finding.path
            and self.piece in finding.source
        )


def settings() -> dict[str, str]:
    lines = (ROOT / "tools" / "flags.mk").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" = ", 1) for line in lines if " = " in line and line[0] != "#"]
    return dict(pairs)


def compiler_flags(known: dict[str, str]) -> list[str]:
    """What a file of the engine is compiled with; others' headers are system headers."""
    packages = known["PACKAGES"].split()
    found = subprocess.run(
        ["pkg-config", "--cflags", *packages], check=True, capture_output=True, text=True
    )
    foreign = [flag.replace("-I", "-isystem", 1) for flag in shlex.split(found.stdout)]
    return [*shlex.split(known["STANDARD"]), '-DS3D_VERSION="0"', "-Icsrc", *foreign]


def commands(files: list[str]) -> Iterator[list[str]]:
    known = settings()
    flags = compiler_flags(known)
    warnings = shlex.split(known["WARNINGS"])
    for file in files:
        yield ["gcc", *flags, *warnings, "-O1", "-fanalyzer", "-fdiagnostics-plain-output",
               "-c", "-o", os.devnull, file]  # fmt: skip
        yield ["clang-tidy", "--quiet", "--config-file=tools/clang-tidy.yaml", file, "--", *flags]
    yield ["cppcheck", "--quiet", "--enable=warning,style,performance,portability",
           "--template={file}:{line}:{column}: {severity}: {message} [{id}]", "--template-location=",
           "--library=posix", "--library=gnu", "--std=c11", "--force", "-Icsrc",
           '-DS3D_VERSION="0"', *files]  # fmt: skip


def source_line(path: str, number: int) -> str:
    try:
        return (ROOT / path).read_text(encoding="utf-8").splitlines()[number - 1].strip()
    except (OSError, IndexError):
        return ""


def run(command: list[str]) -> list[Finding]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    hits = [hit for line in output.splitlines() if (hit := FINDING.match(line))]
    findings = [
        Finding(
            re.sub(r"^-W(analyzer-)?|\s|CWE-\d+", "", hit["check"]) or "unnamed",
            path := os.path.relpath(ROOT / hit["path"], ROOT),
            int(hit["line"]),
            hit["text"],
            source_line(path, int(hit["line"])),
        )
        for hit in hits
        if hit["level"] != "note"
    ]
    if done.returncode != 0 and not findings:
        raise SystemExit(f"{shlex.join(command)}\n{output}\nexit status {done.returncode}")
    return findings


def read_answers() -> list[Answer]:
    answers = []
    for number, line in enumerate(SUPPRESS.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            check, path, piece = line.split(None, 2)
            answers.append(Answer(number, check, path, piece.strip()))
    return answers


def unanswered(findings: Iterable[Finding], answers: list[Answer]) -> list[Finding]:
    left = []
    for finding in sorted(set(findings), key=lambda f: (f.path, f.line, f.check)):
        fitting = [answer for answer in answers if answer.fits(finding)]
        for answer in fitting:
            answer.used = True
        if not fitting:
            left.append(finding)
    return left


def main(chosen: list[str]) -> int:
    files = chosen or [
        str(file.relative_to(ROOT))
        for folder in FOLDERS
        for file in sorted((ROOT / "csrc" / folder).glob("*.c"))
    ]
    answers = read_answers()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = [finding for found in pool.map(run, commands(files)) for finding in found]
    left = unanswered(findings, answers)
    for finding in left:
        print(finding)
    stale = [] if chosen else [answer for answer in answers if not answer.used]
    for answer in stale:
        print(f"tools/analyze.suppress:{answer.number}: answers no finding any more: take it out")
    print(f"analyzers: {len(files)} files, {len(left)} findings, {len(answers)} lines of answers")
    return bool(left or stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
