# SPDX-License-Identifier: MIT
#
# make demo    builds a guest, restarts it with a real kexec, prints the proof
# make test    everything: what `make check` does, and the guests
# make bench   the way down beside systemd's and sysvinit's; ROWS="idle busy crowded disks", RUNS=3
# make soak    50 kexecs in a row of one guest with storage on storage, in three quarters of an hour; KEXECS=50
# make check   the quick part: lint, types, unit tests, namespaces; for every commit
# make install DESTDIR= PREFIX=/usr/local
#
# All but install work as root on a fresh Debian-like machine: what is missing is installed first.

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
PYTHON ?= /usr/bin/python3

CACHE := .cache
VENV := $(CACHE)/venv
LIBDIR := $(PREFIX)/lib/kexecd

# Not only to run: zstd, lz4 and lzop make what is unpacked, systemd-analyze is the other opinion about versions.
PACKAGES := python3 python3-venv python3-psutil python3-yaml util-linux mount e2fsprogs procps zstd lz4 lzop systemd \
	xfsprogs btrfs-progs
LAB_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap gdisk ovmf

.PHONY: demo test soak check bench install uninstall packages lab-packages clean

demo: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.demo

test: $(VENV)/ready lab-packages
	$(VENV)/bin/pytest tests

RUNS ?= 3

bench: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.bench $(ROWS) --runs $(RUNS)

KEXECS ?= 50

soak: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.soak $(KEXECS)

check: $(VENV)/ready
	$(VENV)/bin/pytest tests/unit tests/golden tests/namespaces

packages:
	@$(call install_missing,$(PACKAGES))

lab-packages:
	@$(call install_missing,$(LAB_PACKAGES))

# Only what is missing, and only then is the package list fetched.
define install_missing
	missing=$$(dpkg-query -W -f '$${Package} $${db:Status-Status}\n' $(1) 2>/dev/null | \
		awk '$$2 == "installed" { have[$$1] = 1 } END { split("$(1)", all, " "); for (i in all) if (!have[all[i]]) print all[i] }'); \
	[ -z "$$missing" ] && exit 0; \
	echo "installing" $$missing; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -q && apt-get install -q -y --no-install-recommends $$missing
endef

$(VENV)/ready: pyproject.toml | packages
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python .ci/requirements.py | xargs -d '\n' $(VENV)/bin/pip install --quiet --disable-pip-version-check
	touch $@

# A directory of its own and not site-packages: root's tool must not depend on which Python's path it lands in, and
# the launcher's -I keeps everybody else's modules out of it.
install:
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(SYSCONFDIR)/kexecd
	rm -rf $(DESTDIR)$(LIBDIR)/kexecd
	tar -c --exclude=__pycache__ kexecd | tar -x --no-same-owner -C $(DESTDIR)$(LIBDIR)
	$(PYTHON) -m compileall -q -s '$(DESTDIR)' $(DESTDIR)$(LIBDIR)/kexecd
	sed 's|@LIBDIR@|$(LIBDIR)|' config/kexecctl.in > $(DESTDIR)$(PREFIX)/sbin/kexecctl
	chmod 755 $(DESTDIR)$(PREFIX)/sbin/kexecctl
	[ -e $(DESTDIR)$(SYSCONFDIR)/kexecd/kexecd.yaml ] || \
		install -m 644 config/kexecd.yaml $(DESTDIR)$(SYSCONFDIR)/kexecd/kexecd.yaml
	install -d -m 755 $(DESTDIR)$(SYSCONFDIR)/kexecd/hooks.d
	install -m 644 config/hooks.d/README $(DESTDIR)$(SYSCONFDIR)/kexecd/hooks.d/README

uninstall:
	rm -rf $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/sbin/kexecctl

clean:
	rm -rf $(CACHE)
