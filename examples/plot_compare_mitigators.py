"""
Which mitigator? A comparison, and its controls
===============================================

Whether women and men are recognised equally well also depends on the threshold: a classifier may have no gap at all and
still rely on the hair. So mitigators are compared by several measures, and with controls that show what a simpler
change achieves.
"""

# %%
# In these training faces no man is blond, and two in three women are.
import warnings

import matplotlib.pyplot as plt

from captum_region import DenseRegionClassifier, RegionGrid, fit_region_classifier
from captum_region.datasets import make_faces
from fairlearn_bridge import (
    AttributionNoiseMitigator,
    BalancedResampling,
    EmbeddingCorrelationRemoval,
    ImageClassifier,
    Samples,
    ThresholdShift,
    compare_mitigators,
    confounded_split,
)
from fairlearn_bridge.plotting import plot_trade_off

faces = make_faces(2200, size=24, random_state=0)
male, blond = faces.binary("Male"), faces.binary("Blond_Hair")
split = confounded_split(male, blond, train_size=700, test_per_cell=100, validation_per_cell=50, random_state=0)
train = Samples(faces.images[split.biased], male[split.biased], blond[split.biased])
test = Samples(
    faces.images[split.test], male[split.test], blond[split.test], twins=faces.twin("Blond_Hair", split.test)
)

# %%
# The mitigators
# --------------
# One region classifier, trained within the women, serves both transplants. ``elsewhere`` is the control of the method:
# it transplants as large an area, but not where the map is high. If it did as well, the map would be worth nothing.
# ``threshold shifted`` is the control of every measure that a threshold decides.
classifier = DenseRegionClassifier(RegionGrid.for_images(24), num_classes=2, random_state=0)
fit_region_classifier(classifier, train.X, train.confounder, within=train.y, epochs=15, random_state=0)
original = ImageClassifier(max_epochs=8, batch_size=24)
transplant = AttributionNoiseMitigator(
    original, region_classifier=classifier, scheme="general_transplant", quantile=0.5
)
elsewhere = AttributionNoiseMitigator(
    original, region_classifier=classifier, scheme="general_transplant", quantile=0.5, control="elsewhere"
)
mitigators = {
    "original": original,
    "threshold shifted": ThresholdShift(original),
    "resampling": BalancedResampling(original),
    "correlation remover": EmbeddingCorrelationRemoval(original),
    "transplant": transplant,
    "elsewhere": elsewhere,
}

# %%
# The comparison
# --------------
# All are trained with the same seed; two of them build on the fitted original and need not train it again.
# (``random_states=range(5)`` would show the spread over trainings, ``checkpoint_dir="folder"`` keep what is done.)
# A mitigator that cannot run on these data is reported by a warning (*not applicable*) and has an empty row: resampling
# cannot draw the blond men that are missing here. The others still run.
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    table = compare_mitigators(
        mitigators,
        train,
        test,
        fit_params={"validation": (faces.images[split.validation], male[split.validation])},
        reuse={"threshold shifted": "original", "correlation remover": "original"},
        n_bootstrap=200,
    )
for warning in told:
    print(warning.message)
measures = ["accuracy", "gap", "worst_cell", "crossed_auc", "flip_rate"]
print(table.xs("mean", axis=1, level="statistic")[measures].round(2).to_string())

# %%
# Two planes
# ----------
# Accuracy against the gap is what is mostly shown. The other plane asks what no threshold can mend: how well women are
# told from men where hair speaks against it, and how often a prediction changes when only the hair does. What lies
# above and left of the dashed line is beaten in both (``pareto_front``). Faint lines are 95 % bootstrap intervals.
kinds = dict.fromkeys(mitigators, "mitigator") | {"original": "reference", "transplant": "scheme"}
kinds |= {"threshold shifted": "control", "elsewhere": "control"}
figure, (by_gap, by_use) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
plot_trade_off(table, kinds=kinds, ax=by_gap)
plot_trade_off(table, "flip_rate", "crossed_auc", kinds=kinds, ax=by_use)
figure.savefig("compare_mitigators.png", dpi=110)
