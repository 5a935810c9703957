# SPDX-License-Identifier: MIT
"""What stays in memory between a load and the restart: requests without an interpreter's start, and the D-Bus face."""
