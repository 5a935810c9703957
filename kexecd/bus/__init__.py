# SPDX-License-Identifier: MIT
"""kexecd on the system bus: org.kexecd.Manager1, who may do what of it, and logind's part (docs/dbus.md)."""
