"""The sentences that learners read: from `texts/<language>/`, one YAML file a notebook and one for all of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from mil_tutorial.errors import DataError

FOLDER = Path(__file__).parent / "texts"
LANGUAGE = "en"  # a translation is a folder beside it, with the same files and the same keys
NOTEBOOKS = range(1, 7)


@cache
def texts(name: str, language: str = LANGUAGE) -> dict[str, Any]:
    """One file of sentences.

    Args:
        name: such as "notebook_1", or "common".
        language: the folder.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    path = FOLDER / language / f"{name}.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: the course's sentences cannot be read ({error!s:.100}). Install it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: found no table of sentences. Install the package again.")
    return found


def say(key: str, **values: object) -> str:
    """A sentence of `common.yaml` with its values filled in.

    >>> say("right")
    'Right.'
    """
    return str(texts("common")[key]).format(**values)
