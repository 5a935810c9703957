# SPDX-License-Identifier: MIT
"""Memory that outlives a restart, in guests: by files with Debian's kernel, by live update with one of our own."""
