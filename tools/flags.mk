# Compiler settings shared by setup.py and tests/c/Makefile: plain "NAME = value" lines, nothing else.
PACKAGES = libcurl openssl libxml-2.0 libisal libzstd
STANDARD = -std=gnu11 -D_GNU_SOURCE -fvisibility=hidden -pthread
WARNINGS = -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wwrite-strings -Wvla -Wformat=2 -Wswitch-enum
CFLAGS_release = -O2 -g
CFLAGS_debug = -DS3D_FAULTS -O0 -g3 -UNDEBUG
CFLAGS_asan = -DS3D_FAULTS -O1 -g -UNDEBUG -U_FORTIFY_SOURCE -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=all
CFLAGS_tsan = -DS3D_FAULTS -O1 -g -UNDEBUG -U_FORTIFY_SOURCE -fno-omit-frame-pointer -fsanitize=thread
# The C tests only.
CFLAGS_valgrind = -DS3D_VALGRIND -O1 -g -UNDEBUG -fno-omit-frame-pointer
LDFLAGS_release =
LDFLAGS_debug =
LDFLAGS_asan = -fsanitize=address,undefined
LDFLAGS_tsan = -fsanitize=thread
LDFLAGS_valgrind =
