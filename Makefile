# `make run` shows, `make test` checks, `make publish` rewrites what is committed. Windows: see the README.
PYTHON ?= python3
PROFILE ?= $(or $(CIFAR_PROFILE),quick)
CONSTRAINTS ?=
# A test process on every core; a file of tests, or a notebook, stays in one process.
PARALLEL ?= -n auto --dist loadfile
BIN := .venv/bin

.PHONY: run lab test site browser-test colab-test faults bench install publish lint types address clean

run: install
	$(BIN)/python -m cifar_helpers run --profile $(PROFILE)

# JupyterLab on copies of the notebooks below build/lab, so that git stays clean: make lab PROFILE=laptop
lab: install
	$(BIN)/python -m cifar_helpers lab --profile $(PROFILE)

test: install
	$(BIN)/pytest $(PARALLEL)
	$(BIN)/pytest $(PARALLEL) --nbval notebooks

# Each notebook alone in an empty folder beside the wheel, with Colab's versions: 6 GB the first time, then half an hour.
# Colab has Python 3.13: make colab-test COLAB_PYTHON=python3.13
COLAB_PYTHON ?= $(PYTHON)
COLAB := build/colab
colab-test: install $(COLAB)/venv/installed
	rm -rf build/lib $(COLAB)/*.whl
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(COLAB) .
	$(BIN)/pytest -m colab -p no:xdist -rP tests/test_colab.py

$(COLAB)/venv/installed: constraints/colab.txt
	rm -rf $(COLAB)/venv
	$(COLAB_PYTHON) -m venv $(COLAB)/venv
	$(COLAB)/venv/bin/pip install --quiet --disable-pip-version-check -r constraints/colab.txt
	touch $@

# Web pages of the published notebooks, for people who will not run them: nothing is executed.
site: install
	$(BIN)/python -m cifar_helpers site

# JupyterLab in a browser: every notebook is run and looked at; screenshots in build/browser. Wants Debian's chromium.
browser-test: .venv/browser
	$(BIN)/pytest -m browser tests/test_browser.py

# Some five minutes of one core: processes are killed at every moment, and nothing may be lost.
faults: install
	$(BIN)/python benchmarks/faults.py --json benchmarks/results/faults.json

# First the runs of which every notebook and the README speak; what is trained already is loaded.
publish: PUBLISHED = $(if $(filter command environment,$(firstword $(origin PROFILE))),--profile $(PROFILE))
publish: install
	CIFAR_OUT=. $(BIN)/python -m cifar_helpers train chain --data real $(PUBLISHED)
	$(BIN)/python -m cifar_helpers publish $(PUBLISHED)
	$(BIN)/python -m cifar_helpers report

# Nearly two hours of two quiet cores with bfloat16, or more; benchmarks/NOTES.md says what each measures.
bench: install
	mkdir -p benchmarks/results
	$(BIN)/python benchmarks/step_rate.py --json benchmarks/results/step_rate.json
	$(BIN)/python benchmarks/busy_cores.py --json benchmarks/results/busy_cores.json
	$(BIN)/python benchmarks/growth.py --json benchmarks/results/growth.json --figure benchmarks/results/growth.png
	for data in cifar10 cifar100; do for run in "study 5" "final 3" "long 3"; do set -- $$run; \
	  $(BIN)/python benchmarks/time_to_accuracy.py $$1 --seeds $$2 --dataset $$data \
	    --json benchmarks/results/time_$$1_$$data.json || exit 1; done; done
	$(BIN)/python benchmarks/time_to_accuracy.py resnet18 --seeds 2 --change '{"width": 0.25, "epochs": 16}' \
	  --json benchmarks/results/time_resnet18_cifar10.json
	$(BIN)/python -m cifar_helpers report

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

install: .venv/installed

.venv/installed: requirements.txt pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	touch $@

.venv/browser: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[browser]' $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	touch $@

# Write the account that publishes this copy wherever it stands: make address REPOSITORY=account/name
ADDRESSED := pyproject.toml README.md CHANGELOG.md CITATION.cff CONTRIBUTING.md notebooks/*.ipynb
address:
	test -n "$(REPOSITORY)"
	old=$$(sed -n 's#^Repository = "https://github.com/\(.*\)"#\1#p' pyproject.toml) && \
	  sed -i.bak "s#$$old#$(REPOSITORY)#g" $(ADDRESSED) && rm -f *.bak notebooks/*.bak

# What can be made again; the notebooks that a reader has changed lie in build/lab, and stay.
clean:
	rm -rf .venv
	test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name lab -exec rm -rf {} +
