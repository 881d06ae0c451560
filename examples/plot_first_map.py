"""
A first map: where do images show a hat?
========================================

A region classifier sees one small patch and must say whether the whole face wears a hat. Where it is confident, the
patch holds information about hats. Its map of confidence needs no other model and no label.
"""

# %%
# Synthetic faces come with the truth: the pixels that change when only the hat is put on or taken off.
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.datasets import make_faces
from captum_region.plotting import plot_maps

faces = make_faces(600, size=32, random_state=0)
test = make_faces(100, size=32, random_state=1)

# %%
# Patches of 8 x 8 pixels at every second position: 13 x 13 regions, all classified in one pass of the network.
classifier = DenseRegionClassifier(RegionGrid(32, patch_size=8, stride=2), num_classes=2, random_state=0)
training = fit_region_classifier(
    classifier,
    faces.images,
    faces.attributes["Wearing_Hat"],
    validation=(test.images, test.attributes["Wearing_Hat"]),
    epochs=15,  # for a quick example; by default it trains much longer
    random_state=0,
)
print(f"best region: {training.region_accuracy.max():.2f}, mean over regions: {training.region_accuracy.mean():.2f}")

# %%
# The mean map peaks on the hat, as the truth does.
attribution = RegionAttribution(classifier)
mean = attribution.grid.to_pixels(attribution.mean_map(test.images))
truth = torch.from_numpy(test.truth("Wearing_Hat").mean(0))
mean_face = test.images.mean(0).astype(np.uint8)
figure = plot_maps({"confidence": mean, "truth": truth}, images=mean_face, share_scale=False)
figure.savefig("first_map.png", bbox_inches="tight")

area = roc_auc_score((truth > 0.3).flatten(), mean.flatten())
print(f"area under the ROC curve of the map as a detector of pixels of hats: {area:.2f}")
