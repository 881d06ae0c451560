"""Checkpoints of region classifiers: weights as safetensors, the rest as JSON; loading runs no code of the file's."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_model, save_model

from captum_region.classifiers import DenseRegionClassifier, PatchRegionClassifier, RegionClassifier
from captum_region.files import PARTIAL
from captum_region.grid import RegionGrid

if TYPE_CHECKING:
    import os

    from torch import nn

FORMAT = 1
KINDS: dict[str, type[DenseRegionClassifier] | type[PatchRegionClassifier]] = {
    "DenseRegionClassifier": DenseRegionClassifier,
    "PatchRegionClassifier": PatchRegionClassifier,
}


def save_classifier(classifier: RegionClassifier, folder: str | os.PathLike[str]) -> None:
    """Write `classifier` into `folder`: ``classifier.json`` and ``weights.safetensors``.

    The folder is made beside its place and then renamed, so it is whole or not there.

    Parameters
    ----------
    classifier : RegionClassifier
    folder : path
        Made, with its parents. What an earlier call wrote there is replaced.

    Raises
    ------
    TypeError
        If `classifier` is none of the two kinds.
    FileExistsError
        If the folder is there and holds something else.
    """
    if type(classifier) not in KINDS.values():
        raise TypeError(f"classifier must be one of {sorted(KINDS)}, got {type(classifier).__name__}")
    folder = Path(folder)
    names = {"classifier.json", "weights.safetensors"}
    if folder.exists() and not {path.name for path in folder.iterdir()} <= names:
        raise FileExistsError(f"folder must be new or hold a classifier, but {folder} holds other files")
    description = {"format": FORMAT, **_architecture(classifier), "class_names": classifier.class_names}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PARTIAL}{folder.name}-") as beside:
        whole = Path(beside) / "new"
        whole.mkdir()
        (whole / "classifier.json").write_text(json.dumps(description, indent=2) + "\n")
        save_model(classifier, str(whole / "weights.safetensors"))
        if folder.exists():
            shutil.move(folder, Path(beside) / "old")
        whole.rename(folder)


def classifier_digest(classifier: RegionClassifier) -> str:
    """Return a digest (BLAKE2b, 128 bits, as hex) of a classifier's kind, grid and weights; names do not count."""
    digest = hashlib.blake2b(json.dumps(_architecture(classifier), sort_keys=True).encode(), digest_size=16)
    for name, value in sorted(classifier.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(classifier: RegionClassifier) -> dict[str, Any]:
    return {
        "kind": type(classifier).__name__,
        "image_size": classifier.grid.image_size,
        "patch_size": classifier.grid.patch_size,
        "stride": classifier.grid.stride,
        "in_channels": classifier.in_channels,
        "config": classifier.config(),
    }


def load_classifier(folder: str | os.PathLike[str], *, backbone: nn.Module | None = None) -> RegionClassifier:
    """Read a classifier that `save_classifier` wrote, in eval mode and on the CPU.

    Parameters
    ----------
    folder : path
    backbone : nn.Module, optional
        Of the same architecture as the one saved, where that was a module of the user's: a checkpoint holds weights
        and names, no code.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the files are damaged, do not fit together, are of another format version, or need `backbone`.
    """
    folder = Path(folder)
    path = folder / "classifier.json"
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        version = description["format"]
        if version != FORMAT:
            raise ValueError(f"its format is version {version!r}, this package reads version {FORMAT}")
        grid = RegionGrid(tuple(description["image_size"]), description["patch_size"], description["stride"])
        kind = KINDS[description["kind"]]
        config = dict(description["config"])
        names = list(description["class_names"])
        in_channels = int(description["in_channels"])
    except FileNotFoundError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a region classifier: {type(error).__name__}: {error}") from error
    if kind is PatchRegionClassifier:
        if config.get("backbone") is None and backbone is None:
            raise ValueError(f"backbone must be given: {folder} was saved with a module of its user's")
        config["backbone"] = backbone if config.get("backbone") is None else config["backbone"]
    try:
        classifier = kind(grid, len(names), class_names=names, in_channels=in_channels, random_state=0, **config)
        load_model(classifier, str(folder / "weights.safetensors"))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    return classifier.eval()
