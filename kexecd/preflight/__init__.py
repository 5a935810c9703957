# SPDX-License-Identifier: MIT
"""What speaks against a kexec of this machine, found before anything is done: named checks, each with its remedy."""
