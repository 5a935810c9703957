# SPDX-License-Identifier: MIT
"""What happened, for people and for programs; every reader of it reads the executor's events."""
