"""The commands of captum-region, put together."""

from captum_region.cli.attribute import attribute
from captum_region.cli.calibrate import calibrate
from captum_region.cli.compare import compare
from captum_region.cli.running import new_app
from captum_region.cli.slices import slices
from captum_region.cli.train import train

app = new_app(
    "captum-region",
    "Find where in images the information about an attribute is.",
    train,
    attribute,
    calibrate,
    compare,
    slices,
)
