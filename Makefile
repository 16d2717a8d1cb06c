# What CI runs, one target each: .ci/run calls these.
.PHONY: install lint types test coverage miniatures slurm examples gpu

install:        ## the package with all that tests and linters need
	pip install --quiet -e '.[test,dev]'

lint:
	ruff check .
	ruff format --check .

types:
	mypy

test:           ## everything that needs no SLURM
	python -m pytest -n 2

coverage:       ## the same, with the share of lines that they run (Python 3.12 or later, or it takes twice as long)
	COVERAGE_CORE=sysmon python -m pytest -n 2 --cov=harness --cov=models --cov-report=term:skip-covered

slurm:          ## on the real test cluster (tests/slurm/cluster.sh up 3)
	HARNESS_REQUIRE_SLURM=1 python -m pytest tests/slurm -m slurm --durations=10

miniatures:     ## the sweeps at the paper's scale, as they ship but for their sizes
	python tools/miniatures.py

examples:       ## random configurations of the schema, each run to its report
	HARNESS_EXAMPLES=$${HARNESS_EXAMPLES:-300} python -m pytest tests/harness/test_every_configuration.py

gpu:            ## what a GPU does with all this, in a quarter of an hour; DATA=FOLDER of Tiny-ImageNet's zips
	python tools/gpu.py --out $${OUT:-results/local/gpu} $(if $(DATA),--data $(DATA))
