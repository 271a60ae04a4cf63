# One page of verbs. `make demo` and `make test` are all a newcomer needs; environments are made on first use.
PYTHON ?= python3
LIGHT := .venv-light
FULL := .venv-full
RUNTIME := .venv-runtime
PIP := -m pip install --quiet --disable-pip-version-check --no-compile
ALL := train,probe,encodec,fairseq2,jobs,codecs,plots,app,onnx,index,sounds,dev
# Models in tests are tiny: on busy cores a second thread makes their steps many times slower, not faster. So two
# processes of one thread each share the tests.
PYTEST := OMP_NUM_THREADS=1 $(FULL)/bin/python -m pytest -q
IN_TWO := -n 2 --dist worksteal
# The Python of an active environment that holds this package and matplotlib: the demo needs no other.
HOLDS := import importlib.util as i, sys; sys.exit(not (i.find_spec("mert.cli.demo") and i.find_spec("matplotlib")))
ACTIVE := $(shell cd / && $(PYTHON) -c '$(HOLDS)' 2>/dev/null && echo $(PYTHON))
LIGHT_TESTS := tests/mert --ignore-glob='*/test_train_*'

.PHONY: demo test tests check lint light-test runtime-test full-environment bench soak clean

demo: $(if $(ACTIVE),,$(LIGHT)/ready)  ## embed a synthesised song, or AUDIO=path, and draw it
	$(or $(ACTIVE),$(LIGHT)/bin/python) -m mert.cli.demo $(if $(AUDIO),--audio "$(AUDIO)")

test: $(FULL)/ready  ## lint, types and everything but the long tests, side by side, in the environment with every extra
	$(MAKE) --no-print-directory -j 2 lint tests

tests: $(FULL)/ready
	$(PYTEST) $(IN_TWO) -m "not check"

check: $(FULL)/ready  ## the long tests
	$(PYTEST) $(IN_TWO) -m check

lint: $(FULL)/ready
	$(FULL)/bin/ruff check .
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/mypy
	$(FULL)/bin/lint-imports

light-test: $(LIGHT)/ready-dev  ## the same code with the newest torch, huggingface_hub and transformers, without extras
	OMP_NUM_THREADS=1 $(LIGHT)/bin/python -m pytest -q $(IN_TWO) -m "not check" $(LIGHT_TESTS)

runtime-test: $(RUNTIME)/ready  ## embed and export where torch is not installed, as mert/README.md says
	$(RUNTIME)/bin/python tests/harness/without_torch.py $(RUNTIME)/tried

full-environment: $(FULL)/ready

bench: $(FULL)/ready  ## speed and memory, as tables: over an hour, and 12 GB for the reference
	$(FULL)/bin/python tests/bench/embedding.py
	$(FULL)/bin/python tests/bench/training.py
	$(FULL)/bin/python tests/bench/probing.py

soak: $(FULL)/ready  ## a day-long recording, by hand: about ten minutes
	$(FULL)/bin/python tests/bench/soak.py

$(LIGHT)/ready: pyproject.toml
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python $(PIP) -e ".[plots]"
	touch $@

$(LIGHT)/ready-dev: $(LIGHT)/ready  # transformers: an oracle, as below, where fairseq2 needs the 4; an adapter's library
	$(LIGHT)/bin/python $(PIP) -e ".[plots,dev]" "transformers>=5,<6" "sentence-transformers>=6,<7"
	touch $@

$(RUNTIME)/ready: pyproject.toml mert/README.md
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/python $(PIP) $$(sed -n 's/^pip install \(numpy .*\)/\1/p' mert/README.md)
	$(RUNTIME)/bin/python $(PIP) --no-deps -e .
	touch $@

$(FULL)/ready: pyproject.toml
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/python $(PIP) -e ".[$(ALL)]" "transformers==4.57.6"  # transformers: the oracle of the parity tests
	$(FULL)/bin/python $(PIP) --no-deps musicnn==0.1.0 basic-pitch==0.4.0  # teachers: their weights alone
	touch $@

clean:
	rm -rf $(LIGHT) $(FULL) $(RUNTIME) demo_out build dist
