# Each target sets up all that it needs: a virtual environment in .venv with the versions of requirements.lock.
# LOCK= (empty) installs the newest versions that pyproject.toml allows. PYTHON= names the interpreter, 3.11 or newer.
PYTHON ?= python3
LOCK ?= requirements.lock
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHELL := /bin/bash

# Variables given on the command line become notebook parameters; those of the caller's environment do not. A name that
# means nothing here is refused: make would ignore a mistyped DATASET and run the default.
KNOWN := DATASET DATA_DIR MODEL NAME PARAMETERS SET PYTHON LOCK MATRIX BATCH RUN INCLUDE MUTATION FUZZ DIGEST CONTRACT
UNKNOWN := $(filter-out $(KNOWN) -% MAKE%,$(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v)))
$(if $(strip $(UNKNOWN)),$(error unknown: $(UNKNOWN). Known: $(KNOWN); other notebook parameters go into SET='name=value ...' or PARAMETERS=file.yml))
quoted = '$(subst ','\'',$(value $(1)))'
given = $(if $(findstring command line,$(origin $(1))),$(2)=$(call quoted,$(1)))
# Of a command whose run is named by the variable $(1).
parameters = $(call given,DATASET,dataset) $(call given,DATA_DIR,data_dir) $(call given,MODEL,models) $(call given,$(1),run_name) \
       $(SET) $(if $(PARAMETERS),--parameters $(call quoted,PARAMETERS))
RUN_PARAMETERS = $(call parameters,NAME)

.PHONY: help setup run study lab app batch pack test structure digest fuzz mutation notebooks bench contract lock clean

help:
	@echo "make run        execute the notebooks but 07, 09, 10 and 11; results and report.html under runs/default"
	@echo "                DATASET=folder DATA_DIR=path MODEL=a,b NAME=run PARAMETERS=file.yml SET='name=value ...'"
	@echo "                (SET: values without blanks, lists with commas; data_options.task=five sets one option)"
	@echo "                MODEL: names, or files of your own: MODEL=mine.keras SET=model_options.scaling=0-1"
	@echo "make study      one experiment of notebooks/studies: make study NAME=attention; RUN= names its run, else as 'make run'"
	@echo "make lab        JupyterLab at the notebooks"
	@echo "make app        the attribution explorer as a page, for the run default, or another one: make app NAME=mine"
	@echo "                or on images and a model of your own: make app DATASET=folder DATA_DIR=path MODEL=mine.keras"
	@echo "make batch      a matrix of runs, resumable: make batch MATRIX=matrices/smoke.yml BATCH='--cores 2 --gpus 1'"
	@echo "make pack       a run or a batch as one archive, without patients' data: make pack RUN=runs/smoke INCLUDE='maps'"
	@echo "make test       the whole test suite"
	@echo "make fuzz       10,000 damaged files against all readers, some ten minutes: make fuzz FUZZ='--n 500 --reader dicom'"
	@echo "make mutation   which small faults no test notices, some hours on two cores: make mutation MUTATION='--n 150 --again'"
	@echo "make structure  the package's size, and the rules that its modules keep"
	@echo "make digest     whether a change alters results: make digest DIGEST='--write before.json', then '--compare before.json'"
	@echo "make bench      speed against the thesis' libraries; the table goes to benchmarks/"
	@echo "make contract   every method over some 60 foreign networks, some hours of one core; writes docs/compatibility.md"
	@echo "                make contract CONTRACT='--networks \"*vit*\" --again'"
	@echo "make notebooks  execute the notebooks and save them in place"
	@echo "make lock       resolve the versions of requirements.lock anew"
	@echo "make clean      remove the environment and caches (results under runs/ stay)"

setup: $(READY)

# uv takes a third of pip's time, but does not read pip's configuration: where it fails, pip is asked.
WANTED = $(if $(LOCK),-c $(LOCK)) -e '.[test]'
$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing (Debian: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV) ..."; SECONDS=0; set -e; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip; \
	{ $(BIN)/python -m pip install -qq --disable-pip-version-check uv && \
		$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python $(WANTED); } || { \
		echo "uv could not install it; pip tries"; \
		$(BIN)/python -m pip install -qq --disable-pip-version-check $(WANTED); }; \
	touch $@; echo "environment ready in $$SECONDS s"

run: $(READY)
	$(BIN)/python -m xaiutils.workbook.run_all $(RUN_PARAMETERS)

study: $(READY)
	$(if $(NAME),,$(error name a study, a notebook of notebooks/studies: make study NAME=attention))
	$(BIN)/python -m xaiutils.workbook.run_all --study $(call quoted,NAME) $(call parameters,RUN)

lab: $(READY)
	$(BIN)/jupyter lab notebooks/01_data_preparation.ipynb

app: $(READY)
	$(BIN)/python -m xaiutils.widgets.app $(RUN_PARAMETERS)

batch: $(READY)
	$(if $(MATRIX),,$(error name a matrix: make batch MATRIX=matrices/smoke.yml))
	$(BIN)/python -m xaiutils.batch $(call quoted,MATRIX) $(BATCH)

pack: $(READY)
	$(if $(RUN),,$(error name a run or a batch: make pack RUN=runs/default))
	$(BIN)/python -m xaiutils.batch.pack $(call quoted,RUN) $(if $(INCLUDE),--include $(INCLUDE))

test: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
# Three test processes for two cores, since one often waits for a browser or a kernel; mypy, of one thread, runs beside
# them and speaks after them. More threads of TensorFlow's, OpenMP's or BLAS' would only take time from the others.
	@said=$$(mktemp); $(BIN)/mypy >$$said 2>&1 & types=$$!; \
	TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder; \
	tests=$$?; wait $$types; types=$$?; echo "mypy:"; cat $$said; rm -f $$said; exit $$((tests | types))

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py $(FUZZ)

mutation: $(READY)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python tools/mutation.py $(MUTATION)

structure: $(READY)
	$(BIN)/python tools/structure.py

digest: $(READY)
	$(BIN)/python tools/behaviour_digest.py $(DIGEST)

notebooks: $(READY)
	$(BIN)/python tools/refresh_notebooks.py

bench: $(READY)
	$(BIN)/python benchmarks/methods.py

contract: $(READY)
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(if $(LOCK),-c $(LOCK)) -e '.[bench]'
	$(BIN)/python benchmarks/contract.py $(CONTRACT)

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-emit-find-links \
		--no-annotate --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
