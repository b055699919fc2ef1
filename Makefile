# One environment in .venv, made from requirements.lock (every file checked by its hash), shared by all targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.stamp

FROM ?= 100000
MINUTES ?= 30

.PHONY: demo test soak fuzz chaos bench lint types pytest venv lock clean

demo: venv                     ## Three servers, two agents, one leader killed, in about a minute
	$(BIN)/kago demo

test: lint types pytest        ## Everything CI runs

soak: venv                     ## The simulation, as many seeds as the time gives: make soak MINUTES=600 FROM=200000
	$(BIN)/python -m tests.simulation --minutes $(MINUTES) --from $(FROM) --density mixed --jobs 2

chaos: venv                    ## Real faults in real clusters: make chaos CHAOS="--faults kill-leader --rounds 20" (root)
	$(BIN)/python -m tests.chaos $(CHAOS)

bench: venv                    ## Speed, beside etcd and Swarm where they are: make bench BENCH="--only api --quick" (root for all of it)
	$(BIN)/python -m tests.benchmarks $(BENCH)

fuzz: venv                     ## Rubbish for every way in: make fuzz CASES=1000000 SEED=2 (a short form is in make test)
	$(BIN)/python -m tests.fuzz --cases $(or $(CASES),100000) --seed $(or $(SEED),1)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: venv
	$(BIN)/mypy

pytest: venv
	$(BIN)/pytest

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	PYTHON="$(PYTHON)" bash .ci/venv
	@touch $@

LOCK := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras

lock:                          ## Renew requirements.lock (everything) and deploy/requirements.lock (what a server needs)
	$(LOCK) --extra dev --extra jsonnet --output-file requirements.lock pyproject.toml
	$(LOCK) --extra build --constraint requirements.lock --output-file deploy/requirements.lock pyproject.toml

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
