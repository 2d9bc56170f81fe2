"""mil-tutorial: a hands-on course on Multiple Instance Learning for whole-slide images, and the tools it uses.

The rooms of the package are the steps of the course: `slides` (1), `bags` (2), `models` (3), `training` (4),
`evaluation` (5), `localization` (6). `commands` is the program, `data` opens a data root, `fixture` draws the synthetic
slides. Everything else is the ground they stand on.

Names are loaded when they are first used, so that work on slides and files does not wait for PyTorch. What is public,
and where it is defined, is listed in `__init__.pyi`, which editors and type checkers read, too.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
