"""Builds the two C extensions; everything declarative is in pyproject.toml.

s3dlio_np._native    the engine and its NumPy face: libcurl, OpenSSL, libxml2, never torch.
s3dlio_torch._native libtorch's C ABI through our own prototypes: no torch header is compiled,
                     torch is never imported here, only its libraries are linked. Left out,
                     loudly, where no torch is installed.

S3D_BUILD=release|debug|asan|tsan picks the flags (tools/flags.mk), S3D_WERROR=1 adds -Werror.
Both go through setuptools' own build_ext: torch's BuildExtension would either send .c files to
g++ (with ninja) or add nothing that plain C needs (without).
"""

from __future__ import annotations

import filecmp
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

BUILDS = ("release", "debug", "asan", "tsan")


def read_flags() -> dict[str, list[str]]:
    """tools/flags.mk as {name: words}."""
    lines = Path("tools/flags.mk").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.split() for name, value in pairs}


def build_kind() -> str:
    kind = os.environ.get("S3D_BUILD") or "release"
    if kind not in BUILDS:
        sys.exit(f"S3D_BUILD={kind!r}: expected one of {', '.join(BUILDS)}")
    return kind


def pkg_config(option: str, packages: list[str]) -> list[str]:
    program = os.environ.get("PKG_CONFIG", "pkg-config")
    try:
        done = subprocess.run(
            [program, option, *packages], check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        sys.exit(f"{program} not found. Run: bash tools/system-deps.sh")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{failed.stderr.strip()}\nLibraries missing. Run: bash tools/system-deps.sh")
    return done.stdout.split()


def system_includes(flags: list[str]) -> list[str]:
    """-I as -isystem, so that our warnings judge our code only."""
    return [f"-isystem{flag[2:]}" if flag.startswith("-I") else flag for flag in flags]


def torch_library_folder() -> Path | None:
    """Where libtorch_cpu.so lies, without importing torch.

    Under pip's build isolation sys.path hides the environment's own packages, and they are what
    the extension will run with: so look in this interpreter's site-packages as well.
    """
    roots = [Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))]
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        roots.insert(0, Path(spec.submodule_search_locations[0]).parent)
    for root in roots:
        if (root / "torch" / "lib" / "libtorch_cpu.so").exists():
            return root / "torch" / "lib"
    return None


def notice(text: str) -> None:
    bar = "!" * 78
    print(f"{bar}\n! {text}\n{bar}", file=sys.stderr, flush=True)


