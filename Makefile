# `make` lists the targets. Each one makes .venv first if it is missing or older than what it is made from.
PYTHON ?= python3
ARGS ?=
NAME ?=
DATA ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-all check tensorboard docs bench rename

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(INSTALLED) ## Train on a small job that needs no network, no GPU and no settings
	$(BIN)/python cli.py fit --config configs/quickstart.yaml $(ARGS)

test: $(INSTALLED) ## Run the tests, but for the slow ones (ARGS="-k pooling" goes to pytest)
	$(BIN)/python -m pytest -m "not slow" -n 2 $(ARGS)

test-all: $(INSTALLED) ## Run all the tests, slow ones too
	$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED) ## Check style, format and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy src cli.py

tensorboard: $(INSTALLED) ## Show the runs under logs/ in the browser
	$(BIN)/python -m tensorboard.main --logdir logs $(ARGS)

docs: $(VENV)/.docs ## Build the guide as a site in site/
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs site
	@echo "wrote site/index.html"

bench: $(VENV)/.bench ## Measure training, encoding and reading (DATA=folder with sst2, nsmc and stsb)
	$(BIN)/python bench/train.py $(if $(DATA),--sst2 "$(DATA)/sst2" --nsmc "$(DATA)/nsmc") $(ARGS)
	$(BIN)/python bench/encode.py $(if $(DATA),"$(DATA)/stsb/stsb-en-train.csv") distinct
	$(BIN)/python bench/data.py $(if $(DATA),"$(DATA)/nsmc")

rename: $(INSTALLED) ## Rename the package: NAME=myproject
	$(BIN)/python scripts/rename.py "$(NAME)"
	@$(BIN)/python -m pip uninstall --quiet --disable-pip-version-check --yes litpool

# The stamp is written last, so an install that was interrupted is taken up again by the next `make`.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "litpool needs Python 3.11 or newer, and $(PYTHON) is %d.%d: name another, such as `make PYTHON=python3.12`" % sys.version_info[:2])'
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing litpool and its dependencies into $(VENV) (silent; minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[demo,dev]'
	@touch $@
	@echo "$(VENV) is ready"

$(VENV)/.docs: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[sentence-transformers]'
	@touch $@
