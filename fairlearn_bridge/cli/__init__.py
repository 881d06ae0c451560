"""The command fairlearn-bridge: compare mitigators of shortcut learning on faces or your own images, with a report."""

from fairlearn_bridge.cli.app import app

__all__ = ["app"]
