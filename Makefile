# Run `make` for the list of targets.

PYTHON = /usr/bin/python3
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' helpers/__init__.py)
DEB = dist/torpor_$(VERSION)_all.deb
WHEEL = dist/torpor-$(VERSION)-py3-none-any.whl
RPM = dist/torpor-$(VERSION)-1.noarch.rpm

MACHINES = 2# at once

HOST_PACKAGES = tests/machine/host-packages
DEB_PACKAGES = dpkg-dev debhelper dh-python go-md2man lintian
RPM_PACKAGES = rpm go-md2man
WHEEL_PACKAGES = python3-build python3-setuptools python3-wheel
LINT_PACKAGES = python3-venv
TEST_PACKAGES = python3-pytest python3-pytest-xdist python3-pytest-timeout
UNIT_PACKAGES = $(TEST_PACKAGES) python3-pyroute2 python3-pystemd python3-prctl python3-yaml python3-xxhash \
	python3-hypothesis

# What is installed, and so what a package depends on.
TREES = helpers hooks units packaging
PARTS = $(wildcard $(TREES) setup.cfg pyproject.toml README.md LICENSE Makefile docs)
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
.PHONY: help deb rpm wheel install uninstall machine shell demo test test-unit fuzz test-machine test-vm test-kills \
	bench bench-network lint clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

deb: $(DEB) ## Debian package, in dist/
rpm: $(RPM) ## RPM package, in dist/
wheel: $(WHEEL) ## Python wheel of the library and the command, in dist/

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

$(RPM): $(SOURCES) $(FOLDERS)
	@# Where it is at home there is no dpkg to ask.
	@command -v rpmbuild go-md2man >/dev/null || $(HOST_PACKAGES) $(RPM_PACKAGES)
	$(call stage,build/rpm/torpor-$(VERSION))
	tar -C build/rpm -czf build/rpm/torpor-$(VERSION).tar.gz torpor-$(VERSION)
	@# --nodeps: what the specification needs is named as Fedora does.
	cd build/rpm && rpmbuild -bb --nodeps --define "_topdir $$PWD" --define "_sourcedir $$PWD" \
		--define "torpor_version $(VERSION)" \
		torpor-$(VERSION)/packaging/torpor.spec >../rpm.log 2>&1 || { tail -n 40 ../rpm.log; exit 1; }
	mv build/rpm/RPMS/noarch/torpor-$(VERSION)-1*.noarch.rpm $@
	touch $@

$(WHEEL): $(SOURCES) $(FOLDERS)
	@$(HOST_PACKAGES) $(WHEEL_PACKAGES)
	$(call stage,build/wheel)
	cd build/wheel && $(PYTHON) -m build --no-isolation --wheel --outdir $(CURDIR)/dist >../wheel.log 2>&1 || \
		{ tail -n 40 ../wheel.log; exit 1; }
	touch $@

# What is installed where: by `make install`, and so in both packages. Files name others by their
# places below /usr, which are replaced.
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
LIBEXECDIR = $(PREFIX)/libexec
DATADIR = $(PREFIX)/share
SYSTEMDDIR = $(PREFIX)/lib/systemd
PYTHONDIR = $(PREFIX)/lib/python3/dist-packages
# Where the Python packages that torpor needs are, too.
PYTHONPATHS = $(PYTHONDIR) $(shell $(PYTHON) -c 'import site; print(*site.getsitepackages())')
# Those of /usr/local are read by nobody.
HOOKSDIR = $(if $(filter /usr,$(PREFIX)),/usr/share,/etc)/containers/oci/hooks.d
ZSHDIR = $(DATADIR)/zsh/site-functions

# go-md2man reads the Markdown that the manual pages of runc and podman are written in, and is
# kept by their people; pandoc would do, at a hundred times the size. In a table it begins a new
# line behind a cell that is a paragraph, where tbl(1) wants a tab, and leaves the columns wider
# than the page.
MAN = go-md2man | sed -z 's/T}\n\t/T}\t/g; s/\nl l l \nl l l \.\n/\nl lx lx.\n/g'

comma := ,
empty :=
space := $(empty) $(empty)
quoted = $(subst $(space),$(comma) ,$(foreach word,$(1),"$(word)"))
unique = $(if $(1),$(firstword $(1)) $(call unique,$(filter-out $(firstword $(1)),$(1))))
REPLACED = sed -e 's|/usr/libexec/torpor|$(LIBEXECDIR)/torpor|g' -e 's|/usr/share/torpor|$(DATADIR)/torpor|g' \
	-e 's|/usr/share/doc/torpor|$(DATADIR)/doc/torpor|g' -e 's|/usr/bin/torpor|$(BINDIR)/torpor|g' \
	-e 's,^\(\#!\|.*exec \)/usr/bin/python3,\1$(PYTHON),' \
	-e 's|"/usr/lib/python3/dist-packages"|$(call quoted,$(call unique,$(PYTHONPATHS)))|'

