"""
Region attribution among Captum's methods
=========================================

``RegionAttribution`` is a ``captum.attr.Attribution``: what calls one of Captum's methods can call it, and what takes
their result takes its. Here Captum draws it, smooths it and measures it, beside methods of its own.
"""

# %%
# One thing differs before the first call: Captum's methods are given the model to be explained, a region attribution a
# region classifier, which has learnt the attribute from small patches of the same faces.
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
faces = make_faces(800, size=32, random_state=0)
hat = faces.binary("Wearing_Hat")
model = ImageClassifier(max_epochs=8, batch_size=32, random_state=0).fit(faces.images, hat).module_.eval()
classifier = DenseRegionClassifier(RegionGrid(32, patch_size=8, stride=2), num_classes=2, random_state=0)
fit_region_classifier(classifier, faces.images, hat, epochs=20, random_state=0)

# %%
# The same call
# -------------
# Inputs and target go in, a tensor of the inputs' shape comes out. With a target the region attribution is signed, what
# speaks for a hat and against it. Without, it is the confidence.
test = make_faces(3, size=32, attributes={"Wearing_Hat": 1.0}, random_state=1)
images = torch.from_numpy(test.images) / 255
methods = {
    "IntegratedGradients": (IntegratedGradients(model), {}),
    "Occlusion": (Occlusion(model), {"sliding_window_shapes": (3, 8, 8), "strides": (3, 2, 2)}),
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
# ``sensitivity_max`` says how far a map moves when its image is moved a little, ``infidelity`` how badly it foretells
# how the *model* answers to noise. Both are the smaller the better, and only the first is a fair question to all three:
# a region attribution never saw this model. It says where the data tell of a hat, whoever reads it there.


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
