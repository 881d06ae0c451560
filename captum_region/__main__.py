"""Run the command as ``python -m captum_region``."""

from captum_region.cli import app

app(prog_name="captum-region")
