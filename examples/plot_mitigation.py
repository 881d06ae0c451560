"""
Training without a confounder
=============================

In these training faces blond hair comes to mean "woman": no man is blond, two in three women are. A classifier trained
on them fails blond men. The mitigator finds the hair from the biased images alone, and fills the empty cell by
transplanting it.
"""

# %%
# The protocol of the paper, on a pool of faces in which hair and gender are independent.
from captum_region.datasets import make_faces
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    ImageClassifier,
    Samples,
    compare_mitigators,
    confounded_split,
)

faces = make_faces(1600, size=32, random_state=0)
male, blond = faces.binary("Male"), faces.binary("Blond_Hair")
split = confounded_split(male, blond, train_size=600, test_per_cell=60, random_state=0)
print(split.counts)

# %%
# Every mitigator is trained on the same biased images and tested on the same balanced ones. Twins of the test faces,
# with only the hair toggled, tell how often a prediction hangs on the hair alone (the flip rate).
train = Samples(faces.images[split.biased], male[split.biased], blond[split.biased])
test = Samples(
    faces.images[split.test], male[split.test], blond[split.test], twins=faces.twin("Blond_Hair", split.test)
)
base = ImageClassifier(max_epochs=8, batch_size=32)
mitigator = AttributionNoiseMitigator(base, region_epochs=25, scheme="general_transplant", quantile=0.5)
table = compare_mitigators(
    {"original": base, "transplant": mitigator},
    train,
    test,
    n_bootstrap=200,
)
print(table.xs("mean", axis=1, level="statistic").round(2).T)
