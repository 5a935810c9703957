# SPDX-License-Identifier: MIT
"""How this machine's PID 1 is asked and hooked."""
