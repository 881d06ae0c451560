"""LowSpuriosityRetraining: the last layer retrained on images in which the spurious attribute hardly shows."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from torch import nn

from captum_region import RegionAttribution, RegionClassifier
from captum_region.batches import Checked, ImageData, take
from captum_region.evaluation import evaluating
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.baselines.base import images_of, labels_of, need_layer
from fairlearn_bridge.baselines.last_layer import HeadMitigator, fit_head, last_features
from fairlearn_bridge.regions import (
    check_region_classifier,
    check_region_epochs,
    check_varies_within,
    train_regions,
)
from fairlearn_bridge.spuriosity import ends_of, rank_by_evidence
from fairlearn_bridge.validation import check_number, check_sensitive, class_positions, from_names


@dataclass(eq=False, repr=False, kw_only=True)
class LowSpuriosityRetraining(HeadMitigator):
    """Train as usual, then retrain the last layer on those images of each class in which the spurious attribute fades.

    The images are ranked within their classes by `rank_by_evidence`: a region classifier says how strongly the spurious
    attribute shows, so that no label of it is needed for them. Where it does not show, it cannot be a shortcut. Cells
    may be empty, but if those without the spurious attribute are, as where all of a class have it, the low end is of
    images in which it is hard to see.

    Parameters
    ----------
    estimator : ImageClassifier
        Cloned and trained. Its module has an ``nn.Linear`` as its last.
    region_classifier : RegionClassifier, optional
        Of the spurious attribute. By default one is trained as by `AttributionNoiseMitigator`, for which alone `fit`
        needs the spurious attribute.
    value : int, default=1
        The number of the spurious attribute's value that is to be absent, as the region classifier knows it: of
        two values the second, such as True.
    share : float, default=0.25
        Of each class, how much makes the low end, at least one image; in (0, 1].
    C : float, default=1.0
        Inverse strength of the regression's penalty, of standardised features.
    region_epochs : int, optional
        Of the region classifier's training, where it is trained.
    random_state : int, NumPy generator or None, default=None
        Decides that training.

    Attributes
    ----------
    region_classifier_ : RegionClassifier
        The one given, or trained.
    ranking_ : DataFrame
        Of the training images, from `rank_by_evidence`.
    sample_indices_ : ndarray of int
        The positions of the images on which the last layer was retrained.
    heads_ : list of Pipeline
        The new last layer, a single one.
    estimator_ : ImageClassifier
        The fitted classifier, its own last layer as first trained.

    See Also
    --------
    LastLayerRetraining : Retrains it on equally many images of each cell, whose spurious attribute must be labelled.
    ranking_gap : The accuracy at both ends of the ranking.

    References
    ----------
    Moayeri, Wang, Singla, Feizi, "Spuriosity Rankings: Sorting Data to Measure and Mitigate Biases", NeurIPS 2023.

    Examples
    --------
    >>> from captum_region import DenseRegionClassifier, RegionGrid
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import ImageClassifier
    >>> faces = make_faces(40, size=16, random_state=0)
    >>> regions = DenseRegionClassifier(RegionGrid(16, 8, 4), 2, random_state=0)  # better trained
    >>> base = ImageClassifier(max_epochs=1, random_state=0)
    >>> mitigator = LowSpuriosityRetraining(base, region_classifier=regions).fit(faces, "Male")
    >>> len(mitigator.sample_indices_)
    9
    """

    region_classifier: RegionClassifier | None = None
    value: int = 1
    share: float = 0.25
    C: float = 1.0
    region_epochs: int | None = None
    random_state: RandomState = None

    def fit(self, X: ImageData, y: ArrayLike, *, sensitive_features: ArrayLike | None = None) -> Self:
        """Train the classifier, rank the images, retrain the last layer.

        Parameters
        ----------
        X, y
            As in `ImageClassifier.fit`.
        sensitive_features : array-like of shape (N,) or (N, features), or str, optional
            The spurious attribute, to train the region classifier; not used where one is given.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter does not fit, the spurious attribute is missing and needed, or the module has no linear
            layer.
        """
        self._check_parameters()
        given = self.region_classifier
        if given is None and sensitive_features is None:
            raise ValueError("sensitive_features must be given where there is no region_classifier, got None")
        X, y, sensitive_features = from_names(X, y, sensitive_features)
        X, labels = labels_of(X, y)
        images = images_of(self.estimator, X)
        check_region_classifier(given, images)
        if given is None:
            sensitive = check_sensitive(sensitive_features, len(X), least=2)
            check_varies_within("sensitive_features", sensitive, "y", labels)
        count = len(np.unique(sensitive)) if given is None else given.num_classes
        if self.value >= count:
            raise ValueError(f"value must be a class of the region classifier, below {count}, got {self.value}")
        need_layer(self.estimator, images, labels, nn.Linear)
        self.estimator_ = clone(self.estimator).fit(X, labels)
        if given is None:
            options: Any = {"region_epochs": self.region_epochs, "random_state": draw_seed(self.random_state)}
            options["device"] = getattr(self.estimator, "device", None)
            given, _ = train_regions(images, sensitive, labels, **options)
        self.region_classifier_ = given
        with evaluating(given):  # one that was just made, or is being trained, is in train mode
            attribution = RegionAttribution(given)
            self.ranking_ = rank_by_evidence(attribution, Checked(images), within=labels, target=self.value)
        self.sample_indices_ = ends_of(self.ranking_, self.share)[1]
        features = last_features(self.estimator_, take(images, self.sample_indices_))
        self.heads_ = [fit_head(features, class_positions(self.estimator_, labels)[self.sample_indices_], self.C)]
        return self

    def _check_parameters(self) -> None:
        check_region_epochs(self.region_epochs, trains=self.region_classifier is None)
        check_number("share", self.share, 0, 1)
        check_count("value", self.value, 0)
        check_number("C", self.C, 0, inside=True)
        if self.share == 0:
            raise ValueError("share must be above 0, got 0")