# $(call put,MODE,DIRECTORY,FILES[,FILTER]): renamed, as somebody may be running what is there
define put
	@install -d "$(DESTDIR)$(2)"
	@for file in $(3); do to="$(DESTDIR)$(2)/$${file##*/}"; $(if $(4),to=$${to%.md};) \
		<"$$file" $(REPLACED) $(if $(4),| $(4)) >"$$to.new" && chmod $(1) "$$to.new" && \
		mv -f "$$to.new" "$$to" || exit; done

endef

install: ## all of it, without a package: DESTDIR= PREFIX=/usr/local
	@command -v go-md2man >/dev/null || { echo "the manual pages need go-md2man, a package" >&2; exit 1; }
	$(call put,644,$(PYTHONDIR)/torpor,helpers/*.py)
	$(call put,644,$(PYTHONDIR)/torpor/commands,helpers/commands/*.py)
	$(call put,644,$(PYTHONDIR)/torpor/hooks,hooks/*.py)
	$(call put,755,$(BINDIR),packaging/bin/*)
	$(call put,755,$(LIBEXECDIR)/torpor,$(filter-out %/hooks,$(wildcard packaging/libexec/*)))
	$(call put,755,$(LIBEXECDIR)/torpor/hooks,packaging/libexec/hooks/*)
	$(call put,644,$(SYSTEMDDIR)/system,units/*)
	$(call put,755,$(SYSTEMDDIR)/system-generators,packaging/system-generators/*)
	$(call put,644,$(SYSTEMDDIR)/catalog,packaging/*.catalog)
	$(call put,644,$(HOOKSDIR),packaging/hooks.d/*)
	$(call put,644,$(DATADIR)/torpor,packaging/*.conf)
	$(call put,644,$(DATADIR)/doc/torpor,README.md)
	$(call put,644,$(DATADIR)/doc/torpor/docs,docs/*.md docs/*.svg)
	$(call put,644,$(DATADIR)/doc/torpor/docs/howto,docs/howto/*.md)
	$(call put,644,$(DATADIR)/doc/torpor/examples,packaging/*.sample)
	$(call put,644,$(DATADIR)/bash-completion/completions,packaging/completions/torpor)
	$(call put,644,$(ZSHDIR),packaging/completions/_torpor)
	$(call put,644,$(DATADIR)/fish/vendor_completions.d,packaging/completions/torpor.fish)
	$(foreach section,1 5 7 8,$(call put,644,$(DATADIR)/man/man$(section),packaging/man/*.$(section).md,$(MAN)))
	$(if $(DESTDIR),,$(PYTHON) -m compileall -q "$(PYTHONDIR)/torpor")
	@$(if $(DESTDIR),,echo "now: systemctl daemon-reload; journalctl --update-catalog")

# What is in these is torpor's alone; of others `make uninstall` removes files.
OWN = $(PYTHONDIR)/torpor $(LIBEXECDIR)/torpor $(DATADIR)/torpor $(DATADIR)/doc/torpor

uninstall: ## what `make install` has installed, with the same DESTDIR= and PREFIX=
	@rm -rf build/installed
	@$(MAKE) --no-print-directory install DESTDIR=$(CURDIR)/build/installed
	@# It takes away what puts containers to sleep.
	$(if $(DESTDIR),,-[ ! -d /run/systemd/system ] || \
		systemctl stop 'torpor-snapshot@*' torpor-metrics.timer 'torpor@*.service')
	cd build/installed && find . -type f -printf '%P\0' | (cd "$(abspath $(DESTDIR))/" && xargs -0 rm -f)
	$(foreach place,$(OWN),rm -rf "$(DESTDIR)$(place)" &&) true

machine: $(DEB) ## boot a test machine, show what it has, power off
	$(PYTHON) tests/machine/machine.py smoke

shell: $(DEB) ## boot a test machine and give a root shell in it
	$(PYTHON) tests/machine/machine.py shell

demo: $(DEB) ## a container that sleeps and wakes, in a test machine
	$(PYTHON) tests/machine/demo.py

test: test-unit $(DEB) ## all tests; MACHINE=sid: in a machine of Debian unstable, without the VM
	@# The VM takes one processor; machines mostly wait.
	@$(MAKE) --no-print-directory --jobs=2 test-machine $(if $(MACHINE),,test-vm) LATER=build/test-vm.log

test-unit: ## tests that need neither root nor systemd
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	$(PYTHON) -m pytest tests/unit

fuzz: ## every reader with many more hostile inputs: SCALE=20 times as many as in test-unit
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	TORPOR_FUZZ_SCALE=$(or $(SCALE),20) $(PYTHON) -m pytest tests/unit -m fuzz

test-machine: $(DEB) ## tests inside a booted systemd; needs root
	@$(HOST_PACKAGES) $(TEST_PACKAGES)
	$(PYTHON) -m pytest --numprocesses=$(MACHINES) --dist=loadfile --timeout=600 --durations=25 tests/machine

test-vm: $(DEB) ## tests with a kernel of their own, in an emulated machine: CUTS=1 power cuts, STATES=120 disks
	@$(HOST_PACKAGES) $(UNIT_PACKAGES)
	$(PYTHON) -m pytest --timeout=1800 --durations=10 tests/vm $(if $(LATER),>$(LATER) 2>&1; status=$$?; cat $(LATER); exit $$status)

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
