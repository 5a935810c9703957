# SPDX-License-Identifier: MIT
"""Tests: namespaces."""
