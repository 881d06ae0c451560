"""
Saliency methods and the region map: what a model uses, and what the data tell
==============================================================================

Grad-CAM, Integrated Gradients and similar methods explain one model. The region map explains the data: it shows where
the information about an attribute is, whether or not a model uses it. To find a spurious attribute you need the second:
the next model may use what this one ignored.
"""

# %%
# Side by side
# ------------
# Synthetic faces come with the truth, the pixels that change with the attribute. A model of the attribute and region
# classifiers of two patch sizes learn from the same faces; all methods then map the same new faces.
from benchmarks.cues import CUES, study_cues

from captum_region.datasets import make_faces
from captum_region.plotting import plot_maps, plot_saliency
from captum_region.saliency import study_attribute

train, test = make_faces(600, size=32, random_state=0), make_faces(80, size=32, random_state=1)
study = study_attribute(
    train,
    test,
    "Blond_Hair",
    limit=6,
    epochs=15,
    region_epochs=12,
    # For a quick example; KernelShap and XRAI also need an extra: pip install 'captum-region[comparison]'.
    without=["Occlusion", "KernelShap", "XRAI", "GradientShap", "GuidedGradCam"],
    retrain="none",
)
table = study.comparison.table("MultiScaleRegionAttribution")
print(table.pivot(index="method", columns="measure", values="mean")[["rank_accuracy", "pixel_auc"]].round(2))

# %%
# The colours are ranks within a map, because each method has its own units. The white line is the truth.
names = ["IntegratedGradients", "LayerGradCam", "Saliency", "RegionAttribution", "MultiScaleRegionAttribution"]
maps = {name: study.comparison.maps[name][:6] for name in names}
figure = plot_saliency(study.images.images[:6], maps, truth=study.truth[:6])
figure.savefig("saliency.png", bbox_inches="tight")

# %%
# Two cues
# --------
# Now all faces with the attribute wear a hat *and* smile, so either cue is enough. One model was trained on faces where
# only the hat is a cue, the other where only the smile is. Both are right on these faces, and their maps differ as they
# should: each shows what its model uses. The region map shows the data, in which either cue is enough. From so few
# small faces it finds the hat and hardly the mouth; from 2,000 of 48 px it finds both: areas under the ROC 0.98 and
# 0.74, the mean of three seeds (docs/results/maps.md).
cues = study_cues(size=32, images=600, epochs=15, region_epochs=8, methods=["LayerGradCam"])
print(cues.table.round(2).to_string(index=False))

# %%
# The faces are aligned, so their mean map is easier to read than a single one.
mean = {
    f"Grad-CAM, model\nof {CUES[0]}": cues.maps[f"LayerGradCam, model of {CUES[0]}"],
    f"Grad-CAM, model\nof {CUES[1]}": cues.maps[f"LayerGradCam, model of {CUES[1]}"],
    "region map": cues.maps["MultiScaleRegionAttribution"],
}
mean_face = cues.faces.images.mean(0).round().astype("uint8")
figure = plot_maps({name: values.mean(0) for name, values in mean.items()}, images=mean_face, share_scale=False)
figure.savefig("two_cues.png", bbox_inches="tight")
