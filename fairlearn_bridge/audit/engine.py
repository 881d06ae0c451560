"""audit: one loop over degradations, whether they change the images or the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from joblib import Parallel

from captum_region.batches import as_bytes, batches
from captum_region.io.digest import digest
from captum_region.progress import progress_bar
from captum_region.randomness import RandomState, draw_seed
from captum_region.validation import check_count
from fairlearn_bridge.audit.degradations import Case, Degradations, cases_of
from fairlearn_bridge.audit.inputs import Audited, Training, audited, training
from fairlearn_bridge.audit.keeping import kept_outcome, retraining_of, weights_of
from fairlearn_bridge.audit.prediction import Predictor, check_trainable, predictor_of, retrained
from fairlearn_bridge.audit.pruning import Pruning
from fairlearn_bridge.audit.quality import psnr, ssim
from fairlearn_bridge.audit.realism import Realism, embedding_of
from fairlearn_bridge.audit.result import DegradationAudit, Outcome, summarized
from fairlearn_bridge.validation import check_number

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from captum_region.batches import ImageData

    OnImages = Callable[[str, int, NDArray[np.uint8]], object]

# A probability of 0 has no finite loss; scikit-learn's log_loss has the same limit.
_LEAST_PROBABILITY = float(np.finfo(float).eps)


def audit(
    degradations: Degradations,
    classifier: Any,
    data: Any,
    groups: ArrayLike | str | None = None,
    *,
    target: str | ArrayLike | None = None,
    train: Any = None,
    embed: Any = None,
    classes: ArrayLike | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    confidence_level: float = 0.95,
    n_examples: int = 3,
    on_images: OnImages | None = None,
    batch_size: int = 256,
    n_jobs: int | None = None,
    random_state: RandomState = 0,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
) -> DegradationAudit:
    """Measure what degradations of images or of the classifier take from which group.

    For each degradation and severity the classifier's predictions of the degraded images are compared with those of the
    originals, image by image. *Drop* is how much accuracy a group loses; *bias* is the largest minus the smallest drop
    of the groups. As the largest of several noisy differences is hardly ever 0, bias comes with a permutation test of
    "all groups lose equally much", corrected for the number of degradations, besides its bootstrap interval. The test
    weighs each group's deviation by its own variation, so that a small group that merely varies more does not look
    biased.

    Parameters
    ----------
    degradations : degradation, iterable of them, or mapping of name to degradation or to a list of them
        Codecs (`PillowCodec`, `PCACodec`, `ModelCodec`, any `Codec`), `Distortion`, `Pruning`, `ModelChange`, or a
        function of images, a uint8 array N x C x height x width, that returns others of the same shape and type. A
        list under one name holds one degradation at several severities.
    classifier : object with ``predict_proba``, nn.Module or callable
        A trained `ImageClassifier` or mitigator; a network, which gets images in [0, 1] and gives logits, and is put
        into eval mode meanwhile; or a function. All but networks get images of uint8, and give probabilities, N x K.
        Where it has a ``predict`` of its own, that decides; else the likeliest class.
    data : Samples, AttributeImages, ndarray or Tensor of images, N x C x height x width
        What to audit on, images that the classifier was not trained on: uint8, or float in [0, 1], which is rounded to
        uint8 first. Audit codecs at 128 pixels or more: of smaller images' files the container is most.
    groups : array-like of shape (N,), str or list of str
        The group of each image, or an attribute of `data`, or several, whose combinations are the groups. Not needed
        where `data` is `Samples`, which has them.
    target : array-like of shape (N,) or str
        The true classes, or an attribute of `data`; ``y`` of `Samples`.
    train : Samples, AttributeImages or (images, labels), optional
        Original training images, of which `target` names the labels if they are attributes. For each degradation of
        images, a clone of the classifier is then trained on degraded ones, which divides the drop into two shares:
        *unrecoverable*, which a classifier trained on degraded images loses too, and *recoverable*, what it wins back.
        They say what training can mend, not whose fault it is: a codec trained on one group can put all its harm into
        the recoverable share. A function that returns the images as they are is the control: its shares are the effect
        of training anew. Give a trained classifier another `random_state` first, by ``set_params``, or the control is
        the same classifier again. All images of one degradation, as uint8, are in memory then. A mitigator needs
        `Samples`.
    embed : "classifier", nn.Module or callable, optional
        Measure realism too: a network or function of images that gives features, N x D, or what goes into the last
        linear layer of the classifier's network. By it and by the spectrum, originals and degraded images are compared
        in `DegradationAudit.realism`, group by group, on equally many images of each, since the distance of few is
        too large.
    classes : array-like of shape (K,), optional
        The labels of the columns of probabilities. By default ``classes_``, ``class_names`` or ``classes`` of the
        classifier.
    n_bootstrap, n_permutations : int, default=1000
        Draws of images within groups, for intervals, and of permutations of groups, for p, which is no smaller than
        one over the latter: with fewer than 20 a degradation, no corrected p is below 0.05.
    confidence_level : float, default=0.95
        Of the intervals, in (0, 1).
    n_examples : int, default=3
        Images of each group that are kept for `DegradationAudit.plot_images`.
    on_images : callable, optional
        Called as (name, position of the first, images) with each batch of degraded images, such as to save them.
    batch_size : int, default=256
        Images in memory at a time, as degraded.
    n_jobs : int, optional
        Images that are encoded and decoded at a time, in threads, through joblib; the result does not depend on it.
    random_state : int, NumPy generator or None, default=0
        Decides the draws, and what is random in distortions: the n-th image of each group gets the same.
    checkpoint_dir : path, optional
        A folder in which the outcome of each degradation is kept. An interrupted audit resumes when it is called again
        with the same arguments; for what it reads, `on_images` is not called again. Needs a `random_state`, and
        degradations that pickle or are functions.
    show_progress : bool, default=False
        A progress bar on stderr.

    Returns
    -------
    DegradationAudit

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, there are fewer than two groups or fewer than 30 images in one, a codec cannot
        decode what it encoded, or images change their shape.

    Warns
    -----
    UserWarning
        If a group has fewer than 200 images, or target and groups are the same.

    Notes
    -----
    The paper asks these questions; the definitions here are ours [1]_.

    References
    ----------
    .. [1] T. Qiu, A. Nichani, R. Tadayontahmasebi, H. Jeong, "Gone with the bits: revealing racial bias in low-rate
       neural compression for facial images", ISIT 2025, arXiv 2505.02949.

    Examples
    --------
    >>> from captum_region.datasets import make_faces
    >>> from fairlearn_bridge import ImageClassifier
    >>> from fairlearn_bridge.audit import Distortion, PillowCodec, audit
    >>> faces = make_faces(500, 32, random_state=0)
    >>> classifier = ImageClassifier(max_epochs=2, random_state=0).fit(faces, "Smiling")
    >>> found = audit([PillowCodec("jpeg", 5), Distortion("blur", [2])], classifier, faces, "Male", target="Smiling")
    >>> found.table().index.tolist()
    ['jpeg 5', 'blur 2']
    """
    for name, value in (("n_bootstrap", n_bootstrap), ("n_permutations", n_permutations), ("batch_size", batch_size)):
        check_count(name, value)
    check_count("n_examples", n_examples, 0)
    check_number("confidence_level", confidence_level, 0, 1, inside=True)
    cases = cases_of(degradations)
    for case in cases:
        if isinstance(case.what, Pruning):
            case.what.check(classifier)  # or it would be found after all degradations before it
    predictor = predictor_of(classifier, classes)
    tested = audited(data, groups, target)
    target_codes = predictor.codes(tested.target, "target")
    fresh = None
    if train is not None:
        fresh = training(train, target, tuple(tested.images.shape[1:]))
        check_trainable(classifier, has_confounder=fresh.confounder is not None)
        predictor.codes(fresh.target, "the target of train")
        if not any(case.changes_images for case in cases):
            raise ValueError("train must be left out where no degradation changes the images: there are no shares")
    seed = draw_seed(random_state)
    with progress_bar(total=len(tested.images) * (1 + len(cases)), unit="img", disable=not show_progress) as bar:
        loop = _Loop(tested, target_codes, _examples(tested, n_examples), batch_size, seed, n_jobs, on_images, bar)
        bar.set_description("original")
        if embed is not None:
            loop.realism = Realism.of_equal_groups(embedding_of(embed, classifier), tested.codes, seed)
        original = loop.run(predictor)
        shared = cache(lambda: digest(loop.identity(original, classifier, fresh)))  # only where something is kept
        outcomes = {}
        for case in cases:
            bar.set_description(case.name)
            compute = partial(loop.outcome, case, classifier, predictor, fresh)
            outcomes[case.name], was_kept = kept_outcome(checkpoint_dir, random_state, shared, case, compute)
            bar.update(len(tested.images) * was_kept)
    return summarized(
        cases,
        original,
        outcomes,
        tested,
        predictor.classes,
        target_codes,
        loop.examples,
        n_bootstrap=n_bootstrap,
        n_permutations=n_permutations,
        confidence_level=confidence_level,
        seed=seed,
    )


def _examples(tested: Audited, count: int) -> NDArray[np.intp]:
    """Return the positions of the first images of each group, group by group in sorted order."""
    return np.concatenate([np.flatnonzero(tested.codes == code)[:count] for code in tested.order])


@dataclass
class _Loop:
    """Degrades and predicts all images, batch by batch."""

    data: Audited
    target: NDArray[np.intp]
    examples: NDArray[np.intp]
    batch_size: int
    seed: int
    n_jobs: int | None
    on_images: OnImages | None
    bar: Any
    realism: Realism | None = None

    def run(self, predictor: Predictor, case: Case | None = None, again: Predictor | None = None) -> Outcome:
        """Return what `predictor`, and one trained `again`, make of the images; without a case, of the originals."""
        images = self.data.images
        outcome = Outcome.empty(len(images), retrained=again is not None)
        measured = []
        outcome.examples = np.empty((len(self.examples), *images.shape[1:]), np.uint8)
        for start, original, changed, sizes in self._degraded(case, images, self.data.ranks):
            rows = slice(start, start + len(original))
            codes, probabilities = predictor.predict(changed)
            outcome.predicted[rows] = codes
            likelihood = probabilities[np.arange(len(codes)), self.target[rows]]
            outcome.loss[rows] = -np.log(likelihood.clip(_LEAST_PROBABILITY, 1))
            if again is not None and outcome.retrained is not None:
                own, _ = again.predict(changed)
                outcome.retrained[rows] = predictor.codes(again.classes[own], "predictions of the retrained classifier")
            if case is not None and case.changes_images:
                before, after = torch.from_numpy(original), torch.from_numpy(changed)
                outcome.psnr[rows], outcome.ssim[rows] = psnr(before, after), ssim(before, after)
                if sizes is not None:
                    outcome.size[rows] = sizes
                if self.on_images is not None:
                    self.on_images(case.name, start, changed)
            if self.realism is not None and (case is None or case.changes_images):
                measured.append(self.realism.measured(start, changed))
            inside = (self.examples >= start) & (self.examples < rows.stop)
            outcome.examples[inside] = changed[self.examples[inside] - start]
            self.bar.update(len(original))
        if self.realism is not None and measured:
            outcome.frechet, outcome.spectrum = self.realism.compared(measured)
        if case is not None:
            outcome.overhead = case.overhead(tuple(images.shape[1:]))
        return outcome

    def outcome(self, case: Case, classifier: Any, predictor: Predictor, fresh: Training | None) -> Outcome:
        """Return what becomes of the images in a case, if asked also by a classifier that was trained on such."""
        changed = predictor_of(case.classifier(classifier), predictor.classes)
        again = None
        if fresh is not None and case.changes_images:
            anew = self.retrained(case, classifier, fresh)
            again = predictor_of(anew, getattr(anew, "classes_", predictor.classes))
        return self.run(changed, case, again)

    def identity(self, original: Outcome, classifier: Any, fresh: Training | None) -> Any:
        """Return what decides the outcomes besides the degradations."""
        features = self.realism and self.realism.before
        data = self.data.images, self.data.codes, self.target, self.examples, features
        trained = weights_of(classifier), original.predicted, original.loss, retraining_of(classifier, fresh)
        return data, trained, self.seed, self.on_images is not None

    def retrained(self, case: Case, classifier: Any, fresh: Training) -> Any:
        """Return a clone of the classifier, trained on the degraded training images."""
        images = fresh.images
        degraded = np.empty(tuple(images.shape), np.uint8)
        # Other random numbers than of any test image, which would else be recognised by them.
        ranks = _OF_TRAINING + np.arange(len(images))
        for start, _, changed, _ in self._degraded(case, images, ranks):
            degraded[start : start + len(changed)] = changed
        return retrained(classifier, degraded, fresh.target, fresh.confounder)

    def _degraded(
        self, case: Case | None, images: ImageData, ranks: NDArray[np.intp]
    ) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64] | None]]:
        """Yield the position of each batch, the batch, what becomes of it, and the sizes of its files."""
        start = 0
        with Parallel(n_jobs=self.n_jobs, backend="threading") as parallel:
            for batch in batches(images, self.batch_size):
                original = as_bytes(batch)
                changed, sizes = original, None
                if case is not None and case.changes_images:
                    seeds = _seeds(self.seed, ranks[start : start + len(original)])
                    changed, sizes = case.degraded(original, seeds, parallel)
                    changed = _checked(changed, original, case.name)
                yield start, original, changed, sizes
                start += len(original)


# Above all numbers of test images.
_OF_TRAINING = 2**32


def _seeds(seed: int, ranks: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return a seed for each image that depends only on its number, of test images that within their group."""
    return np.array([_image_seed(seed, rank) for rank in ranks.tolist()], np.int64)


@lru_cache(2**16)
def _image_seed(seed: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, rank)).generate_state(1)[0])


def _checked(images: Any, original: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if getattr(images, "shape", None) != original.shape or images.dtype != np.uint8:
        got = f"{getattr(images, 'dtype', type(images).__name__)}, shape {np.shape(images)}"
        raise ValueError(f"{name} must return images of uint8 and shape {original.shape}, as it got; got {got}")
    return np.ascontiguousarray(images)
