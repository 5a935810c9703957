# SPDX-License-Identifier: MIT
#
# make demo    builds a guest, restarts it with a real kexec, prints the proof
# make demo-live  a server whose memory outlives kexecs, by files and by live update; compiles a kernel first
# make test    everything: what `make check` does, and the guests
# make bench   the way down beside systemd's and sysvinit's; ROWS="idle busy crowded disks", RUNS=3
# make soak    50 kexecs in a row of one guest with storage on storage, in three quarters of an hour; KEXECS=50
# make check   the quick part: lint, types, unit tests, namespaces; for every commit
# make matrix  every door out of a machine on every guest: kexec where it should be, and nothing lost
# make campaign  every kind of bad kernel, on systemd and on OpenRC: the machine comes back, and remembers why
# make install DESTDIR= PREFIX=/usr/local INITS="systemd openrc"    (Debian: "systemd lsb"); make uninstall takes it away
# make deb     .cache/deb/kexecd_*_all.deb
#
# All but install work as root on a fresh Debian-like machine: what is missing is installed first.

PREFIX ?= /usr/local
DESTDIR ?=
SYSCONFDIR ?= /etc
PYTHON ?= /usr/bin/python3
COMPILE ?= yes

# Debian's two inits beside systemd read LSB scripts, everybody else's OpenRC reads its own.
INITS ?= systemd $(if $(wildcard $(DESTDIR)/etc/debian_version),lsb,openrc)

CACHE := .cache
VENV := $(CACHE)/venv
LIBDIR := $(PREFIX)/lib/kexecd
SBINDIR := $(PREFIX)/sbin
DOCDIR := $(PREFIX)/share/doc/kexecd
MANDIR := $(PREFIX)/share/man
# Read by systemd and the bus in one place only, or from a filesystem that is there to the last; whatever PREFIX is.
SYSTEMD_DIR ?= /usr/lib/systemd
TMPFILES_DIR ?= /usr/lib/tmpfiles.d
SHAREDIR ?= /usr/share

# Not only to run: zstd, lz4 and lzop make what is unpacked, systemd-analyze is the other opinion about versions, dbus,
# polkitd, dbusmock and pydbus are the bus and its other ends, shellcheck and lintian read what is installed.
PACKAGES := python3 python3-venv python3-psutil python3-yaml util-linux mount e2fsprogs procps zstd lz4 lzop systemd \
	xfsprogs btrfs-progs dbus polkitd python3-dbusmock python3-pydbus python3-jeepney python3-systemd shellcheck lintian \
	qemu-utils
LAB_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap gdisk ovmf
# For a kernel with live update, which no kernel of Debian's has.
KERNEL_PACKAGES := gcc make flex bison bc libelf-dev xz-utils zstd

.PHONY: demo demo-live test soak check bench bench-live matrix campaign install enable uninstall deb packages lab-packages kernel-packages clean

demo: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.demo

demo-live: $(VENV)/ready lab-packages kernel-packages
	$(VENV)/bin/python -m tests.vm.liveupdate.demo

# At a time: an emulated guest takes a core.
GUESTS ?= 2

# Those who freeze filesystems and kill thousands want the machine's kernel for themselves, and those of perf measure.
WORKERS ?= 2
ALONE = tests/namespaces tests/perf

test: $(VENV)/ready lab-packages kernel-packages
	$(VENV)/bin/pytest tests $(patsubst %,--ignore=%,tests/vm $(ALONE)) -n $(WORKERS)
	$(VENV)/bin/pytest $(ALONE)
	$(VENV)/bin/pytest tests/vm -vv -n $(GUESTS) --dist loadfile --durations=30

RUNS ?= 3

bench: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.bench $(ROWS) --runs $(RUNS)

bench-live: $(VENV)/ready lab-packages kernel-packages
	$(VENV)/bin/python -m tests.vm.liveupdate.bench --runs $(RUNS)

matrix: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.doors --guests $(GUESTS)

campaign: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.campaign --guests $(GUESTS)

KEXECS ?= 50

soak: $(VENV)/ready lab-packages
	$(VENV)/bin/python -m tests.vm.soak $(KEXECS)

check: $(VENV)/ready
	$(VENV)/bin/pytest tests/unit tests/golden tests/bus -n $(WORKERS)
	$(VENV)/bin/pytest tests/namespaces

packages:
	@$(call install_missing,$(PACKAGES))

lab-packages:
	@$(call install_missing,$(LAB_PACKAGES))

kernel-packages:
	@$(call install_missing,$(KERNEL_PACKAGES))

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

