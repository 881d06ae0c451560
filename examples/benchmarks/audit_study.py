"""What codecs, distortions and pruning take from which group of real faces, over several seeds.

``python examples/benchmarks/audit_study.py`` audits a classifier a seed, each with codecs of its own where they learn.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from audit_degradations import calibration_set, chosen, distortions_and_pruning, formats, learned, names_for
from audit_summary import CONTROL, results_of
from rich.table import Table
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from captum_region.cli.options import AsJson, Cache, Data, Debug, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.reading import Source
from captum_region.cli.running import check_file, console, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import write_json
from fairlearn_bridge import ImageClassifier, SmallCNN
from fairlearn_bridge.audit import audit
from fairlearn_bridge.audit.words import p_value, points
from fairlearn_bridge.samples import groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit import DegradationAudit

PARTS = ("codecs", "pca", "neural", "distortions", "pruning")
# Added to the seed of a classifier that is trained anew.
_ANEW = 1000


@dataclass(frozen=True)
class StudyConfig:
    """What is studied; see the options of the command.

    Attributes
    ----------
    target : str
    groups : tuple of str
        Attributes; the first decides the codecs' training sets.
    parts : tuple of str
        Of `PARTS`.
    majority : str
        The group that is 80 % of the unbalanced training set.
    bpp, pca_bpp, neural_bpp : tuple of float
        Rates of formats, and of codecs that learn.
    learned_from : int
        Images that codecs learn from, at most.
    components, steps : int
        Of principal components, and of the training of a neural codec.
    retrain : tuple of str
        Degradations for which the classifier is trained anew, on images degraded so.
    shrink : int
        The classifier sees images that are smaller by this factor; codecs do not.
    epochs, draws, seeds, seed : int
    """

    target: str
    groups: tuple[str, ...]
    parts: tuple[str, ...] = PARTS
    majority: str | None = None
    bpp: tuple[float, ...] = (0.15, 0.25, 0.5)
    pca_bpp: tuple[float, ...] = (0.01, 0.02)
    neural_bpp: tuple[float, ...] = (0.15, 0.3)
    learned_from: int = 800
    components: int = 128
    steps: int = 1000
    retrain: tuple[str, ...] = ()
    shrink: int = 1
    epochs: int = 10
    draws: int = 2000
    seeds: int = 3
    seed: int = 0


class Shrinking(SmallCNN):
    """A `SmallCNN` of images that were made smaller: `by` x `by` pixels become their mean."""

    def __init__(self, image_shape: Sequence[int], num_classes: int, by: int = 2) -> None:
        channels, height, width = image_shape
        super().__init__((channels, height // by, width // by), num_classes)
        self.by = by

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, N x num_classes, for images in [0, 1], N x C x H x W."""
        return super().forward(F.avg_pool2d(images, self.by))


@dataclass
class Study:
    """What was found.

    Attributes
    ----------
    audits : list of DegradationAudit
        One a seed.
    retrained : list of DegradationAudit
        One a seed, with shares, of the degradations for which the classifier was trained anew, and of the control.
    rates : list of dict
        ``codec``, ``bpp``, the ``seed`` of one that learns, and what was ``reached`` on training images, or why not.
    """

    audits: list[DegradationAudit] = field(default_factory=list)
    retrained: list[DegradationAudit] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)


