"""The documentation builds without a warning, and tells of every public name and command."""

import importlib
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

ROOT = Path(__file__).parents[1]
MODULES = (
    "captum_region",
    "captum_region.channels",
    "captum_region.datasets",
    "captum_region.first_layer",
    "captum_region.saliency",
    "captum_region.segmentation",
    "captum_region.slices",
    "captum_region.stacks",
    "fairlearn_bridge",
    "fairlearn_bridge.audit",
)


@pytest.fixture
def built(tmp_path, forked):
    """Build the pages of a copy, for Sphinx writes beside its sources; without running examples, in a plain theme."""
    copy = tmp_path
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=shutil.ignore_patterns("_build", "gallery", "generated"))
    shutil.copytree(ROOT / "examples", copy / "examples")
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy)
    pages = copy / "pages"
    build = ["-m", "sphinx", "-q", "-W", "-D", "plot_gallery=0", "-D", "html_theme=basic"]
    with forked(*build, copy / "docs", pages) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return pages


@pytest.mark.slow
def test_every_public_name_example_and_command_has_a_page(built):
    public = {f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__}
    public |= {"captum_region.calibration.measure_calibration", "captum_region.plotting.plot_region_map"}
    public |= {f"fairlearn_bridge.plotting.plot_{name}" for name in ("quantiles", "measure", "trade_off", "losses")}
    for name in public:
        assert f'id="{name}"' in (built / "generated" / f"{name}.html").read_text(), name

    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert examples == {path.stem for path in (built / "gallery").glob("*.html")} - {"index"}
    for module in ("captum_region", "fairlearn_bridge"):
        command = module.replace("_", "-")
        page = (built / "generated" / f"{command}.html").read_text()
        for name in get_command(importlib.import_module(f"{module}.cli").app).commands:
            assert f'id="{command}-{name}"' in page
        assert "--out" in page
