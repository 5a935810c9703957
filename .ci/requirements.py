# SPDX-License-Identifier: MIT
"""Print what the tests need from PyPI, a line each, as pyproject.toml says it."""

import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")
