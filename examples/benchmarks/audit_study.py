"""What codecs, distortions and pruning take from which group of real faces, over several seeds.

``python examples/benchmarks/audit_study.py`` audits a classifier a seed, each with codecs of its own where they learn.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import features
from rich.table import Table
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from captum_region.cli.options import AsJson, Cache, Data, Debug, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.reading import Source
from captum_region.cli.running import check_file, console, errors_in_one_line
from captum_region.datasets import make_faces
from captum_region.io.files import write_json
from captum_region.io.provenance import provenance
from captum_region.randomness import seeded
from fairlearn_bridge import ImageClassifier
from fairlearn_bridge.audit import (
    Distortion,
    ModelCodec,
    PCACodec,
    PillowCodec,
    Pruning,
    audit,
    quality_for_rate,
    statistics,
    train_codec,
)
from fairlearn_bridge.audit.words import p_value, points
from fairlearn_bridge.classifier import SmallCNN
from fairlearn_bridge.samples import groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from captum_region.datasets import AttributeImages
    from fairlearn_bridge.audit import DegradationAudit

PARTS = ("codecs", "pca", "neural", "distortions", "pruning")
# JPEG is twice: with the chroma at a half of the resolution, as is usual, and in full.
FORMATS = {
    "jpeg 4:2:0": PillowCodec("jpeg", 50, "4:2:0"),
    "jpeg 4:4:4": PillowCodec("jpeg", 50, "4:4:4"),
    "webp": PillowCodec("webp", 50),
    **({"avif": PillowCodec("avif", 50)} if features.check("avif") else {}),
    "jpeg2000": PillowCodec("jpeg2000", 50),
}
SETS = ("unbalanced", "balanced")
# Images on which rates are measured, equally many of each group.
_CALIBRATED_ON = 40
_AGES = {"under 20": (0, 20), "20 to 39": (20, 40), "40 and over": (40, 200)}


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
    steps: int = 800
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
    rates : list of dict
        ``codec``, ``bpp``, the ``seed`` of one that learns, and what was ``reached`` on training images, or why not.
    """

    audits: list[DegradationAudit] = field(default_factory=list)
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
    calibration = train.images[training_set(train, config, "balanced", 0, _CALIBRATED_ON)]
    shared: dict[str, Any] = {}
    for name, codec in FORMATS.items() if "codecs" in config.parts else ():
        shared |= _at_rates(name, codec, config.bpp, calibration, study.rates)
    for seed in range(config.seed, config.seed + config.seeds):
        options: dict[str, Any] = {"random_state": seed, "checkpoint_dir": checkpoint_dir}
        settings: dict[str, Any] = {"max_epochs": config.epochs, "batch_size": 64, "module__by": config.shrink}
        classifier = ImageClassifier(Shrinking, **settings, **options)
        classifier.fit(train.images, train.labels(config.target))
        learned = _learned(config, train, seed, calibration, study.rates, checkpoint_dir, show_progress)
        degradations = shared | dict(learned)
        if "distortions" in config.parts:
            kinds: dict[str, list[float]] = {
                "blur": [1, 2],
                "noise": [0.05, 0.1],
                "contrast": [0.5],
                "downsampling": [2],
            }
            degradations |= {kind: Distortion(kind, severities) for kind, severities in kinds.items()}
        if "pruning" in config.parts:
            some = train.images[:400]
            kept = Pruning([0.5, 0.7, 0.9], reestimate_on=None)
            degradations |= {"pruned": kept, "pruned, statistics anew": Pruning([0.5, 0.7, 0.9], reestimate_on=some)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of small groups, and of a target that is the group
            found = audit(
                degradations,
                classifier,
                test,
                groups_of(test, config.groups[:1]),
                target=config.target,
                embed="classifier",
                n_bootstrap=1,  # the seeds are drawn together
                n_permutations=1,
                show_progress=show_progress,
                **options,
            )
        study.audits.append(found)
        yield study


def _learned(
    config: StudyConfig,
    train: AttributeImages,
    seed: int,
    calibration: Any,
    rates: list[dict[str, Any]],
    checkpoint_dir: Path | None,
    show_progress: bool,
) -> Iterator[tuple[str, Any]]:
    """Yield the codecs that learn, of a seed, with their names, and note the rates that they reach."""
    for kind in SETS:
        images = train.images[training_set(train, config, kind, seed, config.learned_from)]
        if "pca" in config.parts:
            most = min(config.components, len(images), int(np.prod(images.shape[1:])))
            pca = PCACodec(most, random_state=seed).fit(images)
            yield from _at_rates(f"pca, {kind}", pca, config.pca_bpp, calibration, rates, seed=seed)
        if "neural" in config.parts:
            from compressai.models import ScaleHyperprior  # type: ignore[import-not-found, unused-ignore]  # optional

            with seeded(seed):
                model = ScaleHyperprior(24, 36)
            options: dict[str, Any] = {"random_state": seed, "checkpoint_dir": checkpoint_dir}
            for bpp in config.neural_bpp:  # the second training starts from what the first has learnt
                train_codec(model, images, bpp, steps=config.steps, show_progress=show_progress, **options)
                yield f"neural, {kind} at {bpp:g}", ModelCodec(model, f"neural, {kind}", severity=bpp)


def _at_rates(
    name: str, codec: Any, wanted: Sequence[float], calibration: Any, rates: list[dict[str, Any]], **of: Any
) -> Iterator[tuple[str, Any]]:
    """Yield a codec at each rate that it reaches."""
    for bpp in wanted:
        row = {"codec": name, "bpp": bpp, **of}
        try:
            reached = quality_for_rate(codec, calibration, bpp)
        except ValueError as error:
            if "the lowest found" not in str(error):
                raise
            rates.append(row | {"reached": None, "why": str(error)})
            continue
        rates.append(row | {"reached": reached.rate, "quality": reached.quality})
        yield f"{name} at {bpp:g}", reached.codec


def training_set(train: AttributeImages, config: StudyConfig, kind: str, seed: int, count: int) -> NDArray[np.intp]:
    """Return the positions of the images that a codec learns from: as many as there are, at most `count`."""
    labels = groups_of(train, config.groups[:1])
    names = np.unique(labels).tolist()
    shares = dict.fromkeys(names, 1 / len(names))
    unbalanced = {name: 0.8 if name == config.majority else 0.2 / (len(names) - 1) for name in names}
    # Both sets are of the size that both can have.
    limits = [(labels == name).sum() / max(shares[name], unbalanced[name]) for name in names]
    size = int(min(count, *limits))
    chosen = unbalanced if kind == "unbalanced" else shares
    generator = np.random.default_rng((seed, SETS.index(kind)))
    parts = [generator.permutation(np.flatnonzero(labels == name))[: round(chosen[name] * size)] for name in names]
    return generator.permutation(np.concatenate(parts))


def by_case(study: Study, groups: NDArray[Any], config: StudyConfig) -> pd.DataFrame:
    """Return a row for each degradation, all seeds together: of each image the mean over the classifiers is drawn.

    Parameters
    ----------
    study : Study
    groups : ndarray of shape (N,)
    config : StudyConfig

    Returns
    -------
    DataFrame, indexed by name
        ``bpp``, ``psnr``, ``frechet``, ``accuracy``, ``drop``; ``psnr_range`` over groups; ``psnr_auc``, how well a low
        PSNR tells which decisions are lost, 0.5 if not at all; ``bias`` with its bootstrap interval, ``bias_sd`` of the
        seeds, ``p`` of a permutation of the groups and ``p_holm``; ``worst`` and ``best`` group, and ``lowest_psnr``;
        ``drop of G`` and ``psnr of G`` of each group; ``others``, the mean drop of all groups but the majority minus
        the majority's, with its interval.
    """
    names, codes = np.unique(groups.astype(str), return_inverse=True)
    cases = names_of(study)
    drops = np.stack([_drops(found, cases) for found in study.audits])
    of_group = np.stack([drops[:, codes == code].mean(1) for code in range(len(names))], axis=1)  # seeds, groups, cases
    by_seed = statistics.spread(of_group, axis=1)
    means, values = of_group.mean(0), drops.mean(0)
    drawn = statistics.bootstrap_means(values, codes, config.draws, np.random.default_rng(0))
    null = statistics.permuted_means(values, codes, config.draws, np.random.default_rng(1))
    p = statistics.p_values(statistics.spread(means, axis=0), statistics.spread(null, axis=1))
    low, high = statistics.percentiles(statistics.spread(drawn, axis=1), 0.95)
    corrected = statistics.holm(p)
    rows = {}
    tables = [found.table() for found in study.audits]
    for case, name in enumerate(cases):
        of_images = np.mean([found.outcomes[name].psnr for found in study.audits], axis=0)
        psnr = [of_images[codes == code].mean() for code in range(len(names))]
        row = _qualities(study, tables, name)
        row |= {"drop": values[:, case].mean(), "psnr_range": np.ptp(psnr), "bias": np.ptp(means[:, case])}
        row |= {"bias_low": low[case], "bias_high": high[case], "p": p[case], "p_holm": corrected[case]}
        row["bias_sd"] = by_seed[:, case].std(ddof=1) if len(by_seed) > 1 else np.nan
        row |= {"worst": names[means[:, case].argmax()], "best": names[means[:, case].argmin()]}
        row["lowest_psnr"] = names[np.argmin(psnr)] if np.isfinite(psnr).all() else None
        row |= {f"drop of {group}": means[code, case] for code, group in enumerate(names)}
        row |= {f"psnr of {group}": psnr[code] for code, group in enumerate(names)}
        if config.majority in names:
            weights = np.where(names == config.majority, -1.0, 1 / (len(names) - 1))
            ends = statistics.percentiles(drawn[:, :, case] @ weights, 0.95)
            row |= dict(zip(("others", "others_low", "others_high"), (means[:, case] @ weights, *ends), strict=True))
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def compared(study: Study, groups: NDArray[Any], config: StudyConfig) -> pd.DataFrame:
    """Return how much larger the bias of one degradation is than that of another, all seeds together.

    Of codecs that learnt from unbalanced and from balanced images at one rate, and of JPEG with and without chroma
    subsampling. ``p`` is of a permutation in which both are exchanged in each image, see `DegradationAudit.compare`.
    """
    names = names_of(study)
    pairs = []
    for name in names:
        for first, second in (("unbalanced", "balanced"), ("4:2:0", "4:4:4")):
            other = name.replace(first, second) if f" {first}" in name else name
            if other != name and other in names:
                pairs.append((name, other))
    _, codes = np.unique(groups.astype(str), return_inverse=True)
    values = np.mean([_drops(found, names) for found in study.audits], axis=0)
    drawn = statistics.bootstrap_means(values, codes, config.draws, np.random.default_rng(0))
    biases = statistics.spread(drawn, axis=1)
    rows = []
    for pair in pairs:
        columns = [names.index(name) for name in pair]
        both = values[:, columns]
        means = np.stack([both[codes == code].mean(0) for code in range(codes.max() + 1)])
        first, second = statistics.spread(means, axis=0)
        centred = (both - both.mean(0))[..., None]
        null = statistics.swapped_means(centred, codes, config.draws, np.random.default_rng(2))[..., 0]
        swapped = statistics.spread(null, axis=1)
        p = statistics.p_values([abs(first - second)], np.abs(swapped[:, :1] - swapped[:, 1:]))
        low, high = statistics.percentiles(biases[:, columns[0]] - biases[:, columns[1]], 0.95)
        row = {"first": pair[0], "second": pair[1], "difference": first - second, "low": low, "high": high}
        rows.append(row | {"p": float(p[0])})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=statistics.holm(table["p"])) if rows else table


