# Every target creates the environment it needs; a second call finds it there and starts at once.
#   make train ARGS="--steps 50"     arguments go to the script, or to pytest
#   make test PYTHON=python3.12      another Python than python3
PYTHON ?= python3
ARGS ?=
WORKERS ?= auto
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= Agg

# The newest JAX wants a newer Python than gdjax does. The first that runs and can make environments is taken: a name on
# the path may be a shim that only fails.
PYTHON_NEWEST ?= $(shell for p in python3.14 python3.13 python3.12 $(PYTHON); do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1 && echo $$p && break; done)

VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
CLIENTS := .venv-clients
STAMPS := $(addprefix $(VENV)/.stamp-,plot test lint examples bench docs)
PIP_INSTALL := -m pip install --disable-pip-version-check
PYTEST := -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
CHECK := $(VENV)/bin/check-jsonschema --builtin-schema vendor.
EXAMPLES := $(filter-out examples/_%,$(wildcard examples/*.py))
BENCHMARKS := $(addprefix benchmarks/,step_time.py growth.py process.py hints.py compile_only.py matrix_methods.py \
  matrix_compile.py bfloat16.py release.py codes.py continuity.py coded_state.py coded_training.py minimizers.py hock_schittkowski.py transfer.py spikes.py)

# The sample of the sweeps: with each issue name the day, and see what another sample finds.
DRAW ?= 2026-12-07
step = @echo; echo '== make $(1)'; start=$$(date +%s); $(MAKE) --no-print-directory $(1) && echo "== $$(($$(date +%s) - start)) s"

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train test test-all test-full test-slow test-oldest test-newest mutants clients patches lint types examples notebooks bench race docs look clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r t d; do printf '%-20s %s\n' "$$t" "$$d"; done

train: $(VENV)/.stamp-plot ## Train a small language model on this machine's text (a minute on 2 cores); ARGS=--long: longer
	$(VENV)/bin/python examples/train_lm.py $(ARGS)

test: $(VENV)/.stamp-test ## Run the tests of what users rely on (four minutes on 2 cores)
	$(VENV)/bin/python $(PYTEST) --durations 10 $(ARGS)

test-all: ## Run all: every layer of tests, the oldest and the newest JAX, examples, notebooks, pages, benchmarks (25 minutes)
	$(call step,test)
	$(call step,test-full)
	$(call step,test-slow ARGS="--sample 150 --draw $(DRAW)")
	$(call step,examples)
	$(call step,notebooks)
	$(call step,$(if $(shell command -v chromium || command -v chromium-browser || command -v google-chrome),look,docs))
	$(call step,bench ARGS=--quick)
	$(call step,test-oldest ARGS="--sample 200 -m 'not slow'")
	$(call step,test-newest ARGS="--sample 200 -m 'not slow'")

test-full: $(VENV)/.stamp-test ## Run what `make test` leaves out but the sweeps: what takes long, and the programs
	$(VENV)/bin/python $(PYTEST) -m "(full or programs) and not slow" $(ARGS)

test-slow: $(VENV)/.stamp-test ## Run the long sweeps only; ARGS="--sample 20" takes 20 of them
	$(VENV)/bin/python $(PYTEST) -m slow $(ARGS)

test-oldest: $(OLDEST)/.stamp-test ## Run the tests with the oldest JAX supported
	$(OLDEST)/bin/python $(PYTEST) $(ARGS)

test-newest: $(NEWEST)/.stamp-test ## Run the tests with the newest JAX, which wants Python 3.12 or newer
	@$(NEWEST)/bin/python -c 'import jax, sys; print(f"JAX {jax.__version__}, Python {sys.version.split()[0]}")'
	$(NEWEST)/bin/python $(PYTEST) $(ARGS)

mutants: $(VENV)/.stamp-test ## Break each rule on purpose and demand a failing test, hours; ARGS="--sample 40" takes 40 of them
	$(VENV)/bin/python -m tests.mutants.run $(ARGS)

clients: $(CLIENTS)/.stamp-clients ## Run the tests of libraries that use Optax, with Optax and with gdjax; ARGS="flax" runs one's
	$(CLIENTS)/bin/python tests/clients/run.py $(ARGS)

patches: $(CLIENTS)/.stamp-clients ## Apply examples/patches to checkouts of Levanter, MaxText and Flax, and train there
	$(CLIENTS)/bin/python tests/clients/patches.py $(ARGS)

lint: $(VENV)/.stamp-lint ## Check style and format, workflows, forms and the citation
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(CHECK)github-workflows .github/workflows/*.yml
	$(CHECK)github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/method.yml
	$(CHECK)github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECK)citation-file-format CITATION.cff

types: $(VENV)/.stamp-lint $(VENV)/.stamp-test ## Check types
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

examples: $(VENV)/.stamp-examples ## Run every example at its smallest size, into out/
	@set -e; for f in $(EXAMPLES); do echo "== $$f --tiny"; $(VENV)/bin/python $$f --tiny $(ARGS); done

notebooks: $(VENV)/.stamp-examples ## Run the notebooks
	$(VENV)/bin/python examples/notebooks/make.py --run

bench: $(VENV)/.stamp-bench ## Run every benchmark
	@set -e; for f in $(BENCHMARKS); do echo "== $$f"; $(VENV)/bin/python $$f $(ARGS); done

race: $(VENV)/.stamp-bench $(VENV)/.stamp-examples ## Race the optimizers, hours; resumes; ARGS="--tasks digits --methods adamw" runs some
	$(VENV)/bin/python -m benchmarks.race $(ARGS)

# Not --quiet: mkdocs then drops warnings before --strict counts them.
docs: $(VENV)/.stamp-docs ## Build the documentation site into out/site; a broken link or a missing picture fails
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict $(ARGS)

look: ## Look at the site with Chromium: pictures into out/look, searches, what is out of sight; ARGS=--all: at every page
	@$(MAKE) --no-print-directory docs ARGS=
	$(VENV)/bin/python docs/_site/look.py out/site out/look $(ARGS)

clean: ## Remove the environments and everything that was made
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(CLIENTS) out build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(addsuffix /.stamp-venv,$(VENV) $(OLDEST) $(CLIENTS)): %/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { found=$$($(PYTHON) --version 2>/dev/null); \
	  echo "gdjax needs Python 3.11 or newer; $(PYTHON) is $${found:-not one}. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $* with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $*
	@touch $@

$(NEWEST)/.stamp-venv:
	@$(or $(PYTHON_NEWEST),false) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null || { \
	  echo "The newest JAX needs Python 3.12 or newer; $(if $(PYTHON_NEWEST),$(PYTHON_NEWEST) is not,none was found)." \
	  "Name one: make test-newest PYTHON_NEWEST=python3.13" >&2; exit 1; }
	@echo "Creating $(NEWEST) with $$($(PYTHON_NEWEST) --version)"
	@$(PYTHON_NEWEST) -m venv --clear $(NEWEST)
	@touch $@

$(STAMPS): $(VENV)/.stamp-%: pyproject.toml | $(VENV)/.stamp-venv
	@echo "Installing gdjax[$*] into $(VENV) (once; a minute or two)"
	@$(VENV)/bin/python $(PIP_INSTALL) -e ".[$*]"
	@touch $@

$(OLDEST)/.stamp-test: pyproject.toml requirements/oldest.txt | $(OLDEST)/.stamp-venv
	@echo "Installing gdjax[test] with the oldest JAX supported into $(OLDEST) (once; a minute or two)"
	@$(OLDEST)/bin/python $(PIP_INSTALL) -e ".[test]" -c requirements/oldest.txt
	@touch $@

$(NEWEST)/.stamp-test: pyproject.toml requirements/newest.txt | $(NEWEST)/.stamp-venv
	@echo "Installing gdjax[test] with the newest JAX into $(NEWEST) (once; a minute or two)"
	@$(NEWEST)/bin/python $(PIP_INSTALL) -e ".[test]" -c requirements/newest.txt
	@touch $@

$(CLIENTS)/.stamp-clients: pyproject.toml tests/clients/requirements.txt | $(CLIENTS)/.stamp-venv
	@echo "Installing gdjax and its clients into $(CLIENTS) (once; a few minutes)"
	@$(CLIENTS)/bin/python $(PIP_INSTALL) -e . -r tests/clients/requirements.txt
	@touch $@
