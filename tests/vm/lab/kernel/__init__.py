# SPDX-License-Identifier: MIT
"""A kernel of one's own for the lab: Debian's source with live update switched on, which no kernel of Debian's has."""
