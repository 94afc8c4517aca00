"""How the house is kept: functions are short, and every public name says what it is."""

import ast
import statistics

import pytest

from chatlib.book import pages

PACKAGE = pages.ROOT / "chatlib"
MEDIAN, LONGEST = 10, 60  # lines of a function, from its `def` to its end
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
SOURCES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}


def lengths(sources):
    """Lines of every function, nested ones and methods too, by `file:line function`."""
    found = {}
    for place, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, FUNCTION):
                name = f"{place}:{node.lineno} {node.name}"
                found[name] = node.end_lineno - node.lineno + 1
    return found


def longer(sources, limit=LONGEST):
    """The functions above the limit, each with its lines."""
    return [f"{name}: {n} lines" for name, n in lengths(sources).items() if n > limit]


def public(tree, inside=""):
    """(name, node) of a module's public functions and classes, and of their public methods."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            if node.name.startswith("_") or is_overload(node):
                continue
            yield inside + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{inside}{node.name}.")
        elif isinstance(node, ast.Try) or (isinstance(node, ast.If) and not for_types(node)):
            yield from public(node, inside)


def is_overload(node):
    """Is this one of several signatures? The docstring is that of the function after them."""
    return any(getattr(d, "attr", getattr(d, "id", "")) == "overload" for d in node.decorator_list)


def for_types(node):
    """Is this `if TYPE_CHECKING:`? What it declares is a type checker's view of others' code."""
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def undocumented(sources):
    """The modules and public names without a docstring."""
    missing = []
    for place, source in sources.items():
        tree = ast.parse(source)
        names = [("the module", tree), *public(tree)]
        silent = [n for n, node in names if not (ast.get_docstring(node) or "").strip()]
        missing += [f"{place}: {name}" for name in silent if source.strip()]
    return missing


@pytest.fixture(scope="module")
def sources():
    return {place: path.read_text(encoding="utf-8") for place, path in SOURCES.items()}


def test_half_of_the_functions_have_at_most_ten_lines_and_none_above_sixty(sources):
    found = lengths(sources)
    assert len(found) > 500
    assert statistics.median(found.values()) <= MEDIAN
    found = longer(sources)
    assert not found, f"shorten {', '.join(found)}"


def test_every_public_name_has_a_docstring(sources):
    missing = undocumented(sources)
    assert not missing, f"say what these are: {', '.join(missing)}"


@pytest.mark.parametrize("head", ["def plan", "async def plan"])
def test_a_planted_long_function_is_found_wherever_it_hides(head):
    body = "\n".join(f"    x{i} = {i}" for i in range(60))
    for indent, before in (("", ""), ("    ", "class A:\n"), ("    ", "def f():\n")):
        text = "\n".join(indent + line for line in f"{head}():\n{body}".splitlines())
        found = longer({"a.py": before + text})
        assert any("plan: 61 lines" in name for name in found)
    short = f"{head}():\n" + "\n".join(body.splitlines()[:-1])
    assert not longer({"a.py": short})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("x = 1", "the module"),
        ('"""M."""\ndef f(): pass', "f"),
        ('"""M."""\nasync def f(): pass', "f"),
        ('"""M."""\ndef f():\n    """ """', "f"),
        ('"""M."""\nclass A: pass', "A"),
        ('"""M."""\nclass A:\n    """A."""\n    def m(self): pass', "A.m"),
        ('"""M."""\nclass A:\n    """A."""\n    @property\n    def m(self): return 1', "A.m"),
        ('"""M."""\ntry:\n    def f(): pass\nexcept OSError: pass', "f"),
        ('"""M."""\nif DEBUG:\n    def f(): pass', "f"),
    ],
)
def test_a_planted_name_without_a_docstring_is_found(source, name):
    assert undocumented({"a.py": source}) == [f"a.py: {name}"]


@pytest.mark.parametrize(
    "source",
    [
        "",
        '"""M."""\ndef _f(): pass\ndef g():\n    """G."""\n    def inner(): pass',
        '"""M."""\nif TYPE_CHECKING:\n    class Engine: ...',
        '"""M."""\n@overload\ndef f(): ...\n@typing.overload\ndef f(): ...\ndef f():\n    """F."""',
    ],
    ids=["empty", "private and nested", "for types", "overloads"],
)
def test_what_needs_no_docstring(source):
    assert undocumented({"a.py": source}) == []
