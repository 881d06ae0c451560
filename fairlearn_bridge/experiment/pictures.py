"""What the report shows of images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captum_region.batches import as_bytes
from fairlearn_bridge.experiment.configuration import ExperimentConfig
from fairlearn_bridge.experiment.data import ExperimentData, cell_names, has_twins, image_names, samples_of
from fairlearn_bridge.experiment.training import Trained
from fairlearn_bridge.noise import AttributionNoise
from fairlearn_bridge.samples import Samples
from fairlearn_bridge.schemes import is_automatic, scheme_parameters

EXAMPLES = 6


def example_pictures(config: ExperimentConfig, data: ExperimentData, trained: Trained) -> dict[str, NDArray[Any]]:
    """Return what the report shows of images: means, and some training images with each scheme's perturbation."""
    biased, maps, to_pixels = samples_of(config, data.biased), trained.maps, trained.classifier.grid.to_pixels
    mean_map = maps.double().mean(0).float()
    half = EXAMPLES // 2
    chosen = np.concatenate([np.flatnonzero(biased.confounder)[:half], np.flatnonzero(~biased.confounder)[:half]])
    shown = [scheme for scheme in config.schemes if not is_automatic(scheme)]
    images = torch.from_numpy(data.biased.images[chosen])
    pictures: dict[str, NDArray[Any]] = {
        "mean_image": data.biased.images.mean(0).round().astype(np.uint8).transpose(1, 2, 0),
        "mean_map": mean_map.numpy(),
        "pixel_map": to_pixels(mean_map).numpy(),
        "example_images": images.numpy(),
        "example_maps": to_pixels(maps[chosen]).numpy(),
        "example_labels": cell_names(config, biased, chosen),
        "example_names": image_names(data.biased, chosen),
        "example_schemes": np.array(shown),
        **_donors(config, biased, trained, chosen),
    }
    if trained.regions.region_accuracy is not None:
        pictures["region_accuracy"] = trained.regions.region_accuracy
    if has_twins(data.test, config.confounder):
        pictures["truth_mean"] = data.test.truth(config.confounder).mean(0)
    for scheme in shown:
        parameters = {key: value for key, value in scheme_parameters(scheme).items() if key in ("scheme", "control")}
        noise = AttributionNoise(quantile=config.quantile, noise_std=config.noise_std, transplant_share=1, **parameters)
        noise.fit(
            to_pixels(mean_map[None] if noise.is_general else maps),
            biased.X,
            biased.confounder,
            labels=biased.y,
            random_state=config.random_state,
        )
        generator = torch.Generator().manual_seed(config.random_state)
        perturbed = noise(images.float() / 255, torch.from_numpy(chosen), generator)
        pictures[f"example_{scheme}"] = as_bytes(perturbed)
    return pictures


def _donors(
    config: ExperimentConfig, biased: Samples, trained: Trained, chosen: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Return, for each of the `chosen` images, one that transplants would take from, and its pixel map."""
    maps, to_pixels = trained.maps, trained.classifier.grid.to_pixels
    noise = AttributionNoise("general_transplant")
    noise.fit(to_pixels(maps[:1]), biased.X, biased.confounder, labels=biased.y)
    assert noise.donors_ is not None  # a transplant has them
    donors = noise.donors_.draw(torch.from_numpy(chosen), torch.Generator().manual_seed(config.random_state))
    return {"donor_images": np.asarray(biased.X)[donors.numpy()], "donor_maps": to_pixels(maps[donors]).numpy()}


def confident_images(
    config: ExperimentConfig, data: ExperimentData, trained: Trained
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Return the training images with the highest and the lowest mean confidence, highest first, and their pictures."""
    mean, largest = trained.maps.mean((1, 2)), trained.maps.amax((1, 2))
    order = mean.argsort(descending=True, stable=True).numpy()
    count = min(EXAMPLES, len(order) // 2)
    chosen = np.concatenate([order[:count], order[len(order) - count :]])
    names = image_names(data.biased, chosen)
    labels = cell_names(config, samples_of(config, data.biased), chosen)
    records = [
        {"image": str(name), "label": str(label), "mean": float(mean[at]), "max": float(largest[at])}
        for name, label, at in zip(names, labels, chosen, strict=True)
    ]
    pixel_maps = trained.classifier.grid.to_pixels(trained.maps[chosen]).numpy()
    return records, {"confident_images": data.biased.images[chosen], "confident_maps": pixel_maps}
