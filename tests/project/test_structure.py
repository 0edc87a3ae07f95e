"""The rules of the package's shape, from its syntax trees; `make structure` prints what breaks one."""

import sys

import pytest

from xaiutils.workbook.run_all import ROOT

sys.path.append(str(ROOT / "tools"))
import structure

MODULES = structure.read_package()


@pytest.mark.parametrize("rule", structure.RULES)
def test_the_package_keeps(rule):
    assert structure.RULES[rule](MODULES) == []


def package(tmp_path, **files: str) -> dict[str, structure.Module]:
    for name, text in files.items():
        path = tmp_path / "xaiutils" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return structure.read_package(tmp_path)


def test_each_rule_sees_what_breaks_it(tmp_path):
    long = "def f() -> None:\n" + "    x = 1\n" * 61
    many = "def g(" + ", ".join(f"p{i}: int" for i in range(9)) + ") -> None:\n    '''p0 to p8.'''\n"
    found = package(
        tmp_path,
        plots__a="import os\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from xaiutils.plots import b\n",
        plots__b="def later() -> None:\n    from xaiutils.plots.a import os\n",
        datasets__c="from xaiutils.plots.b import later\nfrom xaiutils.plots import a  # noqa: F401\n",
        graph__d="class D:\n    def _own(self) -> int:\n        return self._own()\n",
        batch__e="from xaiutils.graph.d import D\nprint(D()._own())\nfrom xaiutils.graph.d import _x\n",
        widgets__f=long + many + "def untyped(x):\n    return x\n" + "# line\n" * 400,
    )
    broken = {rule: check(found) for rule, check in structure.RULES.items()}
    circle, upward, private, registered, files, functions, parameters, untyped = broken.values()
    assert circle == ["xaiutils.plots.a <-> xaiutils.plots.b"]
    assert [line.split(" ")[-1] for line in upward] == ["xaiutils.plots.b", "xaiutils.plots.a"]
    assert len(private) == 2
    assert registered == ["xaiutils/datasets/c.py:2"]
    assert [line.split(":")[0] for line in files] == ["xaiutils/widgets/f.py"]
    assert [line.split(" ")[1] for line in functions] == ["f:"]
    assert [line.split(" ")[1] for line in parameters] == ["g:"]
    assert [line.split(" ", 1)[1] for line in untyped] == ["untyped: x, return"]