def study_audits(
    config: StudyConfig,
    train: AttributeImages,
    test: AttributeImages,
    *,
    checkpoint_dir: Path | None = None,
    show_progress: bool = False,
) -> Iterator[Study]:
    """Train a classifier a seed on original images, and audit what degradations take from it.

    Codecs that learn are trained anew for each seed, on other images and with other initial weights: on a set in which
    80 % are of one group, and on a balanced one of equal size.

    Parameters
    ----------
    config : StudyConfig
    train, test : AttributeImages
        What the classifiers and codecs learn from, and what is audited.
    checkpoint_dir : path, optional
        A folder from which stopped trainings and audits resume.
    show_progress : bool, default=False

    Yields
    ------
    Study
        The same each time, with one more seed.
    """
    study = Study()
    calibration = calibration_set(train, config)
    shared, others = formats(config, calibration, study.rates), distortions_and_pruning(config, train)
    for seed in range(config.seed, config.seed + config.seeds):
        options: dict[str, Any] = {"random_state": seed, "checkpoint_dir": checkpoint_dir}
        of_seed = dict(learned(config, train, seed, calibration, study.rates, checkpoint_dir, show_progress))
        degradations = shared | of_seed | others
        retrained = chosen(degradations, config.retrain)
        settings: dict[str, Any] = {"max_epochs": config.epochs, "batch_size": 64, "module__by": config.shrink}
        classifier = ImageClassifier(Shrinking, **settings, **options)
        classifier.fit(train.images, train.labels(config.target))
        given = classifier, test, groups_of(test, config.groups[:1])
        # The seeds are drawn together.
        options |= {"target": config.target, "n_bootstrap": 1, "n_permutations": 1, "show_progress": show_progress}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of small groups, and of a target that is the group
            study.audits.append(audit(degradations, *given, embed="classifier", **options))
            if retrained:
                # With the same seed the control would be the same classifier again.
                classifier.set_params(random_state=seed + _ANEW)
                study.retrained.append(audit({CONTROL: _as_they_are} | retrained, *given, train=train, **options))
        yield study


def _as_they_are(images: Any) -> Any:
    return images


def read(
    source: Source, size: int, config: StudyConfig, counts: tuple[int, int]
) -> tuple[AttributeImages, AttributeImages]:
    """Return training and audited images, at most so many: parts of the data set, or of all images 70 and 30 %."""
    if source.data == "faces":
        return make_faces(counts[0], size, random_state=0), make_faces(counts[1], size, random_state=1)
    train, test = source.load(size)
    if test is None:
        train = train.subset(np.unique(train.firsts()))  # each once: some would be both trained and tested on
        groups = groups_of(train, config.groups[:1])
        parts = train_test_split(np.arange(len(train)), test_size=0.3, stratify=groups, random_state=0)
        train, test = (train.subset(part) for part in parts)
    return train.subset(slice(counts[0])), test.subset(slice(counts[1]))


def check_majority(config: StudyConfig, train: AttributeImages) -> None:
    """Raise ValueError unless the majority, of which codecs that learn see too much, is one of the groups."""
    names = np.unique(groups_of(train, config.groups[:1])).tolist()
    if {"pca", "neural"} & {*config.parts} and config.majority not in names:
        raise ValueError(f"--majority must be one of {', '.join(map(str, names))}, got {config.majority}")


def print_results(results: dict[str, Any]) -> None:
    """Print a row for each degradation, and the comparisons."""
    for name, found in results["groupings"].items():
        groups = list(found["n"])
        headers = ["bpp", "PSNR", "range", *(f"drop: {group}" for group in groups), "bias", "corrected p"]
        table = Table("degradation", *headers, title=f"{results['config']['target']} by {name}, points")
        for row in found["degradations"]:
            numbers = ["" if row[key] is None else f"{row[key]:.3g}" for key in ("bpp", "psnr", "psnr_range")]
            drops = [points(row[f"drop of {group}"]) for group in groups]
            bias = f"{points(row['bias'])} [{points(row['bias_low'])}, {points(row['bias_high'])}]"
            table.add_row(row["name"], *numbers, *drops, bias, p_value(row["p_holm"]))
        console().print(table)
        for row in found["comparisons"]:
            ends = f"[{points(row['low'])}, {points(row['high'])}]"
            words = f"{row['first']} minus {row['second']}: {points(row['difference'], signed=True)} {ends}"
            console().print(f"{words}, corrected p {p_value(row['p_holm'])}")


