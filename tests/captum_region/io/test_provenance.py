"""What a result depends on besides its settings."""

import shlex
import sys

import pytest

from captum_region.io.provenance import provenance


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/opt/bin/captum-region", ["captum-region"]),
        ("/opt/captum_region/__main__.py", ["python", "-m", "captum_region"]),
    ],
)
def test_the_command_can_be_pasted_into_a_shell(monkeypatch, program, shown):
    arguments = ["compare", "--without", "RegionAttribution, mean", "--out", "it's $HOME"]
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    assert shlex.split(provenance()["command"]) == [*shown, *arguments]
