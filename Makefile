# Two commands do everything: `make repro` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup repro test lint presets clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(VENV)/.installed  ## create .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

repro: setup  ## run the experiment matrix of params.yaml and render tables/
	python -m stages.plan --check params.yaml
	dvc repro

test: setup lint  ## check style and types, then run all tests
	pytest

lint: setup  ## ruff (format and rules) and mypy
	ruff format --check .
	ruff check .
	mypy

presets: setup  ## check that every file in presets/ is a valid params.yaml
	python -m stages.plan --check presets/*.yaml

clean:  ## remove what `dvc checkout` can bring back
	rm -rf cards teachers pairs runs evaluations data/digits data/cifar100
