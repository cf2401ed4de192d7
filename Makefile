# make demo: train and evaluate on the embedded digits. make test: run all checks.
GPU_PYTHON := $(if $(filter undefined,$(origin PYTHON)),.venv/bin/python,$(PYTHON))
PYTHON ?= python3
OUT ?= runs/gpu
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
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	.venv/bin/python -m pytest -n 2 --dist worksteal -m 'not slow and not gpu'

slow: .venv/dev.stamp
	.venv/bin/python -m pytest -m slow

# A given PYTHON is used directly, without .venv. -W default: other versions of the libraries have other warnings.
gpu: $(if $(filter .venv/%,$(GPU_PYTHON)),.venv/dev.stamp)
	@$(GPU_PYTHON) -c 'import torch; torch.cuda.is_available() or exit("error: GPU not there: torch finds none"); print("torch", torch.__version__, "on", torch.cuda.get_device_name())'
	mkdir -p '$(OUT)'
	status=0; \
	$(GPU_PYTHON) -m pytest -W default -m gpu tests/system/test_gpu.py || status=$$?; \
	$(GPU_PYTHON) main.py --benchmark augment --json > '$(OUT)/gpu.json' || exit; \
	echo 'The rows, versions and the name of the card are in $(OUT)/gpu.json'; \
	exit $$status

clean:
	rm -rf .venv build dist site