def configured(data: str, given: dict[str, Any]) -> StudyConfig:
    """Return the configuration that options make; what was not given is as `StudyConfig` has it."""
    if unknown := set(given["parts"] or ()) - {*PARTS}:
        raise ValueError(f"--part must be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    has_compressai = importlib.util.find_spec("compressai") is not None
    if "neural" in (given["parts"] or ()) and not has_compressai:
        raise ValueError("--part neural needs CompressAI; ModelCodec's documentation says how to install it")
    default: dict[str, Any] = {"parts": [name for name in PARTS if name != "neural" or has_compressai]}
    default |= {"target": "Smiling", "groups": ["Dark_Skin"]} if data == "faces" else {}
    default |= {"target": "gender", "groups": ["race"]} if data == "utkface" else {}
    settings = default | {name: value for name, value in given.items() if value is not None}
    if missing := [name for name in ("target", "groups") if name not in settings]:
        raise ValueError(f"--{missing[0]} must be given for --data {data}")
    given_as: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()
    }
    config = StudyConfig(**given_as)
    if unknown := {*config.retrain} - {*names_for(config)}:
        raise ValueError(f"--retrain must be of {', '.join(names_for(config))}, got {', '.join(sorted(unknown))}")
    return config


def main(
    data: Data = "faces",
    root: Root = Path(),
    target: Annotated[str | None, typer.Option(help="Attribute to classify; of utkface gender.")] = None,
    groups: Annotated[list[str] | None, typer.Option(help="Attribute of groups, again for more; race.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}, again for more; all.")] = None,
    majority: Annotated[str | None, typer.Option(help="Group that is 80 % of unbalanced training sets.")] = None,
    bpp: Annotated[list[float] | None, typer.Option(help="Bits per pixel of formats, again for more.")] = None,
    pca_bpp: Annotated[list[float] | None, typer.Option(help="Of principal components, again for more.")] = None,
    neural_bpp: Annotated[list[float] | None, typer.Option(help="Of neural codecs, again for more.")] = None,
    retrain: Annotated[
        list[str] | None, typer.Option(help="Degradation to train the classifier anew for, such as 'blur 2'; again.")
    ] = None,
    size: Size = 128,
    images: Annotated[int, typer.Option(min=60, help="Training images at most.")] = 3000,
    test_images: Annotated[int, typer.Option(min=60, help="Audited images at most.")] = 1500,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the classifier.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of 4 images of the training of a neural codec.")] = 1000,
    shrink: Annotated[int, typer.Option(min=1, help="The classifier sees images smaller by this factor.")] = 1,
    draws: Annotated[int, typer.Option(min=1, help="Draws of the bootstrap, and of permutations.")] = 2000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with seeds --seed, --seed + 1 ...")] = 3,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="File for the results, JSON.")] = Path("audit_study.json"),
    cache: Cache = None,
    force: ReplaceFile = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Audit classifiers of several seeds on real faces; a stopped run resumes with the same command.

    Meanwhile OUT-checkpoints holds so_far.json, the results of the seeds that are done.

    Example: python examples/benchmarks/audit_study.py --data utkface --root DATA --majority White --part pca --size 64
    """
    kept = out.with_name(f"{out.stem}-checkpoints")
    with errors_in_one_line(debug, resumes=kept, by_force=False):
        check_file(out, force)
        out.parent.mkdir(parents=True, exist_ok=True)
        names = {"target": target, "groups": groups, "parts": part, "majority": majority, "bpp": bpp}
        numbers = {"shrink": shrink, "epochs": epochs, "steps": steps, "seeds": seeds, "seed": seed, "draws": draws}
        config = configured(data, names | {"pca_bpp": pca_bpp, "neural_bpp": neural_bpp, "retrain": retrain} | numbers)
        train, test = read(Source(data, root, cache=cache, quiet=quiet), size, config, (images, test_images))
        check_majority(config, train)
        results: dict[str, Any] = {}
        for study in study_audits(config, train, test, checkpoint_dir=kept, show_progress=not quiet):
            results = results_of(study, config, train, test)
            write_json(kept / "so_far.json" if len(study.audits) < seeds else out, results)
        shutil.rmtree(kept, ignore_errors=True)
        if as_json:
            typer.echo(out.read_text(), nl=False)
        else:
            print_results(results)


if __name__ == "__main__":
    typer.run(main)
