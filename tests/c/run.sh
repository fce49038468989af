#!/bin/bash
# Runs one C test, under the command in S3D_RUNNER if there is one: "ok", or what it said and "FAILED".
program=$1
name=$(basename "$program")
status=0
# shellcheck disable=SC2086 - a command and its options
timeout -k 5 "${S3D_CTEST_TIMEOUT_S:-180}" ${S3D_RUNNER:-} "$program" > "$program.log" 2>&1 < /dev/null || status=$?
if [ "$status" = 0 ]; then
    echo "ok      $name"
else
    # At once: others may run beside it.
    printf '%s\n' "$(tail -n 60 "$program.log")
FAILED  $name (exit $status; 124 is a time-out)"
fi
