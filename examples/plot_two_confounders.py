"""
Two confounders at once
=======================

Data may contain several shortcuts. In these training faces two in three women are blond and no man is, and two in three
men wear a hat and no woman does. If you treat the hair alone, the hat remains. Several sensitive features count as
their combination, so that one mitigator treats both.
"""

# %%
# Training faces with both shortcuts; test faces in which hat, hair and gender are independent.
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from captum_region.datasets import make_faces
from captum_region.plotting import plot_maps
from fairlearn_bridge import AttributionNoiseMitigator, ImageClassifier

rng = np.random.default_rng(0)
male, often = rng.random(1500) < 0.5, rng.random(1500) < 2 / 3
cues = ["Blond_Hair", "Wearing_Hat"]
train = make_faces(
    1500, size=32, attributes={"Male": male, "Blond_Hair": ~male & often, "Wearing_Hat": male & often}, random_state=0
)
test = make_faces(400, size=32, random_state=1)
print(train.attributes.groupby("Male")[cues].mean().round(2))

# %%
# The same transplants twice: over what tells the hair, and over what tells hair or hat.
classifier = ImageClassifier(max_epochs=20, batch_size=32, random_state=0)
mitigator = AttributionNoiseMitigator(
    classifier, region_epochs=8, scheme="general_transplant", quantile=0.5, random_state=0
)
treated = {"hair alone": ["Blond_Hair"], "hair and hat": cues}
models = {"nothing": classifier.fit(train.images, male)}
for name, features in treated.items():
    models[name] = clone(mitigator).fit(train.images, male, sensitive_features=train.attributes[features])

# %%
# How often does a prediction change when only the hair does, or only the hat? And how well are men told from women
# where both speak against it: blond men without a hat, and women with a hat and dark hair? Look at accuracy and AUC
# too: a classifier that has lost the target, and nearly always gives one answer, flips seldom as well.
target = test.binary("Male")
against = np.where(target, test.binary("Blond_Hair"), test.binary("Wearing_Hat"))
against &= np.where(target, ~test.binary("Wearing_Hat"), ~test.binary("Blond_Hair"))
twins = {cue: test.twin(cue) for cue in cues}
rows = {}
for name, model in models.items():
    predicted = model.predict(test.images)
    flips = {f"flips with {cue}": (model.predict(twins[cue]) != predicted).mean() for cue in cues}
    right, score = predicted == target, model.predict_proba(test.images)[:, 1]
    rows[name] = {"accuracy": right.mean(), "AUC": roc_auc_score(target, score)}
    rows[name] |= {"where both mislead": right[against].mean(), **flips}
table = pd.DataFrame(rows).T.rename_axis("treated")
print(table.round(2).to_string())

# %%
# What each mitigator has found, over the mean training face.
maps = {name: models[name].pixel_map_ for name in treated}
figure = plot_maps(maps, images=train.images.mean(0).round().astype("uint8"), share_scale=False)
figure.savefig("two_confounders.png", bbox_inches="tight")
