"""Run the command as ``python -m fairlearn_bridge``."""

from fairlearn_bridge.cli import app

app(prog_name="fairlearn-bridge")