def names_of(study: Study) -> list[str]:
    """Return the degradations that all seeds have: a rate may be reached in some only."""
    return [name for name in study.audits[0].names if all(name in found.names for found in study.audits)]


def _drops(found: DegradationAudit, names: list[str]) -> NDArray[np.float64]:
    """Return what each image loses in each case, N x cases: 1 if its decision was right and no longer is."""
    was_right = found.classes[found.original.predicted] == found.target
    is_right = [found.classes[found.outcomes[name].predicted] == found.target for name in names]
    drops: NDArray[np.float64] = was_right[:, None].astype(float) - np.stack(is_right, axis=1)
    return drops


def _qualities(study: Study, tables: list[Any], name: str) -> dict[str, Any]:
    """Return the rate and the quality of all images, the mean over seeds."""
    rows = []
    for found, table in zip(study.audits, tables, strict=True):
        row = table.loc[name]
        outcome = found.outcomes[name]
        kept = found.classes[found.original.predicted] == found.target
        lost = found.classes[outcome.predicted][kept] != found.target[kept]
        auc = np.nan
        if 0 < lost.sum() < len(lost) and np.isfinite(outcome.psnr).all():
            auc = roc_auc_score(lost, -outcome.psnr[kept])
        measures = ("bpp", "psnr", "frechet", "accuracy", "flips")
        rows.append({key: row.get(key, np.nan) for key in measures} | {"psnr_auc": auc})
    return {str(key): value for key, value in pd.DataFrame(rows).astype(float).mean().items()}


