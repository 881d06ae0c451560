"""Checkpoints of region classifiers: weights as safetensors, the rest as JSON; loading executes no code."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from captum_region.classifiers import DenseRegionClassifier, PatchRegionClassifier, RegionClassifier
from captum_region.grid import RegionGrid
from captum_region.io.digest import digest, digest_of, is_the_users
from captum_region.io.files import read_json, replacing_folder

FORMAT = 2
CLASSIFIER_FILES = ("classifier.json", "weights.safetensors")
KINDS = {kind.__name__: kind for kind in (DenseRegionClassifier, PatchRegionClassifier)}


def save_classifier(classifier: RegionClassifier, folder: str | os.PathLike[str]) -> None:
    """Write `classifier` into `folder`: ``classifier.json`` and ``weights.safetensors``.

    The folder appears complete or not at all: it is written under another name and then renamed.

    Parameters
    ----------
    classifier : DenseRegionClassifier or PatchRegionClassifier
    folder : path
        Made, with its parents. A classifier saved there before is replaced.

    Raises
    ------
    TypeError
        If `classifier` is of another kind.
    FileExistsError
        If the folder holds other files.
    OSError
        If it cannot be written.

    See Also
    --------
    load_classifier : Reads it.
    """
    if type(classifier) not in KINDS.values():
        raise TypeError(f"classifier must be one of {sorted(KINDS)}, got {type(classifier).__name__}")
    description = {"format": FORMAT, **_architecture(classifier), "class_names": classifier.class_names}
    with replacing_folder(folder, CLASSIFIER_FILES, "classifier") as whole:
        (whole / "classifier.json").write_text(json.dumps(description, indent=2) + "\n")
        with weights_in(folder, whole / "weights.safetensors") as path:
            save_model(classifier, str(path))


@contextmanager
def weights_in(folder: str | os.PathLike[str], path: Path) -> Iterator[Path]:
    """Yield a new file for safetensors to write, as readable as other new files; an error names `folder`."""
    path.touch()
    mode = path.stat().st_mode  # safetensors lets only the owner read it
    try:
        yield path
        path.chmod(mode)
    except SafetensorError as error:  # such as a full disk
        raise OSError(f"{folder} cannot be written: {error}") from error


def classifier_digest(classifier: RegionClassifier) -> str:
    """Return a digest of a classifier's kind, grid, weights and the user's modules; class names do not count."""
    state = sorted(classifier.state_dict().items())
    weights = ((f"{name} {value.dtype} {tuple(value.shape)}", value) for name, value in state)
    code = {type(module) for module in classifier.modules() if is_the_users(type(module).__module__)}
    head = json.dumps(_architecture(classifier), sort_keys=True)
    return digest_of(chain([head], *weights, sorted(map(digest, code)), _settings(classifier)))


def _settings(classifier: RegionClassifier) -> Iterator[str]:
    """Yield the settings of a user's modules, such as slopes and strides: no name stands for them, nor a weight."""
    if is_the_users(type(classifier).__module__) or classifier.config().get("backbone", "") is None:
        for name, module in classifier.named_modules():
            own = {key: value for key, value in sorted(vars(module).items()) if not key.startswith("_")}
            plain = {key: value for key, value in own.items() if isinstance(value, int | float | str | tuple)}
            yield f"{name} {type(module).__name__} {plain | {'training': None}}"


def _architecture(classifier: RegionClassifier) -> dict[str, Any]:
    kind, channels, config = type(classifier).__name__, classifier.in_channels, classifier.config()
    return {"kind": kind, **asdict(classifier.grid), "in_channels": channels, "config": config}


def load_classifier(folder: str | os.PathLike[str], *, backbone: nn.Module | None = None) -> RegionClassifier:
    """Read a classifier that `save_classifier` wrote, in eval mode and on the CPU.

    The folder may come from an untrusted source: nothing in it is executed. Before memory is used for the classifier,
    its description is compared with the shapes in the weights' header, which safetensors compares with the file's size.

    Parameters
    ----------
    folder : path
    backbone : nn.Module, optional
        Needed if the classifier was made with a module of your own: one of the same architecture. A checkpoint holds
        weights and names, no code.

    Returns
    -------
    RegionClassifier

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the files are damaged, do not fit together, are of another format version or need `backbone`, or a weight is
        not finite.

    See Also
    --------
    save_classifier : Writes it.
    """
    folder = Path(folder)
    path, weights = folder / "classifier.json", folder / "weights.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"there is no region classifier in {folder}, no {path.name}")
    description = read_json(path, FORMAT, largest=2**20)
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {weights}")
    try:
        grid = RegionGrid(tuple(description["image_size"]), description["patch_size"], description["stride"])
        kind, config = KINDS[description["kind"]], description["config"]
        names, channels = description["class_names"], description["in_channels"]
        if not (isinstance(config, dict) and isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise TypeError("config must be an object, class_names a list of strings")
        if type(channels) is not int or channels < 1:
            raise ValueError(f"in_channels must be an integer of at least 1, got {channels!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a region classifier: {type(error).__name__}: {error}") from error
    if kind is PatchRegionClassifier and config.get("backbone") is None:
        if backbone is None:
            raise ValueError(f"backbone must be given: the one in {folder} was not made by its name")
        config["backbone"] = backbone
    try:
        options: Any = {"class_names": names, "in_channels": channels, "random_state": 0}
        build = partial(kind, grid, len(names), **options, **config)
        check_header(weights, _without_memory(build, grid))
        classifier: RegionClassifier = build()
        load_model(classifier, str(weights))
        for name, value in classifier.state_dict().items():
            if not bool(value.isfinite().all()):
                raise ValueError(f"{name} holds values that are not finite")
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    return classifier.eval()


def _without_memory(build: partial[Any], grid: RegionGrid) -> dict[str, Tensor]:
    """Return tensors without memory, of the shapes that a classifier would have."""
    with torch.device("meta"):
        if not isinstance(build.keywords.get("backbone"), nn.Module):
            # RegNets compute their sizes with tensors, which must have values for that.
            with suppress(NotImplementedError):
                return build().state_dict()
        # The tensors around the backbone, whose shapes the description decides.
        own = {"mean": (build.keywords["in_channels"],), "embedding.weight": (grid.num_regions, grid.patch_size**2)}
        return {name: torch.empty(shape) for name, shape in own.items()}


def check_header(weights: Path, described: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the file's header lists all the tensors that are described."""
    with safe_open(weights, "pt") as file:
        names = set(file.keys())
        for name, tensor in described.items():
            if name not in names:
                raise ValueError(f"{weights.name} does not hold {name}")
            found = file.get_slice(name)
            if tuple(found.get_shape()) != tuple(tensor.shape):
                raise ValueError(f"{name} must have shape {tuple(tensor.shape)}, got {tuple(found.get_shape())}")
            if found.get_dtype().startswith(("F", "BF")) != tensor.is_floating_point():
                raise ValueError(f"{name} must be like {tensor.dtype}, got {found.get_dtype()}")
