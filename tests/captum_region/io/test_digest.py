"""The digest: the same in every process, another for another value, and for other code of the user's."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from captum_region import DenseRegionClassifier, RegionGrid
from captum_region.io import provenance, snapshot
from captum_region.io.checkpoint import classifier_digest
from captum_region.io.digest import digest
from captum_region.io.snapshot import Snapshots


def test_digests_that_files_of_earlier_versions_hold():
    # maps.json, training.json, comparison.json and results.json name images and classifiers by them.
    assert digest(np.arange(96, dtype=np.uint8).reshape(2, 3, 4, 4)) == "18b4de98a748c5384839d812d331426e"
    assert digest(torch.full((1, 3, 2, 2), 0.5)) == "5de17b2dbe80921ffa948eb3d46877cf"
    classifier = DenseRegionClassifier(RegionGrid(8, 4, 4), 2, width=4, random_state=0)
    for value in classifier.state_dict().values():
        value.fill_(1)
    assert classifier_digest(classifier) == "4530a29bc4182a4a2cd3361f9b3c89d3"
    assert digest(("ab", "x,y\n1,2\n")) == "23eb626db9042008cd4b903cdc867bf6"


def test_arrays_count_by_type_shape_and_values(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "array.npy", array)
    same = [array, torch.from_numpy(array), np.asfortranarray(array), np.load(tmp_path / "array.npy", mmap_mode="r")]
    assert len({digest(each) for each in same} | {digest({"a": each}) for each in same}) == 2
    others = [
        array + 1,
        array.T,
        array.astype(float),
        array[:2],
        array[:0],
        np.float32(1),
        np.array("a"),
        array.tolist(),
    ]
    assert len({digest(each) for each in (array, *others)}) == 9
    assert digest([nn.Linear(1, 1).weight.data]) != digest([nn.Linear(1, 1).weight.data + 1])
    weight = nn.Parameter(torch.ones(2))
    assert digest([weight]) != digest([weight.detach()])  # a frozen one is not trained
    assert digest([torch.tensor(3), torch.zeros(2, dtype=torch.bfloat16)]) == digest(
        [torch.tensor(3), torch.zeros(2, dtype=torch.bfloat16)]
    )


CODE = """
from dataclasses import dataclass
from functools import cache, partial, wraps

import numpy as np
import torch

import helping

SHIFT = 1
calls = 0

def scaled(factor):
    def decorate(function):
        @wraps(function)
        def run(*args):
            return factor * function(*args)
        return run
    return decorate

@scaled(9)
def half(x):
    return x / 2

def doubled(function):
    @wraps(function)
    def run(x):
        return 2 * function(x)
    return run

class Base:
    def fit(self, x):
        return self

class Mine(Base):
    quantile = 0.7
    fits = []

    def predict(self, x):
        global calls
        calls += 1
        return half(x) + SHIFT if x in {"a", "b", "c"} else helping.third(x)

    @property
    def name(self):
        return "mine"

    @staticmethod
    def make():
        return Mine()

    @torch.no_grad()
    def explain(self, x):
        return [each + 3 for each in x]

@dataclass(frozen=True)
class Settings:
    images: list[int]
    weight: float = 0.5

def perturb(images, index, generator, *, strength=0.2):
    def clipped(x):
        return x.clip(0, 4)
    return clipped(images * strength)

@cache
def table(size):
    return size + 5

wrapped = doubled(perturb)
lambdas = [lambda x: x - 6, partial(perturb, strength=7)]
value = [Mine, Mine(), Mine().predict, Settings([1]), wrapped, lambdas, table, np.sqrt, torch.nn.ReLU()]
"""
HELPING = "def third(x):\n    return x / 3\n"


def load(folder, code=CODE, helping=HELPING):
    """Import the modules anew, from files of their own."""
    folder.mkdir()
    for name, text in (("helping", helping), ("mine", code)):
        (folder / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def _no_modules_left():
    yield
    for name in ("helping", "mine"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("_no_modules_left")
class TestCode:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("return self\n", "return None\n"),  # of a base
            ("quantile = 0.7", "quantile = 0.8"),
            ("half(x) + SHIFT", "half(x) - SHIFT"),
            ("x / 2", "x / 4"),  # in a function that a method calls
            ("SHIFT = 1", "SHIFT = 2"),
            ('"b"', '"d"'),
            ('return "mine"', 'return "yours"'),
            ("return Mine()", "return Base()"),
            ("each + 3", "each + 4"),
            ("weight: float = 0.5", "weight: float = 0.6"),
            ("strength=0.2", "strength=0.3"),
            ("x.clip(0, 4)", "x.clip(0, 5)"),
            ("2 * function", "3 * function"),
            ("scaled(9)", "scaled(8)"),  # a decorator of a function that a method calls
            ("factor * function", "factor + function"),
            ("size + 5", "size + 6"),
            ("x - 6", "x - 7"),
            ("strength=7", "strength=8"),
            ("class Mine(Base)", "class Mine(Base, dict)"),
        ],
    )
    def test_other_code_is_another_value(self, before, after, tmp_path):
        assert CODE.count(before) == 1
        first = digest(load(tmp_path / "first").value)
        assert digest(load(tmp_path / "second", CODE.replace(before, after)).value) != first
        assert digest(load(tmp_path / "third").value) == first

    def test_changed_code_of_an_imported_module_is_another_value(self, tmp_path):
        first, second = (digest(load(tmp_path / str(n), helping=HELPING.replace("3", str(n))).Mine) for n in (3, 4))
        assert first != second

    def test_what_running_it_leaves_behind_does_not_count(self, tmp_path):
        module = load(tmp_path / "module")
        first = digest(module.value)
        module.Mine().predict(6)
        module.Mine.fits.append(1)
        assert digest(module.value) == first

    def test_a_file_edited_after_its_import_counts_as_other_code(self, tmp_path):
        """The old code is still running; its digest must not be that of the new."""
        old = load(tmp_path / "old").Mine
        edited = CODE.replace("half(x) + SHIFT", "half(x) - SHIFT")
        (tmp_path / "old" / "mine.py").write_text(edited)
        assert digest(old) != digest(load(tmp_path / "new", edited).Mine)


CONSOLE = """
class Mine:
    quantile = 0.7
    def predict(self, x):
        return x in {"a", "b", "c"} or second(x)