def extensions() -> list[Extension]:
    flags, kind = read_flags(), build_kind()
    compile_args = [
        *system_includes([f"-I{sysconfig.get_path('include')}"]),
        *flags["STANDARD"],
        *flags["WARNINGS"],
        *flags[f"CFLAGS_{kind}"],
    ]
    if os.environ.get("S3D_WERROR") == "1":
        compile_args.append("-Werror")
    link_args = [
        "-pthread",
        "-Wl,--version-script=tools/exports.map",
        *flags[f"LDFLAGS_{kind}"],
    ]

    bind = sorted(glob("csrc/bind/*.c"))
    torch_sources = [name for name in bind if Path(name).name.startswith("torch_")]
    native_sources = [name for name in bind if name not in torch_sources]
    for layer in ("core", "formats", "backends"):
        native_sources += sorted(glob(f"csrc/{layer}/*.c"))
    if "csrc/bind/np_module.c" not in native_sources:
        sys.exit("csrc/bind/np_module.c is missing: this is not a complete source tree")

    native = Extension(
        "s3dlio_np._native",
        native_sources,
        include_dirs=["csrc"],
        extra_compile_args=[
            *compile_args,
            *system_includes(pkg_config("--cflags", flags["PACKAGES"])),
        ],
        extra_link_args=[*link_args, *pkg_config("--libs", flags["PACKAGES"])],
    )
    library_folder = torch_library_folder()
    if library_folder is None or not torch_sources:
        why = "torch is not installed" if torch_sources else "csrc/bind/torch_*.c is missing"
        notice(f"{why}: building s3dlio_np only, s3dlio_torch._native is LEFT OUT.")
        return [native]
    return [
        native,
        Extension(
            "s3dlio_torch._native",
            torch_sources,
            include_dirs=["csrc"],
            # No run path: s3dlio_torch imports torch first, whose libraries are then loaded.
            library_dirs=[str(library_folder)],
            libraries=["torch_cpu", "c10"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        ),
    ]


class CleanBuild(build):
    """Starts from an empty build/lib*: a wheel would ship what an earlier build left there."""

    def run(self) -> None:
        if Path(self.build_lib).resolve().is_relative_to(Path("build").resolve()):
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class IncrementalBuildExt(build_ext):
    """Compiles in parallel, and only the sources whose text, headers or flags changed."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # One object folder per kind, pip's builds included: each source is compiled once.
        self.build_temp = f"build/ext-{build_kind()}-{sys.implementation.cache_tag}"

    def build_extension(self, ext: Extension) -> None:
        version = self.distribution.get_version()
        ext.define_macros = [*ext.define_macros, ("S3D_VERSION", f'"{version}"')]
        objects = self.compile_objects(ext)
        self.compiler.force = True  # linking is cheap, and its flags may have changed
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects,
            target,
            libraries=self.get_libraries(ext),
            library_dirs=ext.library_dirs,
            extra_postargs=ext.extra_link_args,
            build_temp=self.build_temp,
            target_lang="c",
        )

    def compile_objects(self, ext: Extension) -> list[str]:
        compiler = self.compiler
        macros, objects, post_args, pp_args, plan = compiler._setup_compile(
            str(Path(self.build_temp) / ext.name),
            ext.define_macros,
            ext.include_dirs,
            ext.sources,
            [],
            ext.extra_compile_args,
        )
        cc_args = compiler._get_cc_args(pp_args, self.debug, None)

        def compile_one(name: str) -> None:
            source, suffix = plan[name]
            command = "\n".join([*compiler.compiler_so, *cc_args, source, *post_args])
            if is_fresh(Path(name), command):
                return
            # Its time, from before the compiler reads anything, is what the next build sees.
            started = Path(f"{name}.cmd.new")
            started.parent.mkdir(parents=True, exist_ok=True)
            started.write_text(command, encoding="utf-8")
            args = [*post_args, "-MMD", "-MF", f"{name}.d"]
            try:
                compiler._compile(name, source, suffix, cc_args, args, pp_args)
            except CompileError:  # its text is the whole command line
                raise CompileError(f"{source} does not compile: see above") from None
            started.rename(f"{name}.cmd")

        with ThreadPoolExecutor(self.parallel or os.cpu_count() or 1) as pool:
            for _ in pool.map(compile_one, objects):
                pass
        return objects

    def copy_file(
        self, infile: str, outfile: str, *_: object, **__: object
    ) -> tuple[str, bool]:
        """The copy into the tree: only of what changed, and never under a running process."""
        if Path(outfile).exists() and filecmp.cmp(infile, outfile, shallow=False):
            return outfile, False
        shutil.copy2(infile, f"{outfile}.new")
        os.replace(f"{outfile}.new", outfile)
        return outfile, True


def is_fresh(target: Path, command: str) -> bool:
    """True if `target` was made by the same command, and no source or header changed since."""
    dependencies, stamp = Path(f"{target}.d"), Path(f"{target}.cmd")
    if not (target.exists() and dependencies.exists() and stamp.exists()):
        return False
    if stamp.read_text(encoding="utf-8") != command:
        return False
    words = dependencies.read_text(encoding="utf-8").replace("\\\n", " ").split()
    inputs = [Path(word) for word in words[1:]]
    made = stamp.stat().st_mtime_ns
    return all(path.exists() and path.stat().st_mtime_ns < made for path in inputs)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent)
    setup(
        ext_modules=extensions(),
        cmdclass={"build": CleanBuild, "build_ext": IncrementalBuildExt},
    )