# What is installed besides the package itself: from, to, mode. Each file is filled in: see FILL.
FILES = \
	config/kexecctl.in|$(SBINDIR)/kexecctl|755 \
	config/kexecd.in|$(SBINDIR)/kexecd|755 \
	config/hooks.d/README|$(SYSCONFDIR)/kexecd/hooks.d/README|644 \
	config/completion/kexecctl|$(SHAREDIR)/bash-completion/completions/kexecctl|644 \
	config/dbus/org.kexecd.conf|$(SHAREDIR)/dbus-1/system.d/org.kexecd.conf|644 \
	config/dbus/org.kexecd.service|$(SHAREDIR)/dbus-1/system-services/org.kexecd.service|644 \
	config/polkit/org.kexecd.policy|$(SHAREDIR)/polkit-1/actions/org.kexecd.policy|644 \
	README.md|$(DOCDIR)/README.md|644 \
	$(foreach page,$(wildcard docs/*.md),$(page)|$(DOCDIR)/$(notdir $(page))|644) \
	$(foreach page,kexecctl.8 kexecd.8,docs/man/$(page)|$(MANDIR)/man8/$(page)|644) \
	$(foreach init,$(INITS),$(FILES_$(init)))

FILES_systemd = \
	$(foreach unit,kexecd kexecd-preload kexecd-freeze kexecd-confirm kexecd-finish kexecd-state,\
		units/$(unit).service|$(SYSTEMD_DIR)/system/$(unit).service|644) \
	units/systemd-reboot.service.d/kexecd.conf|$(SYSTEMD_DIR)/system/systemd-reboot.service.d/kexecd.conf|644 \
	units/systemd-bless-boot.service.d/kexecd.conf|$(SYSTEMD_DIR)/system/systemd-bless-boot.service.d/kexecd.conf|644 \
	units/kexecd-reboot|$(SYSTEMD_DIR)/kexecd-reboot|755 \
	units/system-shutdown/kexecd.shutdown|$(SYSTEMD_DIR)/system-shutdown/kexecd.shutdown|755 \
	units/90-kexecd.preset|$(SYSTEMD_DIR)/system-preset/90-kexecd.preset|644 \
	config/tmpfiles.d/kexecd.conf|$(TMPFILES_DIR)/kexecd.conf|644

FILES_openrc = $(foreach script,kexec kexec-jump kexec-confirm kexec-finish kexecd kexecd-state,\
	openrc/$(script)|$(SYSCONFDIR)/init.d/$(script)|755)

FILES_lsb = $(foreach script,kexecd-preload kexecd-hooks kexecd-jump kexecd-confirm kexecd-finish kexecd-state,\
	openrc/lsb/$(script)|$(SYSCONFDIR)/init.d/$(script)|755)

FILL = sed -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@SBINDIR@|$(SBINDIR)|g' -e 's|@DOCDIR@|$(DOCDIR)|g' \
	-e 's|@SYSTEMD@|$(SYSTEMD_DIR)|g' -e 's|@PYTHON@|$(PYTHON)|g'

# systemd would make services of these scripts of Debian's sysv-rc too, if they were not masked: there PID 1 jumps
# itself, and the hooks have a unit of another name.
MASKED = $(foreach script,kexecd-jump kexecd-hooks,$(SYSTEMD_DIR)/system/$(script).service)

# Of Gentoo's kexec-tools too; ours takes its place only if the administrator has made room.
SHARED = $(SYSCONFDIR)/init.d/kexec

# A directory of its own and not site-packages: root's tool must not depend on which Python's path it lands in, and
# the launcher's -I keeps everybody else's modules out of it.
install:
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(SYSCONFDIR)/kexecd/hooks.d
	rm -rf $(DESTDIR)$(LIBDIR)/kexecd
	tar -c --exclude=__pycache__ --mode=u=rwX,go=rX kexecd | tar -x --no-same-owner -C $(DESTDIR)$(LIBDIR)
	[ '$(COMPILE)' = no ] || $(PYTHON) -m compileall -q -s '$(DESTDIR)' $(DESTDIR)$(LIBDIR)/kexecd
	@set -e; for row in $(foreach row,$(FILES),'$(row)'); do \
		from=$${row%%|*} to=$${row#*|} mode=$${row##*|}; to=$(DESTDIR)$${to%|*}; \
		if [ "$$to" = '$(DESTDIR)$(SHARED)' ] && [ -e "$$to" ] && ! grep -q kexecctl "$$to"; then \
			echo "kept $$to, which is not ours: kexecd's own is left out" >&2; continue; \
		fi; \
		[ -e "$$from" ] || { echo "$$from is not there" >&2; exit 1; }; \
		mkdir -p "$$(dirname "$$to")"; \
		$(FILL) "$$from" | install -m "$$mode" /dev/stdin "$$to"; \
	done
	[ -e $(DESTDIR)$(SYSCONFDIR)/kexecd/kexecd.yaml ] || \
		install -m 644 config/kexecd.yaml $(DESTDIR)$(SYSCONFDIR)/kexecd/kexecd.yaml
	$(if $(filter systemd,$(INITS)),for unit in $(MASKED); do ln -sfn /dev/null $(DESTDIR)$$unit; done)
	$(if $(DESTDIR),,$(MAKE) --no-print-directory enable)

# What jumps into an image that is loaded, and what finishes a restart; that every restart is one is left to the
# administrator. A package does the same when it is installed.
enable:
	@.ci/enable '$(DESTDIR)' $(INITS)

# The configuration is the administrator's, and stays.
uninstall:
	@.ci/enable --not '$(DESTDIR)' $(INITS)
	rm -rf $(DESTDIR)$(LIBDIR)
	@for row in $(foreach row,$(FILES),'$(row)'); do \
		to=$${row#*|}; to=$(DESTDIR)$${to%|*}; \
		if [ "$$to" = '$(DESTDIR)$(SHARED)' ] && ! grep -qs kexecctl "$$to"; then continue; fi; \
		rm -f "$$to"; rmdir "$$(dirname "$$to")" 2> /dev/null || :; \
	done
	$(if $(filter systemd,$(INITS)),rm -f $(addprefix $(DESTDIR),$(MASKED)))
	$(if $(DESTDIR),,[ ! -d /run/systemd/system ] || systemctl daemon-reload)

# Reproducible: the same tree makes the same bytes.
deb:
	packaging/debian/build $(CACHE)/deb

clean:
	rm -rf $(CACHE)