def second(x):
    return lambda y: 1 - x
value = [Mine(), second, second(1)]
"""


def typed(code):
    """Run code that is in no file."""
    names = {"__name__": "__console__"}
    exec(code, names)
    return names["value"]


@pytest.mark.parametrize(("before", "after"), [("0.7", "0.8"), ('"c"', '"d"'), ("1 - x", "2 - x"), ("(1)]", "(3)]")])
def test_changed_code_without_a_file_is_another_value(before, after):
    assert digest(typed(CONSOLE)) == digest(typed(CONSOLE)) != digest(typed(CONSOLE.replace(before, after)))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_modules_left")
def test_the_digest_is_the_same_in_every_process(tmp_path):
    here = [digest(load(tmp_path / "here").value), digest(typed(CONSOLE))]
    script = "import sys; sys.path.insert(0, sys.argv[1]); from captum_region.io.digest import digest; import mine\n"
    script += "names = {'__name__': '__console__'}; exec(sys.argv[2], names)\n"
    script += "print(digest(mine.value), digest(names['value']))"
    for seed in "12":  # the second reads the compiled file
        there = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "here", CONSOLE],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        )
        assert there.stdout.split() == here


@pytest.mark.parametrize("package", ["captum-region", "torch", "skorch"])
def test_a_new_version_of_a_package_names_another_file(package, monkeypatch):
    before = Snapshots("kept", 0, lambda: "key").path
    old = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "99" if name == package else old(name))
    assert Snapshots("kept", 0, lambda: "key").path != before


def test_a_new_number_of_semantics_names_another_file(monkeypatch):
    before = Snapshots("kept", 0, lambda: "key").path
    assert Snapshots("kept", 0, lambda: "key").path == before
    monkeypatch.setattr(snapshot, "SEMANTICS", snapshot.SEMANTICS + 1)
    assert Snapshots("kept", 0, lambda: "key").path != before


def test_what_does_not_pickle_is_refused():
    with pytest.raises(TypeError, match="dict holds what does not pickle: cannot pickle 'generator' object"):
        digest({"a": (each for each in "ab")})
    with pytest.raises(ValueError, match="checkpoint_dir must come with parameters that pickle"):
        Snapshots("kept", 0, lambda: (each for each in "ab"))


USED = """
import numpy as np

from helping import Codec

CODEC = Codec(2)
TABLE = np.arange(4)
SETTINGS = {"sizes": [1, 2]}

def of_codec(images):
    return images * CODEC.quality

def of_table(images):
    return TABLE[images]

def of_settings(images):
    return images[: len(SETTINGS["sizes"])]

unused = np.zeros
"""


@pytest.mark.parametrize(
    ("name", "edit"),
    [("of_codec", "Codec(95)"), ("of_table", "np.arange(1, 5)"), ("of_settings", '{"sizes": [1, 3]}')],
)
def test_what_a_function_uses_is_part_of_it(tmp_path, name, edit):
    helping = "class Codec:\n    def __init__(self, quality):\n        self.quality = quality\n"
    old = {"of_codec": "Codec(2)", "of_table": "np.arange(4)", "of_settings": '{"sizes": [1, 2]}'}[name]
    found = [
        digest(getattr(load(tmp_path / str(number), text, helping), each))
        for each in (name, next(other for other in ("of_codec", "of_table") if other != name))
        for number, text in ((f"{each} before", USED), (f"{each} after", USED.replace(old, edit)))
    ]
    assert found[0] != found[1]
    assert found[2] == found[3]
