"""Self-contained HTML pages: the frame, style and macros that every page extends, and what renders one."""

from captum_region.page.pictures import Picture, embedded, write_pictures
from captum_region.page.rendering import render
from captum_region.page.words import DASH, listed, number, shown

__all__ = ["DASH", "Picture", "embedded", "listed", "number", "render", "shown", "write_pictures"]
