# make run      everything, from a fresh clone to the pages under reports/
# make test     everything that must hold
#
# PYTHON=python3.12 make run   chooses the interpreter (3.11 or newer) for a new .venv

.DEFAULT_GOAL := help
.PHONY: help run test lab explore notebooks full lock audit clean

BIN := .venv/bin
# Each stamp carries a checksum, is written last and lies in .venv: after a changed lock, a moved
# checkout or an interrupted install the environment is made anew; otherwise it is reused.
LOCKED := .venv/locked-$(shell { pwd; cat requirements.lock; } | cksum | cut -d ' ' -f 1)
PROJECT := .venv/project-$(shell cksum < pyproject.toml | cut -d ' ' -f 1)
# One BLAS thread for each of the processes that share the cores, or they wait for each other.
FRESH := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TQDM_DISABLE=1 FIRETV_REPORTS="$(CURDIR)/build/reports"
# One more than there are cores, for some tests wait for other processes.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Of the notebooks, those that take longest begin first, lest one of them be left to run alone.
LONG := $(foreach n,04 06 03 07 05,$(wildcard notebooks/$(n)_*.ipynb))
NOTEBOOKS := $(LONG) $(filter-out $(LONG),$(wildcard notebooks/*.ipynb))
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# Bytecode is kept, whatever the machine's habit: many processes import the same modules.
export PYTHONDONTWRITEBYTECODE :=

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '%-16s %s\n' "$$target" "$$text"; done

run: $(PROJECT) ## get the data, execute the notebooks, write reports/index.html
	$(BIN)/firetv data movielens-100k
	$(BIN)/firetv run $(NOTEBOOKS)
	$(BIN)/firetv site

test: $(PROJECT) ## lint, run the notebooks as tests, run the tests
	rm -rf build/reports
	$(BIN)/python -m ruff check firetv tests notebooks
	$(BIN)/python -m ruff format --check firetv tests notebooks
	$(BIN)/firetv data movielens-100k
	$(FRESH) $(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder --nbval-lax \
		--nbval-current-env $(NOTEBOOKS)
	$(FRESH) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -p no:nbval

lab: $(PROJECT) ## open JupyterLab
	$(BIN)/python -m jupyterlab

# Only this machine is served, and nothing is fetched from elsewhere: voila.json says so.
EXPLORER := $(CURDIR)/firetv/templates/explorer
explore: $(PROJECT) ## open the explorer in a browser: notebook 09 as a page
	$(BIN)/firetv data movielens-100k
	JUPYTER_PATH="$(EXPLORER)" JUPYTER_CONFIG_PATH="$(EXPLORER)" TQDM_DISABLE=1 \
		$(BIN)/python -m voila notebooks/09_explorer.ipynb

notebooks: $(PROJECT) ## execute the notebooks and keep their outputs in notebooks/
	$(BIN)/firetv data movielens-100k
	$(BIN)/firetv run --keep $(NOTEBOOKS)

full: $(PROJECT) ## run notebooks 03 to 08 with more seeds, worlds and sizes, into reports/full/
	$(BIN)/firetv data movielens-100k
	for n in 03 04 05 06 07 08; do \
		$(BIN)/firetv run $$n --params notebooks/params/$${n}_full.yaml --out reports/full || exit; \
	done
	$(BIN)/firetv site

lock: $(PROJECT) ## pin every dependency of pyproject.toml in requirements.lock
	$(PIP) install --upgrade --target .venv/uv uv
	.venv/uv/bin/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url -o requirements.lock

audit: $(PROJECT) ## look every pin up among known vulnerabilities (needs the open web)
	$(PIP) install --upgrade --target .venv/pip-audit pip-audit
	PYTHONPATH=.venv/pip-audit $(BIN)/python -m pip_audit --strict --disable-pip --require-hashes \
		-r requirements.lock

clean: ## remove pages, executed copies and caches; keep .venv and data
	rm -rf build reports/*.html reports/*.ipynb reports/api .pytest_cache .ruff_cache

# An interpreter on PATH may be there and still not run (a pyenv shim without its version), be too
# old, or lack what a virtual environment needs: try each.
$(LOCKED):
	@found=; \
	for python in "$(PYTHON)" python3.13 python3.12 python3.11 python3 python; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'No Python 3.11 or newer with venv was found on PATH.' >&2; \
		echo 'Install one (Debian: apt install python3-venv), or name one: make PYTHON=/path/to/python' >&2; \
		exit 1; \
	fi; \
	echo "creating .venv with $$found ($$("$$found" --version))"; \
	"$$found" -m venv --clear .venv
	@echo 'installing requirements.lock into .venv (a few minutes)'
	@LIGHTFM_NO_CFLAGS=1 $(PIP) install --no-deps --no-compile --require-hashes -r requirements.lock
	@# On all cores, where pip would use one; packages have files for other Pythons, too.
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || :
	@touch $@

$(PROJECT): $(LOCKED)
	@echo 'installing firetv into .venv'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
