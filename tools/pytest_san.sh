#!/bin/bash
# The Python suites that drive the engine, with its extensions built for a sanitizer:
#   tools/pytest_san.sh asan|tsan [pytest arguments]
# In a copy of the tree under build/, so that the extensions in the tree stay as they are. The
# interpreter is not instrumented: the sanitizer's library is preloaded, and what it says about our
# code is what counts (any report ends the process, and so fails the test).
set -euo pipefail
cd "$(dirname "$0")/.."
san=${1:?asan or tsan}
shift
python=$PWD/.venv/bin/python
copy=$PWD/build/$san-tree
case $san in
asan)
    library=$(gcc -print-file-name=libasan.so)
    # Leaks: the interpreter's own would drown ours, which the C tests look for.
    export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1:log_path=$copy/report
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1:log_path=$copy/report PYTHONMALLOC=malloc
    ;;
tsan)
    library=$(gcc -print-file-name=libtsan.so)
    export TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1 log_path=$copy/report"
    ;;
*) echo "tools/pytest_san.sh asan|tsan" >&2; exit 2 ;;
esac
mkdir -p "$copy"
rm -f "$copy"/report.*
tar -c --exclude='./build' --exclude='./.*' --exclude='__pycache__' --exclude='*.so' . | tar -x -C "$copy"
cd "$copy"
S3D_BUILD=$san "$python" setup.py -q build_ext --inplace
[ $# != 0 ] || set -- tests/np/test_faults.py tests/np/test_streams_api.py tests/np/test_safetensors.py \
    tests/np/test_arrays_save.py tests/np/test_zstd.py tests/np/test_threads.py
make -s -C tests/servers/s3server SAN= BUILD="$copy/tests/servers/s3server/build"
status=0
S3D_CEPH=0 S3D_MOTO=0 PYTHONPATH=$copy LD_PRELOAD=$library "$python" -m pytest -q -p no:cacheprovider "$@" ||
    status=$?
# Into files: pytest would swallow what a process says while it dies.
for report in "$copy"/report.*; do
    [ ! -e "$report" ] || { cat "$report"; status=1; }
done
exit "$status"
