# The environment is built once, from hash-checked pins, by uv (itself installed by pip); later calls reuse it.
PYTHON ?= python3
BIN := .venv/bin
export UV_COMPILE_BYTECODE := 1

.PHONY: help demo test faults regression check audit lock clean

help:
	@echo "make demo    teacher, baselines and five distillation methods x two seeds on procedural images; table and report (no download)"
	@echo "make test    run the test suite"
	@echo "make faults  the tests of damage, strange inputs, lost and several processes at many more places; minutes"
	@echo "make regression  train every method on procedural images, five seeds, and compare with the committed table; an hour"
	@echo "make check   ruff, mypy, and the audit, where it can be made"
	@echo "make audit   ask the database of advisories about every pinned package; exit code 3: not audited"
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
	KD_FAULTS=1 $(BIN)/python -m pytest -n 2 tests/test_damage.py tests/test_full_disk.py tests/test_mishaps.py tests/test_method_runs.py tests/test_kills.py tests/test_faults.py tests/test_sweep_run.py::test_killed_and_finished tests/test_slurm.py tests/test_fuzz_words.py tests/test_fuzz_files.py

# A sweep skips what is finished; other code is another folder.
REGRESSION ?= runs/regression/$(shell git describe --always --dirty 2>/dev/null || echo here)
regression: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/kd sweep regression --jobs 2 --output $(REGRESSION)
	$(BIN)/python tests/check_regression.py $(REGRESSION) recipes/shapes/results/regression.json $(UPDATE)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory audit IF_UNAUDITED=0

# pip-audit lives in an environment of its own, made when it is first asked for, so that its packages are nobody else's.
.venv/audit/ready: requirements-audit.lock .venv/ready
	$(PYTHON) -m venv .venv/audit
	$(BIN)/uv pip install --quiet --require-hashes --python .venv/audit/bin/python -r requirements-audit.lock
	@touch $@

IF_UNAUDITED ?= 3
audit: .venv/audit/ready
	@$(BIN)/python tests/check_advisories.py .venv/audit/bin/pip-audit requirements*.lock; code=$$?; \
	  [ $$code -ne 3 ] || code=$(IF_UNAUDITED); exit $$code

lock: .venv/ready
	$(BIN)/uv pip compile setup.py --extra dev --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file requirements.lock
	echo "pip-audit>=2.10" | $(BIN)/uv pip compile - --universal --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url --output-file requirements-audit.lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
