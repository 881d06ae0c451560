"""
Is a codec fair to all?
=======================

At a low rate a codec keeps what its training images taught it to keep. Two codecs of principal components are compared
at the same rates: one has learnt from all kinds of faces, the other from bare heads alone. A classifier, trained on
original images, says who is blond. What does it lose of people with a hat, and of people without?
"""

# %%
# The classifier and the codecs learn from the training faces; the audit uses faces that neither has seen.
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from captum_region.datasets import make_faces
from fairlearn_bridge import ImageClassifier
from fairlearn_bridge.audit import PCACodec, audit

faces = make_faces(2400, size=24, random_state=0)
train, test = faces.subset(range(1400)), faces.subset(range(1400, 2400))
classifier = ImageClassifier(max_epochs=6, batch_size=32, random_state=0).fit(train.images, train.labels("Blond_Hair"))

# %%
# Both codecs learn from equally many images. The number of components decides the rate.
bare = train.images[~train.binary("Wearing_Hat")][:600]
codecs = {
    "of bare heads": [PCACodec(n).fit(bare) for n in (16, 24, 32)],
    "of all faces": [PCACodec(n).fit(train.images[:600]) for n in (16, 24, 32)],
}
groups = np.where(test.binary("Wearing_Hat"), "hat", "no hat")
found = audit(codecs, classifier, test, groups, target="Blond_Hair", n_examples=2)
columns = ["bpp", "psnr", "accuracy", "bias", "bias_low", "bias_high", "p_holm"]
print(found.table()[columns].round(3).to_string())

# %%
# By rate, mean PSNR and accuracy the two are almost equal. By group they are not: the codec of bare heads serves people
# without a hat at the cost of the others.
print(found.to_frame()["drop"].unstack().round(3).to_string())
found.plot()
plt.gcf().savefig("codec_audit.png", dpi=110)

# %%
# The codec of bare heads draws hair where there is a hat: a blue one becomes blond.
found.plot_images(["of bare heads 24", "of all faces 24"])
plt.gcf().savefig("codec_faces.png", dpi=110)

# %%
# Is the difference between the two biases more than chance? Both codecs coded the same images, so they are compared
# image by image.
print(found.compare("of bare heads 24", "of all faces 24").round(3).to_string())

# %%
# A more varied training set lowers the bias, here to one that cannot be told from chance.
