"""Digests of values, the same in every process: they name what is kept and find what has changed."""

import dis
import hashlib
import inspect
import pickle
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from joblib.hashing import NumpyHasher
from torch import Tensor

from captum_region.batches import batches

# Their code is identified by the version and by `captum_region.io.snapshot.SEMANTICS`.
_OURS = ("captum_region", "fairlearn_bridge")
_CACHED = type(lru_cache(len))


def digest(value: Any, *, show_progress: bool = False) -> str:
    """Return a digest of 128 bits, as hex, of any value that pickles, and of the user's functions and classes.

    For an array, memory map or tensor it is BLAKE2b of type, shape and values. For other values it is joblib's MD5,
    with two differences: arrays in them count as above, and functions and classes that are not part of an installed
    package count by their code, so that an edited one has another digest. That is the compiled code, the text and bases
    of a class, default values, and the functions, classes and constants that the code refers to.

    Parameters
    ----------
    value : object
    show_progress : bool, default=False
        A progress bar on stderr, for an array of images.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If the value holds something that does not pickle.

    Examples
    --------
    >>> digest({"a": torch.zeros(2), "b": None}) == digest({"b": None, "a": np.zeros(2, np.float32)})
    True
    >>> digest(lambda images: images / 2) == digest(lambda images: images / 3)
    False
    """
    if _is_numeric(value):
        head = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        values = value if value.ndim else value.reshape(1)
        return digest_of(chain([head], batches(values, 256, show_progress=show_progress, desc="digest")))
    try:
        found: str = _Hasher("md5").hash(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        # The first argument: joblib adds the whole value to the message.
        raise TypeError(f"{type(value).__name__} holds what does not pickle: {error.args[0]}") from error
    return found


def digest_of(parts: Iterable[str | bytes | Tensor]) -> str:
    """Return the digest (BLAKE2b, 128 bits, as hex) of strings, bytes and tensors' bytes, in sequence."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def is_the_users(module: str) -> bool:
    """Return whether a module belongs neither to Python, nor to an installed package, nor to these packages."""
    top = module.partition(".")[0]
    if top in _OURS or top in sys.stdlib_module_names:
        return False
    if top == "__main__":  # in joblib's processes its file is joblib's
        return True
    file = getattr(sys.modules.get(module) or sys.modules.get(top), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _is_numeric(value: Any) -> bool:
    """Return whether `value` is an array that a tensor can hold."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf" and value.dtype.isnative and value.dtype.itemsize <= 8
    return isinstance(value, Tensor)


class _Hasher(NumpyHasher):  # type: ignore[misc]
    """joblib's hash, the same in every process for tensors and sets, and for the user's functions and classes."""

    def __init__(self, hash_name: str) -> None:
        super().__init__(hash_name)
        self._met: list[Any] = []

    def save(self, obj: Any) -> None:
        obj = obj.__wrapped__ if isinstance(obj, _CACHED) else obj
        if _is_numeric(obj):
            obj = "array", digest(obj), getattr(obj, "requires_grad", False)
        elif isinstance(obj, np.ndarray):
            obj = "array", obj.dtype.str, obj.shape, obj.tolist()
        elif isinstance(obj, set | frozenset):
            obj = "set", sorted(map(digest, obj))
        elif isinstance(obj, type | FunctionType):
            obj = self._meaning(obj)
        super().save(obj)

    def _meaning(self, code: Any) -> Any:
        """Return what identifies a function or class: the version and name for one of an installed package."""
        module = code.__module__ or ""
        if not is_the_users(module) and "<" not in code.__qualname__:  # a local one cannot be found by name
            package = sys.modules.get(module.partition(".")[0])
            super().save(str(package and vars(package).get("__version__")))
            return code
        for number, met in enumerate(self._met):
            if met is code:  # it may refer to itself
                return "met", number
        self._met.append(code)
        return _of_class(code) if isinstance(code, type) else _of_function(code)


def _of_class(cls: type) -> Any:
    """Return the source of a class, and its functions: the source may have been edited since they were compiled."""
    try:
        text = inspect.getsource(cls)
    except (OSError, TypeError, SyntaxError):  # such as one typed in a console
        text = None
    held: dict[str, Any] = {}
    for name, value in vars(cls).items():
        parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,)
        # The text decides those that a decorator makes, such as a dataclass's.
        held[name] = [
            part
            for part in map(_unwrapped, parts)
            if _is_users_code(part) and (text is None or isinstance(part, type) or part.__code__.co_filename[:1] != "<")
        ]
        if text is None and not name.startswith("__") and _is_constant(value):
            held[name] = value
    return "class", type(cls), cls.__bases__, text, {name: value for name, value in held.items() if value != []}


def _of_function(function: FunctionType) -> Any:
    """Return the compiled code of a function, with its defaults, closure and globals."""
    codes = [*_nested(function.__code__)]
    lines = (line for code in codes for line in dis.get_instructions(code))
    stored = {line.argval for line in lines if line.opname == "STORE_GLOBAL"}  # such as a counter
    names = {name for code in codes for name in code.co_names if not name.startswith("__")} - stored
    used = {}
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        is_module = isinstance(value, ModuleType) and is_the_users(value.__name__)
        members = {each: vars(value)[each] for each in names & vars(value).keys()} if is_module else {"": value}
        for member, one in members.items():
            one = _unwrapped(one) if callable(one) else one
            # Of code that is installed, the versions of the packages decide.
            if _is_users_code(one) or not isinstance(one, _CODE):
                used[name, member] = one
    # A cell may be empty still.
    closure = [None if cell == CellType() else cell.cell_contents for cell in function.__closure__ or ()]
    return "function", [_text(code) for code in codes], function.__defaults__, function.__kwdefaults__, closure, used


def _unwrapped(value: Any) -> Any:
    """Return what the user's own code made of a function: not what wraps that, of `functools` or another package."""
    return inspect.unwrap(
        value, stop=lambda one: isinstance(one, FunctionType) and is_the_users(one.__globals__["__name__"])
    )


_CODE = (ModuleType, FunctionType, BuiltinFunctionType, type)


def _is_users_code(value: Any) -> bool:
    return isinstance(value, FunctionType | type) and is_the_users(value.__module__ or "")


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, bool | int | float | complex | str | bytes | None)


def _nested(code: CodeType) -> Iterator[CodeType]:
    """Yield code and the code nested in it: lambdas, comprehensions, local functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _text(code: CodeType) -> str:
    """Return the content of code, without its place; frozensets are sorted, as their order differs by process."""
    constants = [
        sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
        for constant in code.co_consts
        if not isinstance(constant, CodeType)
    ]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    return repr((code.co_code, code.co_exceptiontable, constants, names, counts))
