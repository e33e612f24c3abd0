# On a machine with Python 3.11 and make these targets do all set-up; nothing is installed outside this folder but
# the jars in ~/.cache/millrace (MILLRACE_CACHE).

PYTHON ?= python3.11
ARGS ?=
BIN := .venv/bin
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
JAVA := $(wildcard streaming/java/*/*.java streaming/java/locks/*) streaming/jars.py
# What can be shown; the longest to compile first.
SHOWS := forecast fraud anomaly
# Two at a time, file by file in their order: those with services first, each half with a stack of its own.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
export UV_PYTHON_PREFERENCE ?= system

.PHONY: setup demo check lint test bench clean

setup: .venv/.jars .venv/.kernels

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check uv

.venv/.synced: pyproject.toml uv.lock | $(filter .tools/%,$(UV))
	$(UV) sync --locked --quiet --python $(PYTHON)
	@touch $@

.venv/.jars: .venv/.synced $(JAVA)
	$(BIN)/python -c "from streaming import jars, settings; c = settings.read().cache; \
	jars.broker_classpath(c); jars.flink_lib(c)"
	@touch $@

# Compiled beforehand, or a first job would compile on the way of its first events. numba's cache looks at the file of
# a kernel only, not at those that it calls into.
.venv/.swept: .venv/.synced $(wildcard */kernels/*.py)
	rm -f */kernels/__pycache__/*.nb?
	@touch $@

.venv/.kernels: .venv/.swept
	$(BIN)/python -m streaming.warm $(SHOWS)
	@touch $@ $(SHOWS:%=$@-%)

$(SHOWS:%=.venv/.kernels-%): .venv/.kernels-%: .venv/.swept
	$(BIN)/python -m streaming.warm $*
	@touch $@

demo: .venv/.jars .venv/.kernels-$(firstword $(filter $(SHOWS),$(ARGS)) fraud)
	@$(BIN)/millrace demo $(ARGS)

lint: setup
	$(BIN)/ruff check --quiet
	$(BIN)/mypy --no-error-summary
	@found=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$found"; exit 1; }
	$(BIN)/python tests/budgets.py

check: lint
	$(PYTEST) -m "not services and not bench" $(ARGS)

test: lint
	$(PYTEST) -m "not bench" $(ARGS)

bench: setup
	$(BIN)/pytest -m bench -s $(ARGS)

clean:
	-@test ! -x $(BIN)/millrace || $(BIN)/millrace down --wipe
	rm -rf .venv .tools build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
