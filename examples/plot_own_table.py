"""
Your own data, from a table
===========================

If you have images in a folder and a table that describes them, you need nothing more: ``load_table`` reads the images
that the table lists. Its other columns are the attributes, with any number of values.
"""

# %%
# A realistic folder: a table, an image for each row, and two images that cannot be read. One was never copied,
# the other only in part.
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.datasets import load_table, make_faces
from captum_region.plotting import plot_maps

temporary = tempfile.TemporaryDirectory()  # removed at the end
folder = Path(temporary.name)
drawn = make_faces(700, size=48, random_state=0)
names = [f"{number:04}.png" for number in range(len(drawn))]
for name, image in zip(names, drawn.images, strict=True):
    Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
(folder / names[3]).unlink()
(folder / names[5]).write_bytes((folder / names[5]).read_bytes()[:1000])
pd.DataFrame(
    {
        "file": names,
        "person": np.arange(len(drawn)) // 2,  # two images of each
        "headwear": np.where(drawn.binary("Wearing_Hat"), "hat", "none"),
        "glasses": drawn.binary("Eyeglasses").astype(int),
    }
).to_csv(folder / "people.csv", index=False)
print((folder / "people.csv").read_text()[:100])

# %%
# Reading
# -------
# By default the first image that cannot be read raises an error that names it. With ``on_error="skip"`` such images are
# left out and listed with the reason. The images are decoded once; the next call finds them in the cache.
people = load_table(
    folder / "people.csv",
    image_column="file",
    identity_column="person",
    size=32,
    cache=folder / "cache",
    on_error="skip",
)
print(people.skipped.to_string(index=False))
print(people.images.shape, people.images.dtype)
print(people.attributes.head(4).to_string())

# %%
# The map
# -------
# Labels may be text. A fifth of the *persons* is kept for the test: with images of one person on both sides the
# accuracy would be too high.
apart = np.isin(people.identities, np.unique(people.identities)[::5])
train, test = people.subset(~apart), people.subset(apart)
classifier = DenseRegionClassifier(RegionGrid(32, patch_size=8, stride=2), num_classes=2, random_state=0)
training = fit_region_classifier(
    classifier,
    train.images,
    train.labels("headwear"),
    validation=(test.images, test.labels("headwear")),
    epochs=20,  # for a quick example
    random_state=0,
)
print(f"classes {classifier.class_names}, balanced accuracy of the best region {training.region_accuracy.max():.2f}")
attribution = RegionAttribution(classifier)
is_hat = test.binary("headwear=hat")
mean_faces = {
    "of hats": test.images[is_hat].mean(0).astype("uint8"),
    "of none": test.images[~is_hat].mean(0).astype("uint8"),
}
means = {
    "of hats": attribution.mean_pixels(test.images[is_hat]),
    "of none": attribution.mean_pixels(test.images[~is_hat]),
}
figure = plot_maps(means, images=mean_faces)
figure.savefig("own_table.png", bbox_inches="tight")

# %%
# On the command line the same table is read with ``--data table``, its column of files named ``image``::
#
#     captum-region train --data table --root people.csv --attribute headwear=hat --skip-damaged --out headwear
#     captum-region attribute headwear --data table --root people.csv --by headwear --skip-damaged --out maps
del people, train, test  # the cache is mapped into memory
temporary.cleanup()
