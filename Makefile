# The environment is built once, from hash-checked pins, by uv (itself installed by pip); later calls reuse it.
PYTHON ?= python3
BIN := .venv/bin
export UV_COMPILE_BYTECODE := 1

.PHONY: help demo test faults check lock clean

help:
	@echo "make demo    teacher, baselines and five distillation methods x two seeds on procedural images; table and report (no download)"
	@echo "make test    run the test suite"
	@echo "make faults  the tests of damage, strange inputs and lost processes at many more places; minutes"
	@echo "make check   ruff and mypy"
	@echo "make lock    resolve the dependencies anew into requirements.lock"
	@echo "make clean   remove the environment and caches (never runs/)"

.venv: .venv/ready

.venv/ready: requirements.lock setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: -r requirements-uv.lock
	$(BIN)/uv pip install --quiet --require-hashes --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	@touch $@

demo: .venv/ready
	$(BIN)/python tools/demo.py

test: .venv/ready
	$(BIN)/python -m pytest -n 2

faults: .venv/ready
	KD_FAULTS=1 $(BIN)/python -m pytest -n 2 tests/test_damage.py tests/test_full_disk.py tests/test_mishaps.py tests/test_fuzz_words.py tests/test_fuzz_files.py

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/ready
	$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file requirements.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
