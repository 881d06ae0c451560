"""
Does a network for stacks lean to one slice?
============================================

A 2D+ segmentation network sees the previous, the centre and the next slice of a stack as the red, green and blue of an
encoder that was pretrained on photographs. Its first layer treats the three differently, for no reason in the stack.
Here the same training starts from several first layers, on synthetic stacks whose truth is known.
"""

# %%
# In this stack the label of a slice shows in the slice itself: neither neighbour says anything about it.
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from captum_region import compare_first_layers
from captum_region.segmentation import SmallUNet
from captum_region.slices import inspect_slices
from captum_region.slices.pictures import plot_asymmetry, plot_slices
from captum_region.stacks import make_stack

stack = make_stack("centre", slices=20, size=24, random_state=0)
train, validation, test = stack[:13], stack[13:16], stack[16:]


# %%
# A small U-Net stands in for a pretrained one: in its first layer the kernels of red are weak and those of green
# strong, as in many networks for photographs. Before any training it leans to the next slice, which got blue.
# Neutralising its first layer takes that away.
torch.manual_seed(0)
network = SmallUNet(width=4, depth=1).eval()
with torch.no_grad():
    network.down[0][0].weight *= torch.tensor([0.3, 2.0, 1.0])[:, None, None]

inspected = inspect_slices(network, test).table
print(inspected[["share_previous", "share_centre", "share_next", "asymmetry", "swap_change"]].round(4).to_string())

# %%
# Does that last? With red and blue swapped the same weights lean to the other side: a control. If the asymmetry after
# training turns with them, it is the weights and not the data.
arms = ["pretrained", "swapped", "uniform", "reflect"]
steps = {"steps": 60, "evaluate_every": 30, "patch_size": 24, "batch_size": 4, "lr": 5e-3}
found = compare_first_layers(train, validation, test, network=network, arms=arms, seeds=2, **steps)
print(found.table()[["dice", "asymmetry_before", "asymmetry_after", "swap_change_after"]].round(3).to_string())
plot_asymmetry(found).savefig("slices_asymmetry.png", dpi=110)
plot_slices(found).savefig("slices_saliency.png", dpi=110)

# %%
# An asymmetry can also be true. Here the label is that of the previous slice alone. A neutral first layer learns to
# look there. Tied, all slices count alike for ever, and the labels cannot be learnt.
stack = make_stack("previous", slices=20, size=24, random_state=0)
steps |= {"steps": 100, "evaluate_every": 50, "lr": 1e-2}
true = compare_first_layers(
    stack[:13], stack[13:16], stack[16:], network=network, arms=["uniform", "uniform tied"], seeds=1, **steps
)
print(true.table()[["dice", "asymmetry_before", "asymmetry_after", "swap_change_after"]].round(3).to_string())
plt.close("all")
