"""Self-contained HTML pages: the frame, style and macros that every page extends, and what renders one."""

from captum_region.page.rendering import render

__all__ = ["render"]
