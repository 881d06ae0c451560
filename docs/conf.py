"""How Sphinx builds the documentation: ``make docs``."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from sphinx_gallery.sorting import ExplicitOrder

HERE = Path(__file__).parent

project = "captum_region and fairlearn_bridge"
author = "The captum_region developers"
copyright = author
release = importlib.metadata.version("captum-region")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
templates_path = ["_templates"]
default_role = "py:obj"  # a name in single backticks is a link where there is such a page
strip_signature_backslash = True  # else the names of fitted attributes lose their last underscore

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_copyright = False
html_show_sphinx = False

# The pages follow __all__, so that no public name is forgotten; a module without one shows what it defines.
autosummary_ignore_module_all = False
autosummary_imported_members = True  # of those in __all__, which are imported from the modules they are in
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # the docstrings name the types
# scikit-learn makes these of each fit and predict; its docstrings refer to pages of its own.
requests = [f"set_{method}_request" for method in ("fit", "partial_fit", "predict", "predict_proba", "score")]
autodoc_default_options = {"exclude-members": ",".join(requests)}
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False  # parameters documented together stay together
napoleon_use_rtype = False

myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": ExplicitOrder(
        [
            "plot_first_map.py",
            "plot_captum_drop_in.py",
            "plot_own_table.py",
            "plot_own_backbone.py",
            "plot_saliency_comparison.py",
            "*",
            "plot_mitigation.py",
            "plot_two_confounders.py",
            "plot_compare_mitigators.py",
            "plot_codec_audit.py",
            "seeds_on_dask.py",
        ]
    ),
    "backreferences_dir": "gallery/backreferences",
    "doc_module": ("captum_region", "fairlearn_bridge"),
    "inspect_global_variables": False,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}


# In text, as they are: typography would make one dash of an option's two.
EXAMPLE_OR_OPTION = re.compile(r"^(Example: )(.+)$|(?<![`\w-])(--[a-z][a-z-]*)", re.MULTILINE)


def write_commands(app):
    """Write what --help tells, of each command, to a page."""
    for command, module in (("captum-region", "captum_region.cli"), ("fairlearn-bridge", "fairlearn_bridge.cli")):
        typer = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", command]
        page = HERE / "generated" / f"{command}.md"
        page.parent.mkdir(exist_ok=True)
        subprocess.run([*typer, "--output", page], check=True, stdout=subprocess.DEVNULL)
        page.write_text(EXAMPLE_OR_OPTION.sub(r"\1`\2\3`", page.read_text()))


def setup(app):
    """Register what runs before the pages are read."""
    app.connect("builder-inited", write_commands)
