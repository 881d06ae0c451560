"""
A training loop of your own
===========================

The perturbation does not need the package's classifier. ``PerturbedDataset`` is a torch Dataset around yours, for any
network and any loop. Here torchvision's VGG layers are trained on faces in which no man is blond, in plain torch.
"""

# %%
# Your data
# ---------
# A Dataset of (image, label), with images in [0, 1]. Hair and gender are independent in the pool and in the test faces;
# in the training faces blond hair is a shortcut to "woman".
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.vgg import make_layers
from torchvision.transforms import Normalize

from captum_region.datasets import make_faces
from fairlearn_bridge import PerturbedDataset, confounded_split, fit_noise

faces = make_faces(2400, size=24, random_state=0)
male, blond = faces.binary("Male"), faces.binary("Blond_Hair")
split = confounded_split(male, blond, train_size=600, test_per_cell=100, random_state=0)
images, labels = torch.tensor(faces.images) / 255, torch.tensor(male).long()
train = TensorDataset(images[split.biased], labels[split.biased])

# %%
# Find the regions
# ----------------
# One call trains a region classifier of the hair within the classes of the label.
noise = fit_noise(train, "label", sensitive_features=blond[split.biased], region_epochs=12, random_state=0)
perturbed = PerturbedDataset(train, noise, random_state=0)

# %%
# What the network will see: in half of the images, other each epoch, the hair is that of another training face. What is
# random in your transforms, and the normalisation, come after this: ``PerturbedDataset(..., transform=)``.
shown = np.flatnonzero(male[split.biased])[:6].tolist() + np.flatnonzero(~male[split.biased])[:6].tolist()
figure, axes = plt.subplots(3, len(shown), figsize=(9, 2.6), layout="constrained")
rows = {"original": train, "epoch 0": perturbed, "epoch 1": perturbed}
for number, (title, source) in enumerate(rows.items()):
    perturbed.set_epoch(max(number - 1, 0))
    axes[number, 0].set_ylabel(title, rotation=0, ha="right", va="center")
    for axis, position in zip(axes[number], shown, strict=True):
        axis.imshow(np.asarray(source[position][0].permute(1, 2, 0)))
        axis.set(xticks=[], yticks=[])
figure.savefig("own_loop_faces.png", dpi=110)

# %%
# Your loop
# ---------
# It does not change. ``set_epoch`` matters with several processes and where training resumes.
normalise = Normalize([0.5] * 3, [0.25] * 3)


def trained(data):
    """Train a network."""
    torch.manual_seed(0)
    network = nn.Sequential(make_layers([8, "M", 16, "M", 32], batch_norm=True), nn.Flatten(), nn.Linear(32 * 6 * 6, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    loader = DataLoader(data, batch_size=25, shuffle=True)
    for epoch in range(8):
        if data is perturbed:
            data.set_epoch(epoch)
        for batch, target in loader:
            loss = nn.functional.cross_entropy(network(normalise(batch)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


cells = {"dark-haired man": male & ~blond, "blond woman": ~male & blond}
cells |= {"dark-haired woman": ~male & ~blond, "blond man": male & blond}  # against the shortcut
accuracy = {}
for title, data in {"as they are": train, "perturbed": perturbed}.items():
    network = trained(data)
    with torch.no_grad():
        is_right = network(normalise(images[split.test])).argmax(1) == labels[split.test]
    accuracy[title] = [is_right[cell[split.test]].float().mean().item() for cell in cells.values()]
    print(f"{title}: {', '.join(f'{name} {value:.2f}' for name, value in zip(cells, accuracy[title], strict=True))}")

# %%
# Perturbed, the network is right about far more of the blond men, whom the shortcut makes women, and no longer about
# nearly all blond women, for whom the shortcut was enough. One seed of a small network: it shows how, not how well.
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
for shift, (title, values) in zip((-0.2, 0.2), accuracy.items(), strict=True):
    bars = axis.bar(np.arange(4) + shift, values, 0.4, label=title)
    axis.bar_label(bars, fmt="%.2f")
axis.set(xticks=range(4), xticklabels=cells, ylim=(0, 1.25), ylabel="accuracy", title="test faces")
axis.legend(loc="upper center", ncols=2)
figure.savefig("own_loop.png", dpi=110)
