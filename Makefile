# Each target first creates .venv if it is missing, with the interpreter PYTHON.
PYTHON ?= python3
RUN = .venv/bin/python
APT = $(if $(shell command -v sudo),sudo -n) apt-get --yes --quiet
INSTALL = $(APT) install --no-install-recommends

.PHONY: demo test test-all test-browser lint clean

demo: .venv/installed  ## train a real pretrained LM on a real battle; 3 to 8 minutes on 2 cores
	$(RUN) main.py --config=lolm_mappo_smol --env-config=smax --epymarl=none \
	    with env_args.map_name=3m t_max=6000 kl.anneal_steps=6000 lr_decay=False test_interval=3000 seed=1

test: .venv/installed  ## run the quick tests; about 9 minutes on 2 cores
	$(RUN) -m pytest -n 2 --dist worksteal

test-all: .venv/installed  ## run the slow tests, too: trainings to a known return, kills and resumes, Ray, examples
	$(RUN) -m pytest -n 2 --dist worksteal -m "not browser"

test-browser: .venv/installed browser  ## test Omniboard and the page of battles in a real browser; about 2 minutes
	$(RUN) -m pytest -m browser tests/browser

.PHONY: browser
browser:  ## install Chromium and Node.js from the system's packages if they are missing
	@command -v chromium chromium-browser google-chrome || $(INSTALL) chromium || ($(APT) update && $(INSTALL) chromium)
	@command -v npm || $(INSTALL) nodejs npm || ($(APT) update && $(INSTALL) nodejs npm)

lint: .venv/installed  ## check style, types and spelling
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	.venv/bin/codespell *.md *.py *.toml *.txt Makefile lolm_plugin config docs examples benchmarks tests

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[smax,dev]'
	touch $@

clean:  ## remove the environment and caches; keep results
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .mypy_cache
