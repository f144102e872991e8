# Two commands: `make run` and `make test`; each sets up .venv first, once, and again when the versions change.
#   make run                                   the built-in task
#   make run SET="ppo.kl_coef=0.1 seed=18"     with other parameters (written to params.yaml)
#   make run RECIPE=qa-feedback DATA=FILE      a recipe on your data; the checkout stays as it is

.DEFAULT_GOAL := help
.PHONY: help run peek doctor compare experiments figure serve export up down label test architectures browser audit sbom fuzz style quality prefect mlflow docs clean chaos

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
TOOLS := build/audit
STATE := $(or $(RLHF_STATE),$(CURDIR)/.state)
FOLDER := $(if $(RUN),.runs/$(RUN)/)

# the first Python that the project supports; PYTHON=... names another
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in python3.11 python3.12 python3 python; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done)

# nothing phones home
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true

# `make compare A B`: the words after it are names of runs, not targets
ifeq (compare,$(firstword $(MAKECMDGOALS)))
RUNS ?= $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
$(filter-out compare,$(MAKECMDGOALS)): ;@:
endif

help:  ## this list
	@sed -n 's/^#   //p' Makefile | head -3
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r command text; do \
		printf '%-16s %s\n' "$$command" "$$text"; done

run: $(READY)  ## run the pipeline and print the verdict (RECIPE=, DATA=, SET=, SMOKE=1 tries a recipe small)
	@$(BIN)/python -m flows.run $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(DATA),--data '$(DATA)') \
		$(if $(SMOKE),--smoke) \
		$(foreach change,$(SET),--set '$(change)')

doctor: $(READY)  ## show how a run would read your data and base model, and check both (RECIPE=, DATA=, SET=)
	@$(BIN)/python -m flows.doctor $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(DATA),--data '$(DATA)') \
		$(foreach change,$(SET),--set '$(change)')

peek: $(READY)  ## show what a file, folder or pattern holds and how it would be read (DATA=, RECIPE=, SET=)
	@$(BIN)/python -m flows.peek $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(DATA),--data '$(DATA)') \
		$(foreach change,$(SET),--set '$(change)')

compare: $(READY)  ## compare runs: make compare A B, or RUNS="models:/rlhf-policy@champion B"
	@$(BIN)/python -m flows.compare $(RUNS)

experiments: $(READY)  ## the DVC experiments, only the columns that differ
	@$(BIN)/dvc exp show --only-changed --keep '^(rate|n|judge)$$' --drop '.*/|plots$$'

figure: $(READY)  ## draw preference by model size: 4 sizes x 3 seeds, under an hour (SET=)
	@$(BIN)/python -m flows.sweep $(foreach change,$(SET),--set '$(change)')

serve: $(READY)  ## serve the champion, or MODEL=, to any OpenAI client (PORT=)
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.serve $(if $(MODEL),'$(MODEL)') $(if $(PORT),--port '$(PORT)')

export: $(READY)  ## write the champion, or MODEL=, as a Hugging Face folder TO=
	@test -n '$(TO)' || { echo 'error: name the folder: make export TO=FOLDER' >&2; exit 1; }
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.export '$(or $(MODEL),models:/rlhf-policy@champion)' '$(TO)'

up: $(READY)  ## start Prefect, MLflow, a worker, the labeling app; print their addresses (services.yaml)
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.services up

down: $(READY)  ## stop what make up started
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.services down

label: $(READY)  ## start the labeling app alone, as services.yaml says
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.services serve label

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

architectures: $(READY)  ## the pipeline on conversations with every architecture that was tried, some minutes
	RLHF_ARCHITECTURES=1 $(BIN)/python -m pytest -n 2 tests/architectures

browser: $(READY)  ## drive a pipeline from Prefect's pages in Chromium, some minutes; screenshots: SCREENSHOTS=docs
	RLHF_BROWSER=1 $(BIN)/python -m pytest tests/browser

audit: $(READY) $(TOOLS)/.installed  ## ask PyPI for known vulnerabilities, and compare the licences of what is installed
	$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt
	$(TOOLS)/bin/pip-licenses --python $(BIN)/python > build/licences.txt

sbom: $(READY) $(TOOLS)/.installed  ## write build/sbom.cdx.json, the parts of the installation, for a release
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/sbom.cdx.json $(BIN)/python

# the tools of both in an environment of their own, not in the product's
$(TOOLS)/.installed: Makefile
	@$(PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
	@touch $@

fuzz: $(READY)  ## fuzz what reads rows and summaries, with a fuzzer that is fetched once (MINUTES=)
	@test -d '$(STATE)/fuzz/atheris' || $(BIN)/python -m pip install --quiet --no-deps \
		--target '$(STATE)/fuzz/atheris' 'atheris>=3,<4'
	@RLHF_STATE='$(STATE)' PYTHONPATH='$(STATE)/fuzz/atheris' $(BIN)/python tests/fuzz/fuzz.py \
		--minutes '$(or $(MINUTES),10)'

chaos: $(READY)  ## kill, starve and cut off a small main job, hours; writes the table (FAMILY=, TRIES=, MINUTES=)
	$(BIN)/python tests/chaos/chaos.py $(if $(FAMILY),--family '$(FAMILY)') $(if $(TRIES),--tries '$(TRIES)') \
		$(if $(MINUTES),--minutes '$(MINUTES)')

style: $(READY)  ## format the code and mend what can be mended
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

quality: $(READY)  ## check style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports

prefect: $(READY)  ## start Prefect alone: runs, graphs, logs
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.services serve prefect

mlflow: $(READY)  ## start MLflow alone: curves, samples, the registry
	@RLHF_STATE='$(STATE)' $(BIN)/python -m flows.services serve mlflow

docs:  ## say where the Data Docs of the validation lie (RUN=)
	@for page in $(FOLDER)reports/validation/*/index.html; do \
		test -f "$$page" || { echo "error: no Data Docs yet; make run writes them" >&2; exit 1; }; \
		echo "file://$(CURDIR)/$$page"; done

clean:  ## remove caches of the tools; data, models, runs and the environment stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { \
		echo 'error: no Python 3.11 or 3.12 found; name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@echo 'setting up $(VENV): a few minutes, once'
	@$(PYTHON) -m venv $(VENV)
	@# torch by its exact version first: left to the resolver it may bring several GB of CUDA packages
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# pip compiles on one core; a few files of a few packages are templates, not Python, and fail
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	@# make both databases now and not in the first run, and their folder first: the two commands would race for it
	@umask 077; mkdir -p '$(STATE)'
	@umask 077; $(BIN)/python -c 'from tasks.runtime.tracking import connect; connect()' 2>/dev/null & mlflow=$$!; \
		PREFECT_HOME='$(STATE)/prefect' $(BIN)/prefect server database upgrade -y >/dev/null && wait $$mlflow
	@touch $@
