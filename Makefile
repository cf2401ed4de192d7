# make demo: train and evaluate on the embedded digits. make test: run every check.
PYTHON ?= python3
CONFIG = ResNet8-cutout-agmax

.PHONY: demo test slow gpu clean

.venv/requirements.stamp: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/dev.stamp: .venv/requirements.stamp pyproject.toml
	.venv/bin/python -m pip install --quiet --group dev
	touch $@

demo: .venv/requirements.stamp
	.venv/bin/python main.py --config=$(CONFIG) --train --dataset=digits train.precision=auto
	.venv/bin/python main.py --config=$(CONFIG) --eval --dataset=digits --resume train.precision=auto

test: .venv/dev.stamp
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy --strict agmax main.py
	.venv/bin/python -m pytest -n 2 --dist worksteal -m 'not slow and not gpu'

slow gpu: .venv/dev.stamp
	.venv/bin/python -m pytest -m $@

clean:
	rm -rf .venv build dist
