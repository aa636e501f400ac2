# Two commands to begin with: `make compare` runs the main job, `make test` the tests. Both set up what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?= --vocab 50000 --d-model 1024

CALIBRATION := $(wildcard reports/h200/calibration*.json reports/h200/predicted/calibration*.json)
KERNELS := $(wildcard reports/h200/kernels*.json)
QUALITY := $(wildcard reports/h200/quality*.json)
LOSSES := $(wildcard reports/h200/losses*.json)
SWEEPS := $(wildcard reports/h200/sweep-*.json)
SWEPT := $(foreach what,seq decode,$(if $(filter reports/h200/sweep-$(what)%,$(SWEEPS)),$(what)))
ABLATIONS := $(wildcard reports/h200/ablation*.json)
RANKS := $(wildcard reports/h200/ranks*.json)
OTHERS := reports/h200/claims.json reports/h200/reliability.json $(CALIBRATION) $(KERNELS) $(QUALITY) $(LOSSES) $(SWEEPS) $(ABLATIONS) $(RANKS)
REPORTS := $(filter-out $(OTHERS),$(wildcard reports/h200/*.json))
BESIDE = $(patsubst %,--quality %,$(wildcard reports/h200/losses-$(1)*.json))
MEASURED := $(wildcard $(foreach size,ref large,reports/h200/$(size)-*.json))
COMPARED := $(wildcard $(foreach size,ref large,reports/h200/$(size)-*.json reports/h200/predicted/$(size)-*.json))
STREAMED := $(foreach file,$(wildcard reports/h200/predicted/streamed-*.json),$(subst predicted/,,$(file)) $(file))
SHARDED := $(wildcard reports/h200/sharded-*.json reports/h200/predicted/sharded-*.json)
FLOORS := $(wildcard reports/h200/ref-train-off.json reports/h200/ref-forward-backward-off.json reports/h200/ref-inference-last-off.json)
SHOWN := ref-train-off large-train-off ref-inference-last-off ref-forward-backward-off streamed-100b

.PHONY: help setup compare test lint format bench reports rendered docs clean

help:
	@echo "make compare   set up, then compare the models (ARGS='--vocab 10000 --d-model 512' changes the sizes)"
	@echo "make test      set up, then run the tests"
	@echo "make lint      set up, then ruff, mypy and import-linter"
	@echo "make reports   render reports/, the tables of the README and the list of commands anew"
	@echo "make docs      build the documentation into site/, every link checked"
	@echo "make format    format the code"
	@echo "make clean     remove the virtual environment and caches"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint,docs]'
	@touch $(STAMP)

compare: setup
	$(BIN)/muse-bench compare $(ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: setup
	$(BIN)/mkdocs build --strict --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/muse-bench compare --vocab 10000 --d-model 512 --layers 6 --seq 512 --batch 2

reports: setup rendered

# The rendering alone, by what BIN names.
rendered:
	$(foreach file,$(REPORTS),$(BIN)/muse-bench report $(file) --format csv --output $(file:.json=.md) > $(file:.json=.csv) &&) true
	$(BIN)/muse-bench accuracy $(COMPARED) --output reports/h200/prediction.md
	$(BIN)/muse-bench accuracy $(STREAMED) --output reports/h200/prediction-streamed.md
	$(BIN)/muse-bench accuracy $(SHARDED) --output reports/h200/prediction-sharded.md
	$(BIN)/muse-bench accuracy reports/h200/claims.json reports/h200/predicted/claims.json --output reports/h200/prediction-claims.md
	$(BIN)/muse-bench claims --from reports/claims.json --records reports --output reports/claims.json --output reports/claims.md --output reports/claims.csv --into README.md
	$(BIN)/muse-bench claims --from reports/h200/claims.json --records reports --output reports/h200/claims.md
	$(if $(CALIBRATION),$(BIN)/muse-bench accuracy $(CALIBRATION) --output reports/h200/calibration.md)
	$(if $(KERNELS),$(BIN)/muse-bench kernels $(KERNELS:%=--from %) --output reports/h200/kernels.md)
	$(if $(QUALITY),$(BIN)/muse-bench quality $(QUALITY:%=--from %) --output reports/h200/quality.md)
	$(if $(FLOORS),$(BIN)/muse-bench floor $(FLOORS:%=--from %) --output reports/h200/floor.md)
	$(foreach what,$(SWEPT),$(BIN)/muse-bench sweep $(patsubst %,--from %,$(filter reports/h200/sweep-$(what)%,$(SWEEPS))) --fit-from 4096 --output reports/h200/sweep-$(what).md &&) true
	$(foreach file,$(ABLATIONS),$(BIN)/muse-bench ablate --records $(file) $(call BESIDE,ablation) --output $(file:.json=.md) &&) true
	$(foreach file,$(RANKS),$(BIN)/muse-bench ranks --from $(file) $(call BESIDE,ranks) --output $(file:.json=.md) &&) true
	$(foreach name,$(SHOWN),$(BIN)/muse-bench report reports/h200/$(name).json --into README.md &&) true
	$(BIN)/python tests/faults/page.py $(wildcard reports/reliability.json reports/h200/reliability.json) > docs/reliability.md
	$(BIN)/python -m typer muse_bench.cli utils docs --name muse-bench --title Commands | sed -e 's/^Examples:$$/Examples:\n/' -e 's/^  muse-bench/    muse-bench/' -e 's/^    --/      --/' > docs/commands.md

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
