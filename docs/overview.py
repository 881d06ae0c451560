"""Draw _static/overview.png, the picture at the top of the README: python docs/overview.py."""

from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.datasets import make_faces
from captum_region.plotting import STYLE, plot_region_map, show_image
from fairlearn_bridge import AttributionNoise, confounded_split

faces = make_faces(4000, size=64, random_state=0)
male, blond = faces.labels("Male"), faces.labels("Blond_Hair")
split = confounded_split(male, blond, train_size=1800, test_per_cell=50, random_state=0)
biased = faces.subset(split.biased)
man, fair = biased.labels("Male"), biased.labels("Blond_Hair")

classifier = DenseRegionClassifier(RegionGrid.for_images(64), 2, random_state=0)
fit_region_classifier(classifier, biased, "Blond_Hair", within="Male", random_state=0, show_progress=True)
mean_map = RegionAttribution(classifier).mean_map(biased.images)
pixel_map = classifier.grid.to_pixels(mean_map)

plain = ~(biased.labels("Wearing_Hat") | biased.labels("Eyeglasses"))
women, men = (np.flatnonzero(which & plain)[:2] for which in (~man & fair, man))

with rc_context(STYLE):
    figure = Figure(figsize=(11, 2.75), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1, 3.1))

    left.suptitle("Blond people here are women", x=0.02, ha="left")
    for ax, index in zip(left.subplots(2, 2).flat, (*women, *men), strict=True):
        show_image(ax, biased.images[index])

    middle.suptitle("Where hair colour shows", x=0.04, ha="left")
    plot_region_map(biased.images[men[1]], pixel_map, ax=middle.subplots(), vmax=float(pixel_map.max()), colorbar=False)

    right.suptitle("How training changes the man, so that hair colour does not count", x=0.01, ha="left")
    image = torch.from_numpy(biased.images[men[1:]]).float() / 255
    titles = {"noise": "noise (the paper)", "mask": "mask", "transplant": "another's region"}
    for ax, (kind, title) in zip(right.subplots(1, 3), titles.items(), strict=True):
        noise = AttributionNoise(f"general_{kind}", quantile=0.7, transplant_share=1)
        noise.fit(pixel_map[None], biased.images, fair, labels=man, random_state=0)
        show_image(ax, noise(image, torch.from_numpy(men[1:]), torch.Generator().manual_seed(3))[0])
        ax.set_title(title, loc="left")

figure.savefig(Path(__file__).parent / "_static" / "overview.png", dpi=110)
