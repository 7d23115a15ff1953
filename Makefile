# make install: the environment; make demo: the whole way on real digits; make test: all tests; make gpu-check: all that
# needs a GPU, its tests, results and times, on a machine that has one.
PYTHON ?= python3
BIN := .venv/bin
NETC := $(BIN)/netc
RUN := runs/demo

.PHONY: install demo test gpu-check clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test]'
	@$(BIN)/python -m compileall -q dsl compiler runtime netc
	@touch $@

demo: install
	@rm -rf $(RUN) && mkdir -p $(RUN)
	$(NETC) check specs/digits.net
	$(NETC) show specs/digits.net
	$(NETC) train specs/digits.net --out $(RUN)/train
	$(NETC) compile specs/digits.net --params $(RUN)/train/best.safetensors -o $(RUN)/digits.netb
	$(NETC) inspect $(RUN)/digits.netb
	@$(BIN)/python -c 'import sys; from compiler.cuda import available; sys.exit(0 if available() else 1)' \
	  && (set -x; $(NETC) compile specs/digits.net --params $(RUN)/train/best.safetensors --target cuda:sm_80,sm_90 \
	      -o $(RUN)/digits-cuda.netb) \
	  || echo "no CUDA compiler found: the GPU binary is left out (pip install -e '.[cuda]' brings one)"
	$(NETC) run $(RUN)/digits.netb --input image=specs/data/digit-7.png
	$(NETC) test $(RUN)/digits.netb

test: install
	$(BIN)/python -m pytest -n auto

gpu-check: install
	$(BIN)/python benchmarks/gpu_check.py

clean:
	rm -rf .venv build runs *.egg-info
