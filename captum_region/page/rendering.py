"""render: a template of a package, in the frame of every page, as HTML that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup


def render(package: str, template: str, *, script: str | None = None, **content: Any) -> str:
    """Return a page as HTML.

    Parameters
    ----------
    package : str
        Where the template and the script are, as ``"fairlearn_bridge.report"``.
    template : str
        A file name; it extends ``base.html.j2`` and may import from ``macros.html.j2``.
    script : str, optional
        The file name of the one script that the page allows; the template places ``{{ script }}``.
    **content
        What the template shows, escaped; ``title`` is needed.
    """
    text = "" if script is None else files(package).joinpath(script).read_text(encoding="utf-8")
    # The page's policy names the script by its hash, and allows no other.
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, ".") for name in (package, "captum_region.page")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template)
    return page.render(**content, script=Markup(text), script_hash=f"sha256-{digest}" if text else "")
