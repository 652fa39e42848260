# Two commands: `make audit` runs the main job, `make test` runs the tests. Both set up what they need; both may be run again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: audit test setup lint browser clean

audit: setup
	$(BIN)/runner exec specs/c2b.yaml

test: setup browser lint
	@marks="not large and not gpu"; \
	if [ ! -x "$$(command -v chromium || command -v chromium-browser || command -v google-chrome)" ]; then \
	  echo "no Chromium found: the tests marked 'browser' are left out"; marks="$$marks and not browser"; fi; \
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$$marks" $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy --no-error-summary

setup: $(VENV)/.ready

# pip chooses a torch and torchvision that belong together; constraints.txt pins what was tested.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: none found on PATH"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: $(PYTHON) is older"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

# The report is opened in a real browser by the tests. Installed only where that needs no question.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || true

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
