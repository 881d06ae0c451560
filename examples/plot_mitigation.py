"""
Training without a shortcut
===========================

In these training faces blond hair is a shortcut to "woman": no man is blond, two in three women are. A classifier
trained on them fails blond men. The mitigator finds the hair from the biased images alone, and fills the empty cell by
transplanting it.
"""

# %%
# The protocol of the paper, on a pool of faces in which hair and gender are independent.
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score

from captum_region.datasets import make_faces
from captum_region.plotting import plot_region_map
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    ImageClassifier,
    confounded_split,
)

faces = make_faces(2800, size=24, random_state=0)
male, blond = faces.binary("Male"), faces.binary("Blond_Hair")
split = confounded_split(male, blond, train_size=1000, test_per_cell=100, random_state=0)
X, y, sensitive = faces.images[split.biased], male[split.biased], blond[split.biased]
X_test, y_test, sensitive_test = faces.images[split.test], male[split.test], blond[split.test]
print(split.counts)

# %%
# A fairlearn workflow: fit with the sensitive feature, look at the groups with MetricFrame.
classifier = ImageClassifier(max_epochs=8, batch_size=32, random_state=0)
mitigator = AttributionNoiseMitigator(
    classifier, region_epochs=16, scheme="general_transplant", quantile=0.5, random_state=0
)
classifier.fit(X, y)
mitigator.fit(X, y, sensitive_features=sensitive)
models = {"ERM baseline": classifier, "transplant": mitigator}
cells = np.char.add(np.where(sensitive_test, "blond ", "dark "), np.where(y_test, "man", "woman"))
accuracy = pd.DataFrame(
    {
        name: MetricFrame(
            metrics=accuracy_score, y_true=y_test, y_pred=model.predict(X_test), sensitive_features=cells
        ).by_group
        for name, model in models.items()
    }
)
print(accuracy.round(2).to_string())

# %%
# What the mitigator found, and how transplants change the accuracy of each group.
figure, (where, by_cell) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(2, 3), layout="constrained")
top = mitigator.pixel_map_.max()
plot_region_map(X.mean(0).astype("uint8"), mitigator.pixel_map_, ax=where, vmax=top, title="where blond hair shows")
accuracy.plot.bar(ax=by_cell, rot=0, ylim=(0, 1.15), xlabel="", ylabel="accuracy", title="test faces")
by_cell.legend(loc="upper center", ncols=2)
figure.savefig("mitigation.png", dpi=110)

# %%
# Counterfactuals of the test faces, with only the hair toggled, show how often a prediction depends on the hair alone:
# the counterfactual flip rate.
counterfactuals = faces.twin("Blond_Hair", split.test)
for name, model in models.items():
    flipped = (model.predict(X_test) != model.predict(counterfactuals)).mean()
    print(f"{name}: {flipped:.2f} of the predictions change with the hair")
