"""The command captum-region: train a region classifier, and map where an attribute's information sits."""

from captum_region.cli.app import app

__all__ = ["app"]
