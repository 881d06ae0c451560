"""
What could be learnt instead of the target?
===========================================

A spurious attribute must be known before it can be mitigated. The labels alone show which attributes are associated
with the target, and so make a shortcut possible. Whether a model takes the shortcut, only the model can show.
"""

# %%
# Training faces with two shortcuts: 85 % of the women and 15 % of the men are blond, and the same shares smile. Half
# of the women and half of the men wear glasses or hats.
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from captum_region.datasets import make_faces
from fairlearn_bridge import ImageClassifier, cell_counts, find_confounders
from fairlearn_bridge.plotting import plot_cells, plot_confounders

generator = np.random.default_rng(0)
male = generator.random(1500) < 0.5
goes_against = generator.random((2, 1500)) < 0.15
blond, smiling = male == goes_against
faces = make_faces(1500, 24, attributes={"Male": male, "Blond_Hair": blond, "Smiling": smiling}, random_state=0)

# %%
# Both are flagged, with nearly the same Cramér's V. A column whose values are all different is not compared.
attributes = faces.attributes.assign(number=range(1500))
found = find_confounders(attributes, "Male")
print(found[["cramers_v", "p_value", "flagged", "smallest_cell", "note"]].round(3).to_string())

flagged = found.index[found["flagged"]]
cells = cell_counts(faces.attributes[["Male", *flagged]], "Male")
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 2.4), layout="constrained")
plot_confounders(found, ax=left).set_title("association with Male")
plot_cells(cells, target="Male", ax=right).set_title("flagged attributes within each class")
figure.savefig("what_confounds.png", dpi=110)

# %%
# A classifier of gender learns from them, and then sees new faces twice, the second time with one attribute toggled:
# how often does its prediction change (the counterfactual flip rate)? Any change of an image turns some predictions of
# a small classifier, so compare with the attributes that go along with nothing: of the two that are equally associated
# with the target, only the one that is easier to see stands out.
classifier = ImageClassifier(max_epochs=8, batch_size=32, random_state=0).fit(faces.images, male)
test = make_faces(300, 24, random_state=1)
answers = classifier.predict(test.images)
toggled = [name for name in found.index if name != "number"]
flip_rate = pd.Series({name: (classifier.predict(test.twin(name)) != answers).mean() for name in toggled})
print(flip_rate.rename_axis("flip rate of").round(2).to_string())
