# make            set-up (once) and both extensions          make demo   the main job, end to end
# make test       C tests (plain and ASan+UBSan), then pytest   make ctest  C tests of one S3D_BUILD
# make test SAN=asan|tsan|valgrind   only the C tests, with that sanitizer
# make pytest SAN=asan|tsan   Python tests that drive the engine, with that sanitizer (tools/pytest_san.sh)
# make soak [SOAK_ARGS="--minutes 10"]   mixed work while one request in twenty fails
# make interop    tests with pandas, pyarrow, h5py, Pillow, joblib, JAX, Keras, flax, TensorFlow (2.5 GB, once)
# make fuzz [FUZZ_S=300] [FUZZ="uri xml"]   every fuzz target for so many seconds, with clang
# make analyze    gcc -fanalyzer, cppcheck and clang-tidy over the engine (tools/analyze.suppress)
# make bench [BENCH_ARGS=…]  make lint  make format  make wheel  make clean  make distclean
# Variables: PYTHON (3.10+ with headers), S3D_BUILD=release|debug|asan|tsan, S3D_WERROR=1,
#            S3D_CEPH / S3D_MOTO = 1 demands that server's tests, 0 leaves them out, PYTEST_ARGS,
#            PYTEST_JOBS=4: test files at a time (0: in this process),
#            S3D_TLS=1: everything on the project's own server goes over https.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
S3D_BUILD ?= release
S3D_WERROR ?= 0
BENCH_ARGS ?=
PYTEST_ARGS ?=
# Most tests wait for something, as for a server that hangs: more of them at a time than cores.
PYTEST_JOBS ?= 4
export PYTHON S3D_BUILD S3D_WERROR

PY := .venv/bin/python
INTEROP_PY := .venv-interop/bin/python
STAMPS := build/stamps
FLAVOUR := $(S3D_BUILD)-werror$(S3D_WERROR)
C_TREE := $(wildcard csrc csrc/* csrc/*/*.[ch])
C_FORMATTED = $(wildcard csrc/*/*.[ch] tests/c/*.[ch] tests/fuzz/*.[ch] tests/servers/s3server/*.[ch])

.PHONY: build demo test ctest pytest soak interop fuzz bench analyze lint format wheel clean distclean s3server FORCE
build: $(STAMPS)/editable

# --- set-up, each step once -------------------------------------------------------------------
$(STAMPS)/system: tools/system-deps.sh
	@bash tools/system-deps.sh
	@mkdir -p $(@D) && touch $@

.venv/.installed: tools/requirements-dev.txt | $(STAMPS)/system
	@[ -x $(PY) ] || { echo "creating .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing tools/requirements-dev.txt into .venv (a few minutes, once)"
	@$(PY) -m pip install -qq --disable-pip-version-check -r tools/requirements-dev.txt
	@touch $@

# Needs no torch, and a botocore that .venv does not have.
.venv-interop/.installed: tools/requirements-interop.txt | $(STAMPS)/system
	@[ -x $(INTEROP_PY) ] || { echo "creating .venv-interop"; $(PYTHON) -m venv .venv-interop; }
	@echo "installing tools/requirements-interop.txt into .venv-interop (a few minutes, once)"
	@$(INTEROP_PY) -m pip install -qq --disable-pip-version-check -r tools/requirements-interop.txt
	@touch $@

# The extensions lie in the tree; the stamp holds the flavour they were built with.
ifneq ($(FLAVOUR),$(shell cat $(STAMPS)/extensions 2>/dev/null))
$(STAMPS)/extensions: FORCE
endif
$(STAMPS)/extensions: setup.py pyproject.toml tools/flags.mk tools/exports.map $(C_TREE) .venv/.installed
	@echo "building the extensions ($(FLAVOUR))"
	@mkdir -p $(@D) && echo $(FLAVOUR) > $@.new
	@$(PY) setup.py -q build_ext --inplace
	@mv $@.new $@  # with the time at which the build began: what was edited meanwhile counts as changed

$(STAMPS)/editable: setup.py pyproject.toml s3dlio_np/_version.py .venv/.installed | $(STAMPS)/extensions
	@$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

PYTEST = $(PY) -m pytest -n $(PYTEST_JOBS) --dist loadfile

# --- what people run --------------------------------------------------------------------------
demo: build s3server
	@$(PY) examples/demo.py

s3server: $(STAMPS)/system
	@$(MAKE) -s -C tests/servers/s3server SAN= BUILD="$(CURDIR)/tests/servers/s3server/build"

C_TESTS = S3D_TEST_SERVER="$(CURDIR)/tests/servers/s3server/build/s3server" $(MAKE) -s -j$(shell nproc) -f tests/c/Makefile
ctest: $(STAMPS)/system s3server
	@$(C_TESTS) S3D_BUILD=$(S3D_BUILD) run

ifdef SAN
test: $(STAMPS)/system $(if $(filter valgrind,$(SAN)),$(STAMPS)/system-valgrind) s3server
	@$(C_TESTS) S3D_BUILD=$(SAN) run
else
test: build s3server
	@$(C_TESTS) S3D_BUILD=$(S3D_BUILD) run
	@$(C_TESTS) S3D_BUILD=asan run
	@$(PYTEST) $(PYTEST_ARGS)
endif

ifdef SAN
pytest: build s3server
	@bash tools/pytest_san.sh $(SAN) $(PYTEST_ARGS)
else
pytest: build s3server
	@$(PYTEST) $(PYTEST_ARGS)
endif

soak: build s3server
	@$(PY) benchmarks/soak.py $(SOAK_ARGS)

# Clang and the like are needed for one target each, so that only those who run it install them.
$(STAMPS)/system-%: tools/system-deps.sh
	@bash tools/system-deps.sh $*
	@mkdir -p $(@D) && touch $@

analyze: $(STAMPS)/system $(STAMPS)/system-analyze
	@$(PYTHON) tools/analyze.py

fuzz: $(STAMPS)/system $(STAMPS)/system-fuzz
	@$(MAKE) -s -j$(shell nproc) -f tests/fuzz/Makefile run

interop: build s3server .venv-interop/.installed
	@PYTHONPATH="$(CURDIR)" $(INTEROP_PY) -m pytest tests/interop $(PYTEST_ARGS)

# The peers of bench_numpy.py are in .venv-interop.
bench: build s3server .venv-interop/.installed
	@for script in benchmarks/bench_*.py; do \
	    [ -e "$$script" ] || { echo "no benchmarks/bench_*.py" >&2; exit 1; }; \
	    python=$(PY); [ "$$script" != benchmarks/bench_numpy.py ] || python=$(INTEROP_PY); \
	    echo "== $$script"; $$python "$$script" $(BENCH_ARGS); \
	done

lint: build
	@.venv/bin/ruff check -q --output-format concise .
	@.venv/bin/mypy --strict s3dlio_np s3dlio_torch
	@.venv/bin/clang-format --dry-run -Werror $(C_FORMATTED) || { echo "make format mends that" >&2; exit 1; }

format: .venv/.installed
	@.venv/bin/clang-format -i $(C_FORMATTED)
	@.venv/bin/ruff check --fix .

wheel: build
	@rm -rf build/wheel && $(PY) -m pip wheel -qq --disable-pip-version-check --no-build-isolation --no-deps -w build/wheel .
	@ls build/wheel/*.whl

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	rm -rf tests/servers/s3server/build tests/servers/s3server/build-*
	rm -f s3dlio_np/*.so s3dlio_torch/*.so
	find s3dlio_np s3dlio_torch tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf .venv .venv-interop
