"""The command line of the app, and its files in the package."""

import tomllib
from importlib import resources
from pathlib import Path

from xaiutils.widgets.app import launch


def test_the_app_says_what_is_missing(tmp_path, capsys):
    assert launch.main(["--runs", str(tmp_path)]) == 1
    assert "There is no run 'default' with trained models" in capsys.readouterr().err
    (tmp_path / "other" / "models" / "m").mkdir(parents=True)
    (tmp_path / "other" / "models" / "m" / "model.keras").touch()
    assert launch.main(["--runs", str(tmp_path), "--run", "mine"]) == 1
    message = capsys.readouterr().err
    assert "'make run NAME=mine' makes it" in message
    assert "Runs that can be shown: other." in message


def test_the_app_stays_on_this_machine():
    command = launch.command(9000, browser=False)
    assert "--Voila.ip=127.0.0.1" in command
    assert "--port=9000" in command
    environment = launch.environment("mine", Path("runs"))
    assert environment["XAI_APP_RUN"] == "mine"
    assert environment["JUPYTER_PATH"].split(":")[0] == str(launch.FOLDER)


def test_the_files_of_the_app_are_in_the_package():
    folder = resources.files("xaiutils.widgets.app")
    template = folder / "voila" / "templates" / "panel"
    for file in (folder / "server.py", folder / "explorer.ipynb", template / "index.html.j2", template / "conf.json"):
        assert file.is_file(), file
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = declared["tool"]["setuptools"]["package-data"]["xaiutils"]
    package = Path(str(resources.files("xaiutils")))
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    data = {path for path in (package / "widgets").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data <= packed
