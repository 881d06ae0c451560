"""A trained network as a program of torch.export, which runs without this package."""

import copy
import json
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_region.io.files import replacing
from fairlearn_bridge.baselines.base import Trainer
from fairlearn_bridge.classifier import ImageClassifier
from fairlearn_bridge.deployment.folder import threshold_of, without_threshold
from fairlearn_bridge.deployment.state import network_in, network_of
from fairlearn_bridge.mitigator import AttributionNoiseMitigator

# Layouts in memory differ, and with them the rounding of float32.
_TOLERANCE = 1e-5


class _Probabilities(nn.Module):
    """A network with the last step of `ImageClassifier.predict_proba`."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.network = copy.deepcopy(network_of(classifier)).cpu().eval()
        self.outputs = classifier._get_predict_nonlinearity()

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(self.network(images))


def export_mitigator(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator's network as a program of ``torch.export``, which needs torch and nothing else.

    ``torch.export.load(path).module()`` is a function of float images in [0, 1], N x C x height x width, any N, that
    returns the probabilities, N x classes. The file has a ``model.json`` with the classes, in that order, and the
    threshold, if there is one: see the example. The program is compared with the estimator before it is kept.

    Parameters
    ----------
    estimator : ImageClassifier, or a mitigator whose predictions are its network's alone
        Or scikit-learn's ``FixedThresholdClassifier`` of one. Not `LastLayerRetraining`, `LowSpuriosityRetraining`,
        `EmbeddingCorrelationRemoval`, `AdversarialLastLayer`, or a mitigator with ``apply_at_predict``.
    path : path
        Named ``.pt2``.

    Raises
    ------
    TypeError
        If the estimator's predictions are not its network's alone.
    ValueError
        If `path` is not named ``.pt2``, the estimator was fitted on rows outside [0, 1], its threshold is not for two
        classes of which ``pos_label`` is one, or the program gives other probabilities than the estimator.
    torch._dynamo.exc.UserError
        If the network has code that cannot be exported, such as a branch on values.

    See Also
    --------
    save_mitigator : Keeps an estimator for this package.

    References
    ----------
    https://docs.pytorch.org/docs/stable/export.html

    Examples
    --------
    >>> import json, tempfile, torch
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import ImageClassifier, export_mitigator
    >>> faces = make_faces(40, size=16, random_state=0)
    >>> classifier = ImageClassifier(max_epochs=1, random_state=0).fit(faces.images, faces.labels("Smiling"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_mitigator(classifier, f"{folder}/smiling.pt2")
    ...     about = {"model.json": ""}
    ...     program = torch.export.load(f"{folder}/smiling.pt2", extra_files=about).module()
    >>> program(torch.zeros(3, 3, 16, 16)).shape, json.loads(about["model.json"])["classes"]
    (torch.Size([3, 2]), [False, True])
    """
    if not str(path).endswith(".pt2"):
        raise ValueError(f"path must end in .pt2, got {str(path)!r}")
    _check_network_alone(estimator)
    classifier = network_in(estimator)
    scaler = getattr(classifier, "row_scaler_", None)
    if scaler is not None and (scaler.data_min_.any() or (scaler.data_max_ != 1).any()):
        raise ValueError("estimator must be fitted on rows in [0, 1], or images, to be exported: it scales other rows")
    network, shape = _Probabilities(classifier), classifier.image_shape_
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((3, *shape), generator=generator)
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
    images = torch.rand((5, *shape), generator=generator)
    found, wanted = program.module()(images).numpy(force=True), estimator.predict_proba(images.numpy())
    difference = float(np.abs(found - wanted).max())
    if not difference <= _TOLERANCE:
        raise ValueError(f"the exported program must give the estimator's probabilities, they differ by {difference:g}")
    threshold, positive = threshold_of(estimator)
    about = {
        "classes": np.asarray(estimator.classes_).tolist(),
        "image_shape": list(shape),
        "threshold": threshold,
        "positive_class": positive,
    }
    with replacing(path) as beside:
        torch.export.save(program, beside, extra_files={"model.json": json.dumps(about)})


def _check_network_alone(estimator: Any) -> None:
    """Raise TypeError unless an estimator's probabilities are those of its network, through all that are nested."""
    inner, plain = without_threshold(estimator), (Trainer.predict_proba, AttributionNoiseMitigator.predict_proba)
    while isinstance(inner, Trainer) and type(inner).predict_proba in plain:
        if getattr(inner, "apply_at_predict", False):
            break
        inner = without_threshold(inner.estimator_)
    if not isinstance(inner, ImageClassifier):
        raise TypeError(
            "estimator must be an ImageClassifier, or a mitigator whose predictions are its network's alone, to be "
            f"exported; got {type(inner).__name__}"
        )
