"""The command captum-region: train a region classifier, and map where the information about an attribute is."""

from captum_region.cli.app import app

__all__ = ["app"]
