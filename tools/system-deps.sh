#!/bin/bash
# Sees to the compiler and the system libraries. As root with apt-get it installs what is missing;
# otherwise it prints the one line to run and exits 1. Does nothing when nothing is missing.
#   [PYTHON=python3] bash tools/system-deps.sh [fuzz | analyze | valgrind]   and what that target needs besides
set -euo pipefail
python=${PYTHON:-python3}
missing=()
need() { missing+=("$@"); }

command -v cc > /dev/null && command -v gcc > /dev/null && command -v make > /dev/null || need build-essential
command -v pkg-config > /dev/null || need pkg-config
has() { command -v pkg-config > /dev/null && pkg-config --exists "$1"; }
has libcurl || need libcurl4-openssl-dev
has openssl || need libssl-dev
has libxml-2.0 || need libxml2-dev
has libisal || need libisal-dev
has libzstd || need libzstd-dev
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ ! -e /etc/debian_version ] || need ca-certificates

if command -v "$python" > /dev/null; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "$("$python" --version) is too old: 3.10 or newer is needed (make PYTHON=...)" >&2; exit 1; }
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -e "$header" ] || need python3-dev
    "$python" -c 'import venv, ensurepip' 2> /dev/null || need python3-venv
elif [ "$python" = python3 ]; then
    need python3 python3-dev python3-venv
else
    echo "PYTHON=$python: no such program" >&2
    exit 1
fi

case ${1:-} in
'') ;;
fuzz)
    echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
        clang -fsanitize=fuzzer,address,undefined -x c -o /dev/null - 2> /dev/null || need clang libclang-rt-dev
    ;;
analyze)
    command -v clang-tidy > /dev/null || need clang-tidy
    command -v cppcheck > /dev/null || need cppcheck
    ;;
valgrind)
    command -v valgrind > /dev/null || need valgrind
    ;;
*) echo "usage: tools/system-deps.sh [fuzz | analyze | valgrind]" >&2; exit 2 ;;
esac

[ ${#missing[@]} -eq 0 ] && exit 0
line="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    printf 'System packages are missing. Run this once, then make again:\n    sudo %s\n' "$line" >&2
    exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ apt-get update -q && $line; } > "$log" 2>&1 < /dev/null || { tail -n 30 "$log" >&2; exit 1; }
