# Copyright 2026 The kexecd authors
# SPDX-License-Identifier: MIT

EAPI=8

PYTHON_COMPAT=( python3_{11..14} )

inherit git-r3 python-single-r1 systemd tmpfiles

DESCRIPTION="Graceful shutdown and kexec into the right kernel, for systemd and OpenRC"
HOMEPAGE="https://kexecd.example/"
EGIT_REPO_URI="https://kexecd.example/kexecd.git"

LICENSE="MIT"
SLOT="0"
IUSE="+dbus kexec-tools systemd"
REQUIRED_USE="${PYTHON_REQUIRED_USE}"

# sys-apps/kexec-tools owns /etc/init.d/kexec. Without it that script is ours, and does what people expect of the name;
# beside it (USE=kexec-tools) ours is called kexecd-preload. /etc/conf.d/kexec is never ours: it is read, whoever wrote
# it.
RDEPEND="
	${PYTHON_DEPS}
	$(python_gen_cond_dep '
		dev-python/psutil[${PYTHON_USEDEP}]
		dev-python/pyyaml[${PYTHON_USEDEP}]
		dbus? ( dev-python/jeepney[${PYTHON_USEDEP}] )
		systemd? ( dev-python/python-systemd[${PYTHON_USEDEP}] )
	')
	kexec-tools? ( sys-apps/kexec-tools )
	!kexec-tools? ( !sys-apps/kexec-tools )
"
BDEPEND="${PYTHON_DEPS}"

src_compile() { :; }

# They need root, guests and a kernel of their own: make test, in a checkout.
src_test() { :; }

src_install() {
	emake install \
		DESTDIR="${D}" \
		PREFIX="${EPREFIX}/usr" \
		SYSCONFDIR="${EPREFIX}/etc" \
		SHAREDIR="${EPREFIX}/usr/share" \
		TMPFILES_DIR="${EPREFIX}/usr/lib/tmpfiles.d" \
		SYSTEMD_DIR="$(systemd_get_utildir)" \
		DOCDIR="${EPREFIX}/usr/share/doc/${PF}" \
		INITS="systemd openrc" \
		PYTHON="${PYTHON}" \
		COMPILE=no

	docompress -x "/usr/share/doc/${PF}"
	python_fix_shebang "${ED}/usr/sbin"
	python_optimize "${ED}/usr/lib/kexecd"
	keepdir /etc/kexecd/hooks.d /var/lib/kexecd

	if use kexec-tools; then
		mv "${ED}"/etc/init.d/kexec "${ED}"/etc/init.d/kexecd-preload || die
	fi
}

pkg_postinst() {
	tmpfiles_process kexecd.conf

	local script=kexec
	use kexec-tools && script=kexecd-preload

	elog "With OpenRC, for every restart to be a kexec:"
	elog "    rc-update add ${script} default"
	elog "    rc-update add kexec-jump shutdown"
	elog "    rc-update add kexec-confirm sysinit"
	elog "    rc-update add kexec-finish default"
	elog "and at once, for the next one: rc-service ${script} start"
	elog "Without kexec-jump in the runlevel shutdown a restart goes through the firmware."
	elog
	elog "With systemd:"
	elog "    systemctl preset kexecd-{freeze,confirm,finish}.service"
	elog "    systemctl enable --now kexecd-preload.service"
	elog
	elog "The settings of /etc/conf.d/kexec and /etc/kexec.conf are read as they are: kexecctl config"
	elog "shows what has been understood of them, kexecctl plan what a restart would do."
	if use kexec-tools; then
		elog
		elog "sys-apps/kexec-tools has a script and a unit of its own that load a kernel at a shutdown. Whoever"
		elog "loads last wins, so have only one of them:"
		elog "    rc-update del kexec; systemctl disable kexec.service"
	fi
}

pkg_prerm() {
	# Gone for good, and not only for another version: from now on restarts are ordinary ones.
	if [[ -z ${REPLACED_BY_VERSION} && -z ${ROOT} && -e /run/kexecd/armed ]]; then
		"${EROOT}"/usr/sbin/kexecctl service stop --going stay
	fi
}

pkg_postrm() {
	if [[ -z ${REPLACED_BY_VERSION} ]]; then
		elog "The runlevels still name what has been removed: rc-update delete kexec-jump, kexec-confirm,"
		elog "kexec-finish, and whichever of kexec and kexecd-preload was there; and systemctl disable"
		elog "kexecd-{preload,freeze,confirm,finish}."
	fi
}
