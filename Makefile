# Two commands do everything on a fresh Debian 12 or 13: `make demo` and `make test`.
# What they need is installed first, by apt and pip; built parts stay in .cache.

PYTHON ?= python3
FIRMWARE ?= uefi
CUTS ?= 4200
MINUTES ?= 60
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help demo vm installer test test-quick test-model test-grub-all test-machines test-pages pictures test-health hostile crash-all soak bench bench-web lint rows docs install-tools clean distclean

help:
	@echo "make demo   one update, a bad one, and the fallback, in a virtual machine (FIRMWARE=bios|uefi)"
	@echo "make test   all tests; test-quick: without virtual machines that boot Linux;"
	@echo "            test-grub-all: every state of the boot rules in real GRUB;"
	@echo "            test-machines: the story under BIOS too, releases that panic or hang; first installs;"
	@echo "            test-pages: the page in a browser;"
	@echo "            test-health: every way in which a trial can end;"
	@echo "            hostile: hostile bundles, with what each costs;"
	@echo "            crash-all: the power cut at thousands of places of a device's life;"
	@echo "            soak: a machine updated back and forth, its power cut at random (MINUTES=60)"
	@echo "make vm     a virtual machine with a console to log in to"
	@echo "make installer  a stick that installs the demo's release: .cache/installer.img"
	@echo "make bench  beside tar, rsync, OSTree, RAUC, SWUpdate and others, timed"
	@echo "make bench-web  the page: uploads beside dd, memory, who may watch"
	@echo "make rows   what must work, with its tests and their last result"
	@echo "make docs   the parts of docs/ that come from the code"
	@echo "make clean  drop built releases and disks; distclean: also what was downloaded, and .venv"

demo: install-tools
	$(BIN)/python qemu/demo.py --firmware $(FIRMWARE)

vm: install-tools
	$(BIN)/python qemu/demo.py --console --firmware $(FIRMWARE)

installer: install-tools
	$(BIN)/python qemu/installer.py

test: test-quick
	$(BIN)/pytest -m "vm and not long"

test-quick: install-tools
	$(BIN)/pytest -n 2 --dist loadfile -m "not vm and not long"

# Machines that `make test` has no time for; an hour and a half.
test-machines: install-tools .cache/browser-apt.stamp
	$(BIN)/pytest -m long tests/vm/test_story.py tests/vm/test_hang.py tests/vm/test_state.py tests/vm/test_installer.py tests/vm/test_provision.py tests/vm/test_fielded.py tests/vm/test_rescue.py tests/vm/test_repairs.py tests/vm/test_yocto.py tests/vm/test_page.py

# The page in Debian's Chromium: every page in each of its states, and what people do there.
test-pages: install-tools .cache/browser-apt.stamp
	$(BIN)/pytest -m long tests/browser

# Its pictures, and docs/web-pages.md.
pictures: install-tools .cache/browser-apt.stamp
	$(BIN)/python -m tests.browser.pictures

# Every way a trial can end, in one machine, podman too; writes docs/health-stories.md. Half an hour.
test-health: install-tools
	ABUPDATE_STORIES=docs/health-stories.md $(BIN)/pytest tests/vm/test_health.py tests/vm/test_containers.py

# Every hostile input, those of 10 GB too; writes docs/hostile-inputs.md. Then the same with the
# other Debian's git here, and in a guest with its own. Twenty minutes.
hostile: install-tools
	ABUPDATE_HOSTILE=docs/hostile-inputs.md $(BIN)/pytest tests/slots/test_hostile_inputs.py tests/slots/test_other_git.py
	$(BIN)/pytest tests/vm/test_hostile.py

# A device's life, cut at thousands of places; mistakes that this must find; failing disks. An hour.
crash-all: install-tools
	rm -rf .cache/life
	PYTHONPATH=qemu $(BIN)/python -m tests.cuts --count $(CUTS) --minimum 500 --keep .cache/life
	PYTHONPATH=qemu $(BIN)/python -m tests.cuts.switch --minimum 500
	ABUPDATE_LIFE=.cache/life $(BIN)/pytest tests/vm/test_cuts.py tests/vm/test_switch_cuts.py tests/vm/test_disk_errors.py
	rm -rf .cache/life

# Updates back and forth, with the power cut at random moments. ARGS="--seed N": the same choices.
soak: install-tools
	PYTHONPATH=qemu $(BIN)/python -m tests.vm.soak --minutes $(MINUTES) $(ARGS)

# Everything that GRUB, userland, cuts and two faults can lead to; four minutes.
test-model: install-tools
	$(BIN)/python -m tests.model

# Every state of the boot rules in real GRUB; half an hour on two cores. ARGS=--other: the other
# Debian's GRUB; ARGS="--firmware uefi" takes three hours.
test-grub-all: install-tools
	PYTHONPATH=qemu $(BIN)/python -m tests.grub.switchbox
	PYTHONPATH=qemu $(BIN)/python -m tests.grub.sweep --all $(ARGS)

# abupdate beside its peers on real ext4, as root; twenty minutes, and twenty more the first time.
bench: install-tools .cache/bench-apt.stamp $(VENV)/bench-stamp
	PYTHONPATH=qemu $(BIN)/python -m bench --out .cache/bench.json --plot .cache/bench.svg $(ARGS)

bench-web: install-tools
	$(BIN)/python -m bench.web_upload --out docs/web-figures.md $(ARGS)

lint: install-tools
	$(BIN)/pytest tests/unit/test_style.py

rows: install-tools
	$(BIN)/python tests/rows.py

docs: install-tools
	$(BIN)/python -m tests.schema
	$(BIN)/python -m tests.boot_docs
	$(BIN)/python -m tests.web.docs
	$(BIN)/python -m tests.web.attacks
	PYTHONPATH=qemu $(BIN)/python -m tests.grub.boot_by_boot
	PYTHONPATH=qemu $(BIN)/python -m bench.report

install-tools: .cache/apt.stamp $(VENV)/stamp

.cache/apt.stamp: tests/apt-packages
.cache/bench-apt.stamp: bench/apt-packages
.cache/browser-apt.stamp: tests/browser/apt-packages

.cache/apt.stamp .cache/bench-apt.stamp .cache/browser-apt.stamp:
	@mkdir -p .cache
	@missing=$$(grep -v '^#' $< | while read -r name; do \
	  dpkg-query -W -f '$${Status}' $$name 2>/dev/null | grep -q 'ok installed' || echo $$name; done); \
	if [ -n "$$missing" ]; then \
	  echo "Installing: $$missing"; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    $$missing > .cache/apt.log 2>&1 || { tail -n 20 .cache/apt.log; exit 1; }; \
	fi
	@touch $@

$(VENV)/stamp: pyproject.toml .cache/apt.stamp
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,web]'
	@touch $@

$(VENV)/bench-stamp: $(VENV)/stamp
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf $(addprefix .cache/,system release series bundle disk kernel) build *.egg-info

distclean: clean
	rm -rf .cache $(VENV)
