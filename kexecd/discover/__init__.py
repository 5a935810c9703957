# SPDX-License-Identifier: MIT
"""What could be booted: pure parsers, a root directory in, boot entries out; and the choice among them."""
