"""The project's own promises: one list of dependencies, a lock that fits it, commands that exist, a light import."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement

from xaiutils.workbook.run_all import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_is_in_step():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [d for d in environment if isinstance(d, dict)] == [{"pip": ["-e .[test]"]}]
    (python,) = [d for d in environment if isinstance(d, str) and d.startswith("python")]
    assert python == "python" + PROJECT["requires-python"]
    assert [d for d in environment if isinstance(d, str)] == [python, "pip"]


def test_the_lock_fits_every_requirement():
    locked = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            locked.setdefault(requirement.name.lower(), []).append(next(iter(requirement.specifier)).version)
    wanted = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    for text in wanted:
        requirement = Requirement(text)
        versions = locked.get(requirement.name.lower())
        assert versions, f"{requirement.name} is not locked: make lock"
        assert any(requirement.specifier.contains(v) for v in versions), text


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(folder):
    """{top-level package: a file that imports it} of everything under a folder that is not Python's or our own."""
    parts = ("xaiutils", "tests", "tools", "benchmarks")
    ours = {"xaiutils", "zoo", *(path.stem for part in parts for path in (ROOT / part).rglob("*.py"))}
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in modules:
                found.setdefault(module.split(".")[0], path)
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names and name not in ours}


# explain(library="lime") and export_maps' NIfTI are offered where these are installed.
@pytest.mark.parametrize(
    ("folder", "extras", "optional"), [("xaiutils", [], {"lime", "nibabel"}), ("tests", ["test"], set())]
)
def test_every_imported_package_is_declared(folder, extras, optional):
    """A package that another one happens to bring is missing one day: a clean environment once lacked statsmodels."""
    wanted = [*PROJECT["dependencies"], *(r for extra in extras for r in PROJECT["optional-dependencies"][extra])]
    declared = {canonical(Requirement(text).name) for text in wanted}
    installed = packages_distributions()
    for package, path in imported_packages(folder).items():
        if package not in optional:
            names = {canonical(name) for name in installed.get(package, [])}
            assert names & declared, f"{path.relative_to(ROOT)} imports {package}: {names} is not in pyproject.toml"


def test_the_readme_names_commands_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    named = set(re.findall(r"make ([a-z]+)", readme))
    assert {"run", "test", "lab"} <= named <= targets
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_guide_names_every_data_set_and_option():
    import xaiutils as xai

    guide = (ROOT / "data" / "README.md").read_text()
    for entry in xai.DATASETS.values():
        assert f"| `{entry.name}` |" in guide, entry.name
        for option in entry.options:
            assert re.search(rf"\b{option}\b", guide), f"{entry.name}: {option}"


def test_ci_calls_the_test_command():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")


def test_importing_the_package_is_light():
    code = "import sys, xaiutils; assert 'tensorflow' not in sys.modules; assert 'METHODS' in dir(xaiutils)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensorflow_comes_without_a_search_for_cycles_which_then_goes_on():
    code = (
        "import gc; found = []; gc.callbacks.append(lambda *_: found.append(1)); {}; "
        "import xaiutils.datasets; found.clear(); import xaiutils.backend; print(len(found) < 9, gc.isenabled())"
    )
    for before, after in (("1", "True True"), ("gc.disable()", "True False")):
        done = subprocess.run([sys.executable, "-c", code.format(before)], capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[0] == after


def test_public_names():
    import xaiutils as xai

    for name in xai.__all__:
        assert getattr(xai, name) is not None
    with pytest.raises(AttributeError, match="explian"):
        xai.explian  # noqa: B018


def test_nothing_is_printed_on_import():
    code = "import xaiutils.attribution, xaiutils.widgets, xaiutils.workbook"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert result.stderr == ""
