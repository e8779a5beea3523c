# Each target sets up .venv first when it is missing. PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: demo test lint clean

demo: .venv/installed  ## a real pretrained LM learns a real battle; about 4 minutes on 2 cores
	$(RUN) main.py --config=lolm_mappo_smol --env-config=smax --epymarl=none \
	    with env_args.map_name=3m t_max=800 kl.anneal_steps=800 test_interval=400 seed=1

test: .venv/installed  ## every test
	$(RUN) -m pytest -n 2

lint: .venv/installed  ## style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[smax,dev]'
	touch $@

clean:  ## forget the environment and caches, keep results
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache
