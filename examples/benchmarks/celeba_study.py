"""The literature's benchmark: blond hair on CelebA as it is, which few blond men are in, by each mitigator.

``python examples/benchmarks/celeba_study.py --root data --out celeba.json`` gives every family of mitigators equally
many variants, chooses one of each by the first seed's validation images, trains it with more seeds, and measures it on
CelebA's validation partition, which nothing was chosen by. With --chosen celeba.json, a study with images of another
size takes the variants that were chosen there. With --checkpoints, a study that was stopped resumes.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from studies import difference, fit_one_seed, markdown, rounded

from captum_region.cli.options import Debug, Device, Quiet, ReplaceFile, Root, Seed, Size
from captum_region.cli.running import check_file, errors_in_one_line
from captum_region.datasets import load_celeba
from captum_region.io.files import records, write_json
from captum_region.io.provenance import provenance
from fairlearn_bridge import (
    JTT,
    AttributionNoiseMitigator,
    BalancedResampling,
    GroupDRO,
    ImageClassifier,
    LastLayerRetraining,
    LearningFromFailure,
    MaskTune,
    Reweighing,
    Samples,
    holdout_split,
    measure,
    summarize,
    worst_group_threshold,
)
from fairlearn_bridge.metrics import alignment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from captum_region import RegionClassifier
    from captum_region.datasets import AttributeImages

TARGET, SPURIOUS = "Blond_Hair", "Male"
# Epochs of one variant; others train twice as long.
EPOCHS = {"efficientnet-lite0": 4, "small": 12}
MEASURES = ("accuracy", "worst_cell", "auc", "crossed_auc")


def families(network: str, device: str) -> dict[str, dict[str, Any]]:
    """Return the mitigators by family and variant: four variants of each family.

    Half of them try epochs and a parameter of the mitigator's own, or the learning rate where it has none. `transplant`
    and its combinations try both schemes, with 50 and 30 % of the pixels.
    """
    epochs = EPOCHS[network]
    pretrained: Any = {"module": network, "module__weights": network} if network != "small" else {}
    base = partial(ImageClassifier, **pretrained, device=device)
    plain = {
        f"{count} epochs, rate {rate:g}": base(max_epochs=count, lr=rate)
        for rate, count in product((1e-3, 3e-4), (epochs, 2 * epochs))
    }
    longer = {count: base(max_epochs=count) for count in (epochs, 2 * epochs)}
    schemes = [
        (scheme, quantile) for scheme in ("general_transplant", "specific_transplant") for quantile in (0.5, 0.7)
    ]
    found: dict[str, dict[str, Any]] = {
        "ERM": plain,
        "reweighing": {name: Reweighing(one) for name, one in plain.items()},
        "resampling": {name: BalancedResampling(one) for name, one in plain.items()},
        "GroupDRO": {
            f"step {step:g}, {count} epochs": GroupDRO(one, step_size=step)
            for step in (0.01, 0.1)
            for count, one in longer.items()
        },
        "JTT": {
            f"weight {weight:g}, {count} epochs": JTT(one, upweight=weight)
            for weight in (5, 20)
            for count, one in longer.items()
        },
        "DFR": {name: LastLayerRetraining(one) for name, one in plain.items()},
        "MaskTune": {name: MaskTune(one) for name, one in plain.items()},
        "LfF": {
            f"q {q:g}, {count} epochs": LearningFromFailure(one, q=q)
            for q in (0.5, 0.7)
            for count, one in longer.items()
        },
        "paper's schemes": {
            f"{scheme} 0.7": AttributionNoiseMitigator(longer[epochs], scheme=scheme, quantile=0.7)
            for scheme in ("general_noise", "specific_noise", "general_mask", "specific_mask")
        },
    }
    trained = {"": longer[epochs]}
    combined = {"reweighing": Reweighing, "resampling": BalancedResampling, "GroupDRO": GroupDRO}
    trained |= {f" + {name}": make(longer[epochs]) for name, make in combined.items()}
    for name, estimator in trained.items():
        found[f"transplant{name}"] = {
            f"{scheme} {quantile:g}": AttributionNoiseMitigator(estimator, scheme=scheme, quantile=quantile)
            for scheme, quantile in schemes
        }
    return found


def study_celeba(
    train: AttributeImages,
    test: AttributeImages,
    *,
    network: str = "efficientnet-lite0",
    seeds: int = 3,
    seed: int = 0,
    validation: float = 0.2,
    region_epochs: int | None = None,
    device: str = "cpu",
    n_jobs: int = 1,
    checkpoint_dir: Path | None = None,
    only: tuple[str, ...] = (),
    chosen: Mapping[str, str] | None = None,
    take: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train all variants with the first seed, the chosen ones with all, and measure them.

    Parameters
    ----------
    train : AttributeImages
        CelebA's train partition, of which the share `validation` is kept to choose by; no person is in both.
    test : AttributeImages
        CelebA's validation partition.
    network : {"efficientnet-lite0", "small"}
        Pretrained on ImageNet, or the paper's from nothing.
    seeds, seed : int
        How many, and the first.
    validation : float, default=0.2
    region_epochs : int, optional
        Of the region classifier; by default its recipe's.
    device : str, default="cpu"
    n_jobs : int, default=1
        Trainings at a time.
    checkpoint_dir : path, optional
        Keeps what is done.
    only : names of families
        By default all.
    chosen : mapping of family to variant, optional
        By default four variants of each family are tried.
    take : name of a family, optional
        Whose differences to each other are told; by default that with the highest accuracy on validation images.
    quiet : bool, default=True

    Returns
    -------
    dict
        ``images``, the numbers of each set and cell; ``variants``, the worst-group accuracy on validation images of
        each variant with the first seed, at the threshold chosen on them; ``reference``, the published family with the
        highest; ``rows``, a row a family and decision: what `summarize` gives, differences to the reference included;
        ``taken``, the family of all with the highest or `take`, and ``to_taken``, the rows with differences to that;
        ``by_seed``, the measures of each training.
    """
    by_family = families(network, device)
    published = [name for name in by_family if not name.startswith("transplant")]
    if only and (not {*only} <= {*by_family} or not {*only} & {*published}):
        every = ", ".join(by_family)
        raise ValueError(f"only must be of {every}, and one of them without transplants, got {', '.join(only)}")
    if take is not None and take not in (only or by_family):
        raise ValueError(f"take must be one of {', '.join(only or by_family)}, got {take}")
    if chosen is not None:
        by_family = {
            name: {one: each for one, each in by_family[name].items() if one == chosen.get(name)} for name in by_family
        }
        if missing := [name for name in only or by_family if not by_family[name]]:
            got = ", ".join(f"{name}: {chosen.get(name)}" for name in missing)
            raise ValueError(f"chosen must have one of the {network} network's variants for each family, got {got}")
    labels = [train.binary(name) for name in (TARGET, SPURIOUS)]
    split = holdout_split(*labels, validation=validation, test=0, identities=train.identities, random_state=seed)
    parts = {"train": train.subset(split.train), "validation": train.subset(split.validation), "test": test}
    sets = {name: Samples(one.images, one.binary(TARGET), one.binary(SPURIOUS)) for name, one in parts.items()}
    candidates = {
        (family, variant): mitigator
        for family, variants in by_family.items()
        for variant, mitigator in variants.items()
        if not only or family in only
    }
    options: Any = {"device": device, "region_epochs": region_epochs, "n_jobs": n_jobs, "states": checkpoint_dir}
    train_seed: Any = partial(_trained, sets, **options, quiet=quiet)
    first = train_seed(candidates, seed)
    by_variant = first[first["set"] == "validation"].groupby(["family", "variant"], sort=False)
    tried = by_variant.apply(lambda one: _decided(one)[1]).rename("worst_cell").reset_index()
    best = tried.loc[tried.groupby("family", sort=False)["worst_cell"].idxmax()]
    kept = {key: candidates[key] for key in zip(best["family"], best["variant"], strict=True)}
    later = [train_seed(kept, its_seed) for its_seed in range(seed + 1, seed + seeds)]
    is_chosen = pd.MultiIndex.from_frame(first[["family", "variant"]]).isin(list(kept))
    found = pd.concat([first[is_chosen], *later])
    reference = str(best[best["family"].isin(published)].set_index("family")["worst_cell"].idxmax())
    taken = take or str(best.set_index("family")["worst_cell"].idxmax())
    aligned = alignment(sets["train"].y, sets["train"].confounder)
    decided = _decisions(found)
    rows, to_taken = (_measured(decided, aligned, each) for each in (reference, taken))
    variants = best.set_index("family")["variant"]
    by_seed = [
        {"family": family, "seed": seed, "decision": decision} | measure(one, aligned=aligned)[list(MEASURES)].to_dict()
        for decision, part in decided.items()
        for (family, seed), one in part.groupby(["mitigator", "seed"], sort=False)
    ]
    return {
        "images": {name: _cells(one) for name, one in sets.items()},
        "variants": records(tried),
        "reference": reference,
        "rows": [{"family": row["family"], "variant": variants[row["family"]], **row} for row in rows],
        "taken": taken,
        "to_taken": to_taken,
        "by_seed": by_seed,
    }


def _cells(samples: Samples) -> dict[str, int]:
    hair, sex = np.where(samples.y, "blond", "not blond"), np.where(samples.confounder, "man", "woman")
    names, numbers = np.unique([f"{one} {other}" for one, other in zip(hair, sex, strict=True)], return_counts=True)
    return dict(zip(names.tolist(), numbers.tolist(), strict=True))


def _trained(
    sets: dict[str, Samples],
    mitigators: dict[tuple[str, str], Any],
    seed: int,
    *,
    device: str,
    region_epochs: int | None,
    n_jobs: int,
    states: Path | None,
    quiet: bool,
) -> pd.DataFrame:
    """Return the predictions of the images that were not trained on, with family, variant and set."""
    held_out = [sets[name] for name in ("validation", "test")]

    def named(regions: RegionClassifier, maps: Tensor) -> dict[str, Any]:
        own = {"region_classifier": regions}
        return {
            f"{family}: {variant}": one.set_params(**own) if isinstance(one, AttributionNoiseMitigator) else one
            for (family, variant), one in mitigators.items()
        }

    predictions, _ = fit_one_seed(
        named,
        sets["train"],
        Samples(
            **{name: np.concatenate([getattr(one, name) for one in held_out]) for name in ("X", "y", "confounder")}
        ),
        seed,
        region_epochs=region_epochs,
        device=device,
        checkpoint_dir=states,
        quiet=quiet,
        # It retrains the last layer alone, of the ERM baseline with the same seed.
        reuse={
            f"DFR: {name}": f"ERM: {name}" for of, name in mitigators if of == "DFR" and ("ERM", name) in mitigators
        },
        n_jobs=n_jobs,
    )
    names = predictions.pop("mitigator").str.split(": ", n=1, expand=True)
    is_test = predictions["image"] >= len(held_out[0].X)
    return predictions.assign(family=names[0], variant=names[1], set=np.where(is_test, "test", "validation"))


