"""
Run seeds on a Dask cluster
===========================

``compare_mitigators`` runs its trainings through joblib, so any joblib backend can distribute them: here two Dask
workers on this machine, of two threads each, in practice a cluster. The table is the same to the last digit wherever
the trainings run.
"""

import joblib
from distributed import Client, LocalCluster

from captum_region.datasets import make_faces
from fairlearn_bridge import AttributionNoiseMitigator, ImageClassifier, Samples, compare_mitigators


def samples(count: int, random_state: int) -> Samples:
    faces = make_faces(count, size=16, random_state=random_state)
    return Samples(faces.images, faces.attributes["Male"], faces.attributes["Blond_Hair"])


# Dask starts its workers by importing this file: without the guard each would start workers of its own.
if __name__ == "__main__":
    train, test = samples(240, 0), samples(200, 1)
    classifier = ImageClassifier(max_epochs=2)
    mitigators = {
        "original": classifier,
        "general_transplant": AttributionNoiseMitigator(classifier, scheme="general_transplant", region_epochs=2),
    }
    seeds = range(2)

    here = compare_mitigators(mitigators, train, test, random_states=seeds)

    cluster = LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None)
    with cluster, Client(cluster) as client, joblib.parallel_config(backend="dask"):
        spread = compare_mitigators(mitigators, train, test, random_states=seeds)
        trained = client.run(lambda dask_worker: dask_worker.state.executed_count)

    assert spread.equals(here)
    print("each worker trained:", min(trained.values()) > 0)
    print(spread["accuracy"][["mean", "std", "low", "high"]].round(3).to_string())
