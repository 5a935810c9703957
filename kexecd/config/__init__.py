# SPDX-License-Identifier: MIT
"""What the administrator wants: the classic settings and the policy, read as data and never executed."""
