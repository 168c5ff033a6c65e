# make demo: environment, then the whole main job on a dataset that the package plays itself.
# make test: environment, then the tests. make lint: style. make clean: all that these made.

PYTHON ?= python3
BIN = .venv/bin
INSTALLED = .venv/.installed
DEMO = --config config/demo.yaml
CHECKPOINT = runs/demo/last.ckpt

.PHONY: demo test lint clean

demo: $(INSTALLED)
	$(BIN)/python preprocess.py $(DEMO)
	$(BIN)/python main.py $(DEMO) $(addprefix --checkpoint_path ,$(wildcard $(CHECKPOINT)))
	$(BIN)/python linear_evaluation.py $(DEMO) --checkpoint_path $(CHECKPOINT)
	@echo "look at the runs: $(BIN)/tensorboard --logdir runs"

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .

# The mark is set last, so that an install that was interrupted is done again.
$(INSTALLED): requirements.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps -e .
	touch $(INSTALLED)

clean:
	rm -rf .venv data/demo data/processed/demo-* runs/demo
