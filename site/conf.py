"""The website: `make site`. Everything that a page needs is beside it, so that it can be read without a network."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
repository = settings["urls"]["Repository"]

project = "MIL for whole-slide images"
author = "The mil-tutorial authors"
copyright = "The mil-tutorial authors. Text CC BY 4.0, code Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "notebooks/outputs"]
napoleon_attr_annotations = False  # no row "Type" for each attribute: the signature says it
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # tools/make_site.py brings executed notebooks
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
bibtex_bibfiles = ["references.bib"]
default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}  # its name, not the six lines that it stands for
autodoc_preserve_defaults = True  # `2**0.5`, not its 17 digits
copybutton_selector = ".cell_input div.highlight pre, div.highlight-bash pre"
suppress_warnings = ["myst.header"]  # a cell may begin with a second-level heading

html_context = {"default_mode": "auto"}
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["search-text.js", "theme.js"]
html_favicon = "_static/mark.svg"
html_show_sourcelink = False
html_theme_options = {
    "repository_url": repository,
    "repository_branch": "main",
    "path_to_docs": "",  # the repository's notebooks/ has the same names
    "use_repository_button": True,
    "use_download_button": True,
    "launch_buttons": {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
        "notebook_interface": "jupyterlab",
    },
    "show_toc_level": 2,
    "navbar_persistent": [],
    "logo": {"image_light": "_static/mark.svg", "image_dark": "_static/mark.svg", "text": project, "alt_text": ""},
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
