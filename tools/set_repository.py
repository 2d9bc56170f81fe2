"""Carry the repository's address from pyproject.toml (project.urls) to all places that show it. `--check` compares.

Edit pyproject.toml, then: python tools/set_repository.py && make notebooks
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/mil-tutorial(?=[\s\"'/)#\]]|$)", re.MULTILINE)
THREE = "mil-in-one-hour"  # the hub that this notebook is for asks for three buttons
BADGES = re.compile(r"^(# )?\[!\[Open in Colab\].*$", re.MULTILINE)
PLACES = ["CITATION.cff", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/config.yml"]


def badges(repository: str, notebook: str) -> str:
    """The launch badges of one notebook, in Markdown."""
    owner = repository.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{notebook}.ipynb"
    binder = f"https://mybinder.org/v2/gh/{owner}/main?labpath=notebooks/{notebook}.ipynb"
    kaggle = f"https://kaggle.com/kernels/welcome?src={repository}/blob/main/notebooks/{notebook}.ipynb"
    third = notebook == THREE
    return " ".join(
        [
            f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})",
            f"[![Open on Binder](https://mybinder.org/badge_logo.svg)]({binder})",
            *([f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})"] if third else []),
        ]
    )


def main(check: bool) -> int:
    """Write the address and the badges, or name the files where they differ."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    repository = settings["project"]["urls"]["Repository"]
    scripts = sorted((ROOT / "notebooks" / "scripts").glob("*.py"))
    first = scripts[0].stem  # notebook 1
    differ = []
    for path in [ROOT / "README.md", *(ROOT / p for p in PLACES), *scripts]:
        old = path.read_text(encoding="utf-8")
        new = ADDRESS.sub(repository, old)
        notebook = path.stem if path.suffix == ".py" else first
        new = BADGES.sub(lambda m, n=notebook: (m[1] or "") + badges(repository, n), new)
        if (path.suffix == ".py" or path.name == "README.md") and not BADGES.search(new):
            place = path.relative_to(ROOT)
            print(f"{place} has no line with badges. Put one that begins with [![Open in Colab] under the title.")
            return 2
        if new != old:
            differ.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(new, encoding="utf-8")
    if differ:
        what = "differ from pyproject.toml, run tools/set_repository.py" if check else "changed"
        print(f"{what}: {', '.join(differ)}")
    return int(check and bool(differ))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
