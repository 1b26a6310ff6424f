"""Fetch one asset of another catalogue in a process of its own: CATALOGUE NAME."""

import sys
from pathlib import Path

from helpers import assets
from helpers.assets import catalog

original = catalog.load_catalog
catalog.load_catalog = lambda: original(Path(sys.argv[1]))
print(assets.fetch(sys.argv[2], progress=False))
