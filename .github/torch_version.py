"""python torch_version.py oldest|newest: a requirement for pip, from the bound in pyproject.toml."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
(bound,) = (line for line in project["dependencies"] if line.startswith("torch>="))
print(bound.replace(">=", "==") + ".*" if sys.argv[1] == "oldest" else bound)
