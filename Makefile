# make lab   a virtual environment, everything installed, JupyterLab opened at lesson 00
# make test  the same environment, everything tested
# Both may be run again at any time; the environment is made anew only when its lists change.

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
PYTHON ?= python
else
BIN := .venv/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
endif

LAB_OPTIONS ?=
# Test files that run at once, with one thread each: on two cores that beats two threads in turn.
WORKERS ?= 2
INSTALLED := .venv/.installed
RUN := $(BIN)/python

.PHONY: lab test lint fetch test-code test-lessons slow benchmark mutants notebooks sync clean

lab: $(INSTALLED)
	$(RUN) -m jupyterlab notebooks/00_start_here.ipynb $(LAB_OPTIONS)

test: lint fetch test-code test-lessons

lint: $(INSTALLED)
	$(RUN) -m ruff check helpers tests tools
	$(RUN) -m ruff format --check helpers tests tools
	$(RUN) -m mypy
	$(RUN) tools/notebooks.py check

fetch: $(INSTALLED)
	$(RUN) -m helpers fetch

test-code: $(INSTALLED) fetch
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests --ignore=tests/benchmarks -m "not slow" \
		-n $(WORKERS) --dist loadscope

# float32, so that a CPU with bf16 units computes what the stored outputs show.
test-lessons: $(INSTALLED) fetch
	COURSE_PROFILE=quick COURSE_PRECISION=fp32 $(RUN) -m pytest --nbval --nbval-cell-timeout=600 notebooks

# What is left out of `make test`: every lesson in a browser, and training that takes minutes.
slow: $(INSTALLED) fetch
	$(RUN) -m pytest -s tests -m slow --ignore=tests/benchmarks

# Speed against the alternatives, as ratios within one run.
benchmark: $(INSTALLED) fetch
	$(RUN) -m pytest -s tests/benchmarks

# Do the tests notice when the code is changed? `make mutants ROOM=losses` asks one room alone.
mutants: $(INSTALLED) fetch
	$(RUN) tools/mutants.py $(ROOM)

# For authors: run every lesson from a fresh kernel and store its outputs.
notebooks: $(INSTALLED) fetch
	$(RUN) tools/notebooks.py run notebooks/*.ipynb

# For authors: write every badge and set-up cell from the address in pyproject.toml.
sync: $(INSTALLED)
	$(RUN) tools/notebooks.py sync

clean:
	rm -rf .venv runs

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found. Install it from python.org, or name it: make PYTHON=/path/to/python3"; exit 1; }
	test -x $(RUN) || "$(PYTHON)" -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,test,tools,ship]"
	@# fast.ai asks for torchvision, and PyPI's build of it does not load beside a CPU build of torch;
	@# transformers then fails too. Nothing in the course needs it.
	@$(RUN) -c "import torchvision" 2>/dev/null || $(RUN) -m pip uninstall --quiet --yes torchvision
	$(RUN) -c "open('$(INSTALLED)', 'w').close()"
