"""
Region attribution among Captum's methods
=========================================

``RegionAttribution`` is a ``captum.attr.Attribution``: code for Captum's methods also works with it. Here Captum draws,
smooths and measures it next to its own methods.
"""

# %%
# One thing differs: Captum's methods get the model to be explained, a region attribution gets a region classifier that
# has learnt the attribute from small patches of the same faces.
import matplotlib.pyplot as plt
import pandas as pd
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Occlusion, visualization
from captum.metrics import infidelity, sensitivity_max

from captum_region import DenseRegionClassifier, RegionAttribution, RegionGrid, fit_region_classifier
from captum_region.datasets import make_faces
from captum_region.plotting import show_image
from fairlearn_bridge import ImageClassifier

torch.manual_seed(0)  # Captum's metrics and NoiseTunnel draw from the global generator
faces = make_faces(500, size=32, random_state=0)
hat = faces.binary("Wearing_Hat")
model = ImageClassifier(max_epochs=8, batch_size=32, random_state=0).fit(faces.images, hat).module_.eval()
classifier = DenseRegionClassifier(RegionGrid(32, patch_size=8, stride=2), num_classes=2, random_state=0)
fit_region_classifier(classifier, faces.images, hat, epochs=12, random_state=0)

# %%
# The same call
# -------------
# Inputs and target go in, a tensor of the inputs' shape comes out. With a target the region attribution is signed, what
# speaks for a hat and against it. Without, it is the confidence.
test = make_faces(3, size=32, attributes={"Wearing_Hat": 1.0}, random_state=1)
images = torch.from_numpy(test.images) / 255
windows = {"sliding_window_shapes": (3, 8, 8), "strides": (3, 2, 2), "perturbations_per_eval": 16}
methods = {
    "IntegratedGradients": (IntegratedGradients(model), {}),
    "Occlusion": (Occlusion(model), windows),
    "RegionAttribution": (RegionAttribution(classifier), {}),
}
attributions = {name: method.attribute(images, target=1, **options) for name, (method, options) in methods.items()}
assert all(attributed.shape == images.shape for attributed in attributions.values())

# %%
# ``NoiseTunnel`` wraps any of Captum's methods, and this one.
smooth = NoiseTunnel(RegionAttribution(classifier))
attributions["RegionAttribution,\nsmoothed"] = smooth.attribute(images, target=1, nt_samples=8, stdevs=0.05).detach()

# %%
# Captum draws it
# ---------------
# ``visualize_image_attr`` scales each map by its own largest values: look at where a map is high, not at how high.
# Green speaks for a hat, red against it.


def channels_last(image):
    return image.permute(1, 2, 0).detach().numpy()


figure, axes = plt.subplots(len(images), 1 + len(attributions), figsize=(7.5, 5), layout="constrained")
for row, image in zip(axes, images, strict=True):
    show_image(row[0], image)
for column, (name, attributed) in zip(axes[:, 1:].T, attributions.items(), strict=True):
    for ax, image, its in zip(column, images, attributed, strict=True):
        visualization.visualize_image_attr(
            channels_last(its),
            channels_last(image),
            "blended_heat_map",
            sign="all",
            plt_fig_axis=(figure, ax),
            alpha_overlay=0.7,
            use_pyplot=False,
        )
    column[0].set_title(name, fontsize=9)
figure.savefig("captum_drop_in.png")

# %%
# Captum measures it
# ------------------
# ``sensitivity_max`` measures how much a map changes when its image changes a little, ``infidelity`` how badly it
# predicts the *model's* response to noise. Lower is better. Only the first is fair to all three: a region attribution
# never saw this model. It shows where the data contain information about a hat, whether or not a model uses it.


def add_noise(inputs):
    noise = 0.1 * torch.randn_like(inputs)
    return noise, inputs - noise


measured = {
    name: {
        "sensitivity": sensitivity_max(method.attribute, images, target=1, **options),
        "infidelity": infidelity(model, add_noise, images, attributions[name], target=1, normalize=True),
    }
    for name, (method, options) in methods.items()
}
print(pd.DataFrame(measured).map(lambda of_images: of_images.mean().item()).T.round(3).to_string())
