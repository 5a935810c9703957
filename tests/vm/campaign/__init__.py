# SPDX-License-Identifier: MIT
"""Bad kernels, initrds and command lines, each on systemd and on OpenRC: the machine comes back by itself, remembers
what happened, and goes through the firmware until it is forgiven.
"""