def _decided(validation: pd.DataFrame) -> tuple[float, float]:
    """Return the threshold with the best worst-group accuracy on validation images, and that accuracy."""
    target, score, group = (validation[name].to_numpy() for name in ("target", "score", "confounder"))
    threshold = worst_group_threshold(target, score, sensitive_features=group)
    right = pd.Series((score >= threshold) == target)
    return threshold, float(right.groupby([target, group]).mean().min())


def _decisions(predictions: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the test images' predictions: the likeliest class, and by the threshold chosen on validation images."""
    decided = []
    for _, one in predictions.groupby(["family", "seed"], sort=False):
        threshold = _decided(one[one["set"] == "validation"])[0]
        decided.append(one.assign(predicted=one["score"] >= threshold))
    return {
        decision: part[part["set"] == "test"].rename(columns={"family": "mitigator"})
        for decision, part in {"likeliest class": predictions, "threshold": pd.concat(decided)}.items()
    }


def _measured(decided: dict[str, pd.DataFrame], aligned: dict[Any, Any], reference: str) -> list[dict[str, Any]]:
    """Return a row a family and decision, with differences to the reference."""
    return [
        {"family": name, "decision": decision, **{each: values[each].to_dict() for each in MEASURES}}
        for decision, part in decided.items()
        for name, values in summarize(part, aligned=aligned, reference=reference).iterrows()
    ]


def table_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return the table of a study: means over seeds, their spread, and paired differences to the reference."""
    at = {(row["family"], row["decision"]): row for row in found["rows"]}
    shown = {}
    for name in dict.fromkeys(row["family"] for row in found["rows"]):
        plain, tuned = (at[name, decision] for decision in ("likeliest class", "threshold"))
        parts = {
            "accuracy": plain["accuracy"],
            "worst group": plain["worst_cell"],
            "at a chosen threshold": tuned["worst_cell"],
            "AUC": plain["auc"],
            "bias-conflicting AUC": plain["crossed_auc"],
        }
        cells = {"variant": plain["variant"]}
        for title, part in parts.items():
            cells[title] = f"{part['mean']:.3f}" + (f" ± {part['std']:.3f}" if part["seeds"] > 1 else "")
        for title in ("at a chosen threshold", "bias-conflicting AUC"):
            words = "" if name == found["reference"] else difference(parts[title])
            cells[f"{title}, minus {found['reference']}"] = words
        shown[name] = cells
    return pd.DataFrame(shown).T


def taken_table(found: dict[str, Any]) -> pd.DataFrame:
    """Return what the family that one would have taken is ahead of each other, at a chosen threshold."""
    measures = {"worst_cell": "worst group", "crossed_auc": "bias-conflicting AUC", "accuracy": "accuracy"}
    shown = {}
    for row in found["to_taken"]:
        if row["decision"] == "threshold" and row["family"] != found["taken"]:
            ahead = {}
            for name, title in measures.items():
                value, high, low = (row[name][f"difference{end}"] for end in ("", "_low", "_high"))
                # An AUC of few images has no interval.
                ahead[title] = f"{-value:+.3f}" + ("" if pd.isna(low) else f" [{-low:+.3f}, {-high:+.3f}]")
            shown[row["family"]] = ahead
    return pd.DataFrame(shown).T


def main(
    root: Root,
    out: Annotated[Path, typer.Option(help="JSON file of every value.")] = Path("celeba.json"),
    network: Annotated[str, typer.Option(help="efficientnet-lite0, pretrained, or small.")] = "efficientnet-lite0",
    size: Size = 64,
    listed: Annotated[
        Path | None, typer.Option(help="Text file of the train partition's images to use, one a line; by default all.")
    ] = None,
    family: Annotated[list[str] | None, typer.Option(help="Again for more; all by default.")] = None,
    chosen: Annotated[
        Path | None, typer.Option(help="JSON file of another study, to take its variants; by default four are tried.")
    ] = None,
    take: Annotated[
        str | None, typer.Option(help="Family to compare with each other; by default the best on images for choices.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs with seeds --seed, --seed + 1 ...", min=1)] = 3,
    jobs: Annotated[int, typer.Option(help="Trainings at a time.", min=1)] = 1,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder that keeps what is done.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: ReplaceFile = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare mitigators on CelebA with blond hair as target and sex as spurious attribute.

    Example: python examples/benchmarks/celeba_study.py --root data --out celeba.json --network small
    """
    with errors_in_one_line(debug):
        check_file(out, force=force)
        if network not in EPOCHS:
            raise ValueError(f"--network must be one of {', '.join(EPOCHS)}, got {network}")
        taken = None if chosen is None else json.loads(chosen.read_text(encoding="utf-8"))["rows"]
        train = load_celeba(root, "train", size=size, show_progress=not quiet)
        if listed is not None:
            train = train.subset(train.attributes.index.isin(listed.read_text().split()))
        found = study_celeba(
            train,
            load_celeba(root, "valid", size=size, show_progress=not quiet),
            network=network,
            seeds=seeds,
            seed=seed,
            device=device,
            n_jobs=jobs,
            checkpoint_dir=checkpoints,
            only=tuple(family or ()),
            chosen=None if taken is None else {row["family"]: row["variant"] for row in taken},
            take=take,
            quiet=quiet,
        )
        settings = {"network": network, "size": size, "seed": seed, "seeds": seeds, "device": device}
        write_json(out, rounded({"settings": settings, **found, **provenance()}))
        typer.echo(markdown(table_of(found), "mitigator"))
        typer.echo(markdown(taken_table(found), f"{found['taken']}, minus"))


if __name__ == "__main__":
    typer.run(main)
