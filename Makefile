# make demo    the whole agent at work on a playground of its own, in under a minute
# make test    all tests
# make check   style, types and the import contracts
# make bench   all measurements, beside Postfix where it is installed (BENCH="--quick": small, to try it)
# make fuzz    hostile dialogues with the listeners' conversation, for FUZZ=60 seconds or as many as you say
# make man     write the manual pages anew from the commands and settings
# make clean   remove what these commands made
#
# Everything is set up in .venv by the first of these; python3 (3.11 or newer) with venv is all that is needed.

PYTHON ?= python3
FUZZ   ?= 60
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.complete
JOBS   ?= auto

.PHONY: demo test check bench fuzz man clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/python -m deliveryagent.lab.demo

test: $(STAMP)
	@$(BIN)/python -m pytest -q -n $(JOBS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy man/*.py
	$(BIN)/lint-imports

bench: $(STAMP)
	@$(BIN)/python -m benchmarks $(BENCH)

fuzz: $(STAMP)
	@$(BIN)/python -m tests.fuzz.listener $(FUZZ)

man: $(STAMP)
	@$(BIN)/python man/write.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@sh .ci/set-up "$(PYTHON)" "$(VENV)"
	@touch $@
