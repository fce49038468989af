#!/bin/bash
# The Python suites that drive the engine, with its extensions built for a sanitizer:
#   tools/pytest_san.sh asan|tsan [pytest arguments]
# In a copy of the tree under build/, so that the extensions in the tree stay as they are. The
# interpreter is not instrumented: the sanitizer's library is preloaded, and what it says about our
# code is what counts (any report ends the process, and so fails the test). ThreadSanitizer sees the
# mutexes of libraries that are not instrumented, the GIL's among them, and nothing else of theirs.
# At the end bugs are planted in a second copy, and the run fails unless the sanitizer finds them.
set -euo pipefail
cd "$(dirname "$0")/.."
san=${1:?asan or tsan}
shift
python=$PWD/.venv/bin/python
copy=$PWD/build/$san-tree
planted=$PWD/build/$san-planted
case $san in
asan)
    # With C++'s before torch: the sanitizer looks up what throws exceptions when it starts.
    library="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)"
    # Leaks: the interpreter's own would drown ours, which the C tests look for.
    options="detect_leaks=0 handle_segv=0 allocator_may_return_null=1"
    suites=(tests/np/test_oom.py tests/torch/test_oom.py tests/np/test_faults.py
        tests/np/test_streams_api.py tests/np/test_safetensors.py tests/np/test_arrays_save.py
        tests/np/test_zstd.py tests/np/test_threads.py)
    export PYTHONMALLOC=malloc
    ;;
tsan)
    library=$(gcc -print-file-name=libtsan.so)
    options="halt_on_error=1 ignore_noninstrumented_modules=1"
    suites=(tests/np/test_threads.py tests/np/test_faults.py tests/np/test_streams_api.py
        tests/np/test_stragglers.py tests/np/test_pressure.py tests/np/test_credentials.py
        # It does not survive new threads in the child of a process with threads.
        -k "not test_fork")
    ;;
*) echo "tools/pytest_san.sh asan|tsan" >&2; exit 2 ;;
esac
[ $# != 0 ] || set -- "${suites[@]}"

copy_tree() { # folder
    mkdir -p "$1"
    rm -f "$1"/report.*
    tar -c --exclude='./build' --exclude='./.*' --exclude='__pycache__' --exclude='*.so' . | tar -x -C "$1"
}

# Builds what is in the folder and runs pytest there. pytest would swallow what a process says while it
# dies: so reports go into files, and UBSan's, which GCC's library writes to stderr, are not captured.
run_tests() { # folder, pytest arguments
    local folder=$1
    shift
    (
        cd "$folder"
        S3D_BUILD=$san "$python" setup.py -q build_ext --inplace
        make -s -C tests/servers/s3server SAN= BUILD="$folder/tests/servers/s3server/build"
        export ASAN_OPTIONS="$options log_path=$folder/report" TSAN_OPTIONS="$options log_path=$folder/report" \
            UBSAN_OPTIONS="print_stacktrace=1 halt_on_error=1"
        S3D_SANITIZED=1 S3D_OOM=1 S3D_CEPH=0 S3D_MOTO=0 PYTHONPATH=$folder LD_PRELOAD=$library \
            "$python" -m pytest -q -p no:cacheprovider --capture=sys "$@"
    )
}

# Every engine copies strings on all its threads: a line there runs in any test.
prove() { # what is to be reported, the line of C
    local status=0
    copy_tree "$planted"
    sed -i "s/^        memcpy(copy, text, bytes);\$/&\n        $2/" "$planted/csrc/core/mem.c"
    grep -qF "$2" "$planted/csrc/core/mem.c" || { echo "the bug cannot be planted any more" >&2; exit 1; }
    run_tests "$planted" tests/np/test_threads.py -k "different_objects and file" > "$planted/log" 2>&1 || status=$?
    if [ "$status" = 0 ] || ! grep -q "$1" "$planted"/log "$planted"/report.* 2> /dev/null; then
        tail -n 30 "$planted/log"
        echo "$san did not report the planted bug: $1 (pytest ended with $status)" >&2
        exit 1
    fi
    echo "found when planted: $1"
}

status=0
copy_tree "$copy"
run_tests "$copy" "$@" || status=$?
for report in "$copy"/report.*; do
    [ ! -e "$report" ] || { cat "$report"; status=1; }
done
[ "$status" = 0 ] || exit "$status"

mkdir -p "$planted"
[ -e "$planted/build" ] || cp -a "$copy/build" "$planted/"
if [ $san = asan ]; then
    prove heap-buffer-overflow 'copy[bytes] = 0;'
    prove 'signed integer overflow' 'volatile int most = 2147483647; most += (int)bytes;'
else
    prove 'data race' 'static unsigned long copies; copies++;'
fi
