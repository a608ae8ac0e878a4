# Two commands do everything, set-up included: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/wardrobe
export DS_BUILD_OPS := 0
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test fuzz lint audit zoo zoo-eval proofs proofs-probe proofs-removal proofs-reinforce proofs-curve proofs-rounds proofs-slider proofs-worlds proofs-total proofs-rare proofs-two proofs-noise proofs-stamps proofs-clean chaos chaos-driver chaos-actor \
	bench-scale bench-scale-planning bench-scale-resuming bench-scale-dataflow bench-scale-gpus bench bench-slots bench-early bench-writer bench-finish bench-handoff bench-language bench-loader \
	bench-demo bench-gpu bench-large cards clean

demo: $(VENV)/installed ## the whole loop on the wardrobe: generate, probe, reinforce, report
	$(BIN)/counterforge run configs/wardrobe.yaml --out $(OUT)
	$(BIN)/counterforge show $(OUT)
	$(BIN)/python -m engine.figures --run $(OUT)

# Compiled once, whatever PYTHONDONTWRITEBYTECODE says: the tests start hundreds of processes that import it.
# Three at a time, on two cores too: many tests wait for processes that they have started.
test: $(VENV)/installed-dev ## every test
	$(BIN)/python -m compileall -q engine actors cluster tests
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder

FUZZ_SECONDS ?= 600

fuzz: $(VENV)/installed-dev ## random inputs against second readers, ten minutes; FUZZ_ONLY=NAME FUZZ_SEED=N repeat a failure
	FUZZ_SECONDS=$(FUZZ_SECONDS) PYTHONPATH=tests/support $(BIN)/python -m tests.fuzz

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive engine actors cluster

# It asks pypi.org; add `--ignore-vuln ID`, with the reason here, for one that does not concern us.
audit: $(VENV)/installed-dev ## known vulnerabilities of what is installed
	$(BIN)/python .ci/audit.py

zoo: $(VENV)/installed-dev ## train the tiny models again; needs Debian's dataset-fashion-mnist or --fashion-mnist DIR
	$(BIN)/python -m actors.zoo.recipes.make

zoo-eval: $(VENV)/installed ## measure the tiny models on held-out garments: a table and build/figures/zoo-eval.json
	$(BIN)/python -m actors.zoo.exam.evaluate

proofs: $(VENV)/installed ## the statistical proofs, hours on two cores: tables and build/figures/proofs-*.json
	$(BIN)/python -m cluster.studies.proofs.planted
	$(BIN)/python -m cluster.studies.proofs
	$(BIN)/python -m cluster.studies.proofs.worlds

proofs-probe proofs-removal: $(VENV)/installed ## one of them
	$(BIN)/python -m cluster.studies.proofs.planted --only $(@:proofs-%=%)

proofs-reinforce proofs-curve proofs-rounds proofs-slider: $(VENV)/installed
	$(BIN)/python -m cluster.studies.proofs --only $(@:proofs-%=%)

proofs-worlds: $(VENV)/installed ## the worlds where edits matter, hours on two cores; or one of them, as in `make proofs-total`
	$(BIN)/python -m cluster.studies.proofs.worlds

proofs-total proofs-rare proofs-two proofs-noise proofs-stamps proofs-clean: $(VENV)/installed
	$(BIN)/python -m cluster.studies.proofs.worlds --only $(@:proofs-%=%)

CHAOS := configs/wardrobe.yaml --kills 100 --set data.num_sources=48 \
	--set data.num_validation_sources=0 --set shards.sources_per_shard=4 \
	--set 'groups=[[captioner,perturber],[editor,verifier]]' --set 'stages.editor.placement.replicas=[1,1]' \
	--set stages.editor.unet_rows=16

chaos: $(VENV)/installed ## kill drivers, workers and nodes of a small run and compare every byte; hours on two cores
	$(BIN)/counterforge chaos $(CHAOS)

chaos-driver chaos-actor: $(VENV)/installed ## one of them, an hour
	$(BIN)/counterforge chaos $(CHAOS) --faults $(@:chaos-%=%)

bench-scale: $(VENV)/installed-dev ## planning, going on and simulated GPUs at size, an hour on two cores that do nothing else
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.scale

bench-scale-planning bench-scale-resuming bench-scale-dataflow bench-scale-gpus: $(VENV)/installed-dev ## a part of it
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.scale --only $(@:bench-scale-%=%)

bench: $(VENV)/installed-dev ## every figure of speed that needs no GPU, against its peers, three quarters of an hour on two idle cores
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.bench

bench-slots bench-early bench-writer bench-finish bench-handoff bench-language bench-loader: $(VENV)/installed-dev ## a part of it
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.bench --only $(@:bench-%=%)

bench-gpu: $(VENV)/installed-dev ## the editor on a GPU, at true size; ARGS="--size tiny" runs the same code on a CPU
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.bench_gpu $(ARGS)

bench-large: $(VENV)/installed-dev ## ViT-L and ConvNeXt-L in fine-tuning, half an hour on two idle cores; ARGS="--model vit_l --case lora" is one
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.large $(ARGS)

bench-demo: $(VENV)/installed-dev ## the demo here against AGAINST=REVISION, A-B-B-A
	PYTHONPATH=tests/support $(BIN)/python -m tests.benchmarks.demo --against $(AGAINST) $(ARGS)

cards: $(VENV)/installed ## fill the tables of all READMEs, SCALING.md and RESULTS.md, and README's picture, with what build/figures has
	if [ -e build/figures/demo.jpg ]; then cp build/figures/demo.jpg .github/result.jpg; fi
	$(BIN)/python -m engine.figures README.md $$(find actors cluster configs engine tests -name '*.md')

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
