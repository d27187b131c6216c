# Run `make` for the list of targets.

PYTHON = /usr/bin/python3
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' helpers/__init__.py)
DEB = dist/torpor_$(VERSION)_all.deb
WHEEL = dist/torpor-$(VERSION)-py3-none-any.whl

MACHINES = 2# at once

HOST_PACKAGES = tests/machine/host-packages
DEB_PACKAGES = dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools \
	python3-wheel go-md2man lintian
WHEEL_PACKAGES = python3-build python3-setuptools python3-wheel
LINT_PACKAGES = python3-venv
TEST_PACKAGES = python3-pytest python3-pytest-xdist python3-pytest-timeout
UNIT_PACKAGES = $(TEST_PACKAGES) python3-pyroute2 python3-pystemd python3-prctl python3-yaml python3-xxhash \
	python3-hypothesis

# What is installed, and so what a package depends on.
TREES = helpers hooks units packaging
PARTS = $(wildcard $(TREES) setup.cfg pyproject.toml README.md LICENSE)
SOURCES := $(shell find $(PARTS) -name __pycache__ -prune -o -type f -print)
# Directories too: a file that was removed changes them.
FOLDERS := $(shell find $(wildcard $(TREES)) -name __pycache__ -prune -o -type d -print)

# A file that goes away between this list and the build is no fault.
$(SOURCES) $(FOLDERS):;

# $(call stage,DIRECTORY): a clean copy of the sources to build in
define stage
rm -rf $(1)
mkdir -p $(1) dist
cp -a $(PARTS) $(1)
find $(1) -name __pycache__ -prune -exec rm -r {} +
endef

export PYTHONDONTWRITEBYTECODE = 1
# Debian's tools, and not another Python that somebody put before them.
export PATH := /usr/sbin:/usr/bin:/sbin:/bin:$(PATH)

.DEFAULT_GOAL = help
.PHONY: help deb wheel machine shell demo test test-unit fuzz test-machine test-vm test-kills \
	bench bench-network lint clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

deb: $(DEB) ## Debian package, in dist/
wheel: $(WHEEL) ## Python wheel, in dist/

$(DEB): $(SOURCES) $(FOLDERS)
	@$(HOST_PACKAGES) $(DEB_PACKAGES)
	$(call stage,build/deb/torpor)
	mv build/deb/torpor/packaging/debian build/deb/torpor/debian
	@cd build/deb/torpor && case "$$(dpkg-parsechangelog -S Version)" in $(VERSION)) ;; \
		*) echo "packaging/debian/changelog is not at $(VERSION)" >&2; exit 1;; esac
	cd build/deb/torpor && dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || \
		{ tail -n 40 ../build.log; exit 1; }
	lintian --allow-root --fail-on error build/deb/torpor_$(VERSION)_all.deb
	mv build/deb/torpor_$(VERSION)_all.deb $@
	touch $@

$(WHEEL): $(SOURCES) $(FOLDERS)
	@$(HOST_PACKAGES) $(WHEEL_PACKAGES)
	$(call stage,build/wheel)
	cd build/wheel && $(PYTHON) -m build --no-isolation --wheel --outdir $(CURDIR)/dist >../wheel.log 2>&1 || \
		{ tail -n 40 ../wheel.log; exit 1; }
	touch $@

machine: $(DEB) ## boot a test machine, show what it has, power off
	$(PYTHON) tests/machine/machine.py smoke

shell: $(DEB) ## boot a test machine and give a root shell in it
	$(PYTHON) tests/machine/machine.py shell

demo: $(DEB) ## a container that sleeps and wakes, in a test machine
	$(PYTHON) tests/machine/demo.py

test: test-unit $(DEB) ## all tests
	@# The VM takes one processor; machines mostly wait.
	@$(MAKE) --no-print-directory --jobs=2 test-machine test-vm LATER=build/test-vm.log

test-unit: ## tests that need neither root nor systemd
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	$(PYTHON) -m pytest tests/unit

fuzz: ## every reader with many more hostile inputs: SCALE=20 times as many as in test-unit
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	TORPOR_FUZZ_SCALE=$(or $(SCALE),20) $(PYTHON) -m pytest tests/unit -m fuzz

test-machine: $(DEB) ## tests inside a booted systemd; needs root
	@$(HOST_PACKAGES) $(TEST_PACKAGES)
	$(PYTHON) -m pytest --numprocesses=$(MACHINES) --dist=loadfile --timeout=600 tests/machine

test-vm: $(DEB) ## tests with a kernel of their own, in an emulated machine: CUTS=2 power cuts
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	$(PYTHON) -m pytest --timeout=1800 tests/vm $(if $(LATER),>$(LATER) 2>&1; status=$$?; cat $(LATER); exit $$status)

test-kills: $(DEB) ## KILLS=3000 random kills, SEED= to choose as before
	@$(HOST_PACKAGES) $(TEST_PACKAGES)
	KILLS=$(or $(KILLS),3000) $(PYTHON) -m pytest -s tests/machine/test_random_kills.py

bench: $(DEB) ## torpor beside its peers; BENCH=quick takes two minutes instead of ten; needs root
	@$(HOST_PACKAGES) python3-matplotlib
	$(PYTHON) tests/bench/bench.py $(if $(filter quick,$(BENCH)),--quick)

bench-network: $(DEB) ## what a network adds to a start, a sleep and a wake; needs root
	$(PYTHON) tests/bench/network.py $(ROUNDS)

lint: build/venv/ready ## ruff and mypy
	build/venv/bin/ruff check --cache-dir build/ruff .
	build/venv/bin/ruff format --cache-dir build/ruff --check .
	@# The package as it is installed: torpor is helpers/ with hooks/ inside.
	@rm -rf build/lint && mkdir -p build/lint/torpor
	@ln -s $(CURDIR)/helpers/* $(CURDIR)/hooks build/lint/torpor/
	build/venv/bin/mypy build/lint/torpor
	build/venv/bin/mypy tests

# Neither ruff nor types-PyYAML is in Debian 12 or 13; pytest and hypothesis for their types.
build/venv/ready:
	@$(HOST_PACKAGES) $(LINT_PACKAGES)
	$(PYTHON) -m venv build/venv
	build/venv/bin/pip install --quiet ruff mypy types-PyYAML pytest hypothesis
	touch $@

clean: ## remove what make made
	rm -rf build dist
