# Two commands do everything: `make repro` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help setup repro sweep test lint audit docs presets preset clean clean-scratch

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: $(VENV)/.installed  ## create .venv and install everything into it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[pipeline,test]'
	touch $@

repro: setup  ## run the experiment matrix of params.yaml on all cores or GPUs, and render tables/
	python -m stages.plan --check params.yaml
	python -m stages.sweep

sweep: setup  ## the same without the check, with as many jobs as you say: make sweep [JOBS=2]
	python -m stages.sweep $(addprefix --jobs ,$(JOBS))

test: setup lint  ## check style and types, then run the quick tests, or all of them: make test [ALL=1]
	OMP_NUM_THREADS=1 pytest --numprocesses=auto --dist=loadfile $(if $(ALL),,-m 'not slow')

lint: setup  ## ruff (format and rules), mypy, and the order of the packages
	ruff format --check .
	ruff check .
	mypy
	lint-imports

audit: setup  ## check licences (see pyproject.toml), pins and known vulnerabilities of what is installed
	-$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[audit,docs]'
	pip-licenses
	@if python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  pip freeze --exclude-editable > $(VENV)/freeze.txt; \
	  if cut -d';' -f1 constraints.txt | grep -vixFf - $(VENV)/freeze.txt; then \
	    echo 'error: constraints.txt does not pin these installed versions; correct one of the two'; exit 1; \
	  fi; echo 'pins: constraints.txt names every installed version'; \
	else echo 'pins: NOT CHECKED, constraints.txt is for Python 3.11 and later'; fi
	@pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off || { \
	  echo 'vulnerabilities: see above; where pip-audit reached no database, they are NOT CHECKED'; exit 1; }

docs: setup  ## build the documentation as a site into site/, which needs no network to be read
	-$(VENV)/bin/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict
	@echo 'open site/index.html'

presets: setup  ## list the files in presets/, check them, and estimate what they cost
	python -m stages.preset

preset: setup  ## make one of them params.yaml: make preset NAME=cifar100-dskd [FORCE=1]
	python -m stages.preset '$(NAME)' '$(or $(FORCE),0)'

clean:  ## remove what `dvc checkout` can bring back
	rm -rf cards teachers pairs runs evaluations
	for folder in data/*/; do if test -f "$$folder/manifest.json"; then rm -rf "$$folder"; fi; done

clean-scratch: setup  ## remove states, live files, logs, downloads and teachers' tables, except those in use
	python -m stages.clean_scratch