def groupings(test: AttributeImages, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """Return the group of each image by each attribute, and by ``age_band`` where ages are known."""
    found: dict[str, NDArray[Any]] = {name: groups_of(test, (name,)) for name in names}
    if "age" in test.attributes:
        ages = test.attributes["age"].to_numpy(float)
        bands = [(ages >= low) & (ages < high) for low, high in _AGES.values()]
        found["age_band"] = np.select(bands, [*_AGES], "")
    return found


def read(
    source: Source, size: int, config: StudyConfig, counts: tuple[int, int]
) -> tuple[AttributeImages, AttributeImages]:
    """Return training and audited images, at most so many: parts of the data set, or of all images 70 and 30 %."""
    if source.data == "faces":
        return make_faces(counts[0], size, random_state=0), make_faces(counts[1], size, random_state=1)
    train, test = source.load(size)
    if test is None:
        groups = groups_of(train, config.groups[:1])
        parts = train_test_split(np.arange(len(train)), test_size=0.3, stratify=groups, random_state=0)
        train, test = (train.subset(part) for part in parts)
    return train.subset(slice(counts[0])), test.subset(slice(counts[1]))


def results_of(study: Study, config: StudyConfig, train: AttributeImages, test: AttributeImages) -> dict[str, Any]:
    """Return what was found, as JSON holds it."""
    right = [found.classes[found.original.predicted] == found.target for found in study.audits]
    found: dict[str, Any] = {}
    for name, groups in groupings(test, config.groups).items():
        by_group = pd.Series(np.mean(right, axis=0)).groupby(groups)
        found[name] = {
            "n": by_group.size().to_dict(),
            "accuracy": by_group.mean().to_dict(),
            "degradations": _records(by_case(study, groups, config).reset_index()),
            "comparisons": _records(compared(study, groups, config)),
        }
    return {
        **provenance(),
        "config": asdict(config),
        "images": {"train": len(train), "test": len(test), "size": list(test.image_size)},
        "accuracy": [float(each.mean()) for each in right],
        "rates": study.rates,
        "groupings": found,
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return list(json.loads(table.to_json(orient="records", double_precision=15)))


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
    return StudyConfig(**given_as)


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
    size: Size = 128,
    images: Annotated[int, typer.Option(min=60, help="Training images at most.")] = 3000,
    test_images: Annotated[int, typer.Option(min=60, help="Audited images at most.")] = 1500,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the classifier.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the training of a neural codec.")] = 800,
    shrink: Annotated[int, typer.Option(min=1, help="The classifier sees images smaller by this factor.")] = 1,
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
        numbers = {"shrink": shrink, "epochs": epochs, "steps": steps, "seeds": seeds, "seed": seed}
        config = configured(data, names | {"pca_bpp": pca_bpp, "neural_bpp": neural_bpp} | numbers)
        train, test = read(Source(data, root, cache=cache, quiet=quiet), size, config, (images, test_images))
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
