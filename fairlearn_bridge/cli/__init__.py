"""The command fairlearn-bridge: the whole job on synthetic faces or on your own images, and its report."""

from fairlearn_bridge.cli.app import app

__all__ = ["app"]
