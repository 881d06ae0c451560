"""The structure of the packages, read from their sources: no circular imports, no module or function too long."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("captum_region", "fairlearn_bridge")
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def names_of(package):
    """Where the lazily imported names of a package come from, as its stub has them."""
    stub = ROOT.joinpath(*package.split("."), "__init__.pyi")
    nodes = ast.parse(stub.read_text()).body if stub.exists() else []
    found = [
        (alias.name, f"{package}.{node.module}")
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    return {f"{package}.{name}": module for name, module in found}


LAZY = {name: module for package in SOURCES for name, module in names_of(package).items()}


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(tree):
    """Yield every absolute name that a module imports, inside functions too."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not is_for_type_checkers(node):
            pending += ast.iter_child_nodes(node)


def dependencies(name):
    """The modules of the packages that a module imports; of `from package import name`, the module that has it."""
    found = set()
    for target in imported(ast.parse(SOURCES[name].read_text())):
        target = LAZY.get(target, target)
        while target and target not in SOURCES:
            target = target.rpartition(".")[0]
        found |= {target} - {"", name}
    return found


def test_no_import_runs_in_a_circle():
    try:
        TopologicalSorter({name: dependencies(name) for name in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail("imports in a circle: " + " <- ".join(error.args[1]))


def test_captum_region_does_not_import_fairlearn_bridge():
    for name in SOURCES:
        if name.startswith("captum_region"):
            assert not any(target.startswith("fairlearn_bridge") for target in dependencies(name)), name


def test_only_the_commands_import_the_commands():
    commands = {name for name in SOURCES if name.split(".")[1:2] in (["cli"], ["__main__"])}
    for name in SOURCES.keys() - commands:
        assert not dependencies(name) & commands, name


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def has_docstring(node):
    return isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None


def code_lines(path):
    """How many lines are neither blank nor part of a docstring."""
    text = path.read_text()
    nodes = [node.body[0] for node in ast.walk(ast.parse(text)) if has_docstring(node)]
    documented = {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}
    return sum(bool(line.strip()) and number not in documented for number, line in enumerate(text.splitlines(), 1))


def function_lengths(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if has_docstring(node) else node.body
            yield node.name, body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("name", SOURCES)
def test_no_module_is_longer_than_350_lines_and_no_function_than_50(name):
    assert code_lines(SOURCES[name]) <= 350
    assert {function: lines for function, lines in function_lengths(SOURCES[name]) if lines > 50} == {}
