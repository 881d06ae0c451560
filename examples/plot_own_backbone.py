"""
Your own networks
=================

Three places take a network of your own: the region classifier's backbone, the region classifier as a whole, which may
be any function, and the target classifier that a mitigator trains.
"""

# %%
# Synthetic faces. The question is where blond hair shows.
import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import nn

from captum_region import PatchRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.datasets import make_faces
from captum_region.plotting import plot_maps
from fairlearn_bridge import ImageClassifier

faces, test = make_faces(800, size=32, random_state=0), make_faces(200, size=32, random_state=1)
blond = faces.binary("Blond_Hair")
grid = RegionGrid(32, patch_size=8, stride=4)  # 7 x 7 regions

# %%
# A backbone
# ----------
# ``PatchRegionClassifier`` makes a region classifier of any image classifier: the paper's ResNet18 by default, a model
# of torchvision by its name, or a module. The module takes patches; its first convolution gets an additional
# channel for the region's embedding, with weights of zero at first. So a pretrained module keeps what it has learnt:
# fill ``classifier.mean`` and ``.std`` with the values it was trained with.
backbone = nn.Sequential(
    nn.Conv2d(3, 16, 3),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 2 * 2, 2),
)
own = PatchRegionClassifier(grid, num_classes=2, backbone=backbone, random_state=0)
options = {"epochs": 10, "batch_size": 16, "positions_per_image": 16, "lr": 3e-3}  # the paper's suit its ResNet18
fit_region_classifier(own, faces.images, blond, random_state=0, **options)

named = PatchRegionClassifier(grid, num_classes=2, backbone="shufflenet_v2_x0_5", random_state=0)
print(f"a backbone by name has {sum(weights.numel() for weights in named.parameters()):,} parameters")

# %%
# Any function
# ------------
# ``RegionAttribution`` needs only a function ``(patches, region) -> logits`` and a grid, so it works without a network:
# here each region has a linear discriminant of the patch's mean colour.


def mean_colour(patches):
    return patches.float().mean((2, 3))


every_patch = grid.extract(torch.from_numpy(faces.images), torch.arange(grid.num_regions).expand(len(faces), -1))
discriminants = [LinearDiscriminantAnalysis().fit(mean_colour(patches), blond) for patches in every_patch.unbind(1)]
weight = torch.tensor(np.stack([one.coef_[0] for one in discriminants]), dtype=torch.float32)
bias = torch.tensor(np.stack([one.intercept_[0] for one in discriminants]), dtype=torch.float32)


def by_colour(patches, region):
    for_blond = (mean_colour(patches) * weight[region]).sum(1) + bias[region]
    return torch.stack([torch.zeros_like(for_blond), for_blond], 1)


# %%
# Both find the hair, by its colour.
attributions = {
    "own backbone": RegionAttribution(own),
    "linear, of colour": RegionAttribution(by_colour, grid=grid),
}
maps = {name: attribution.mean_pixels(test.images) for name, attribution in attributions.items()}
truth = torch.from_numpy(test.truth("Blond_Hair").mean(0))
mean_face = test.images.mean(0).astype(np.uint8)
figure = plot_maps(maps | {"truth": truth}, images=mean_face, share_scale=False)
figure.savefig("own_backbone.png", bbox_inches="tight")
for name, pixels in maps.items():
    print(f"{name}: area under the ROC {roc_auc_score((truth > 0.3).flatten(), pixels.flatten()):.2f}")

# %%
# A target classifier
# -------------------
# ``ImageClassifier`` trains any module that takes floats in [0, 1] and gives logits. It is skorch's classifier, with
# skorch's parameters. An instance is copied and never trained itself; a class is made with ``image_shape`` and
# ``num_classes`` if it asks for them. Each mitigator takes it as its ``estimator``.


def block(channels_in, channels_out):
    return [nn.Conv2d(channels_in, channels_out, 3), nn.BatchNorm2d(channels_out), nn.ReLU(), nn.MaxPool2d(2)]


network = nn.Sequential(*block(3, 8), *block(8, 16), nn.Flatten(), nn.Linear(16 * 6 * 6, 2))
smiling, smiling_test = faces.binary("Smiling"), test.binary("Smiling")
target = ImageClassifier(network, max_epochs=10, batch_size=32, lr=3e-3, random_state=0).fit(faces.images, smiling)
print(f"smiles: balanced accuracy {balanced_accuracy_score(smiling_test, target.predict(test.images)):.2f}")
