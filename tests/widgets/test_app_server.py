"""The server of ``make app``, asked over real sockets: who is let in, and which kernels live on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlencode

import nbformat
import pytest
import requests
from kernels import kernels_of

from xaiutils.widgets.app import launch

TOKEN = "the-token"
IDLE = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(address, process): the app's own command, for a notebook that loads nothing."""
    folder = tmp_path_factory.mktemp("app")
    cell = nbformat.v4.new_code_cell("import ipywidgets\nipywidgets.HTML('a patient')")
    spec = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=spec), folder / "page.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = launch.command(port, browser=False, idle_seconds=IDLE)
    command[2] = str(folder / "page.ipynb")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    own = {f"JUPYTER_{k}_DIR": str(folder / k.lower()) for k in ("CONFIG", "RUNTIME", "DATA")}
    environment = kept | launch.environment("default", folder, TOKEN) | own | {"JUPYTER_PATH": str(launch.FOLDER)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while f"{address}/?token={TOKEN}" not in (said := (folder / "log").read_text()):  # printed when it listens
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        yield address, process
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def becomes(read, value, seconds=20) -> bool:
    deadline = time.monotonic() + seconds
    while read() != value and time.monotonic() < deadline:
        time.sleep(0.1)
    return read() == value


def visit(address) -> tuple[requests.Session, str]:
    """A first visit: the session with its cookies, and the id of the page's kernel."""
    session = requests.Session()
    page = session.get(f"{address}/", params={"token": TOKEN}, timeout=60)
    assert page.status_code == 200
    return session, re.search(r'"kernelId": "([\w-]+)"', page.text).group(1)


def upgrade(address, path, **headers) -> int:
    """The status of a WebSocket's handshake."""
    host, port = address.removeprefix("http://").split(":")
    given = {"Host": f"{host}:{port}", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    given |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection((host, int(port)), timeout=20) as s:
        s.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return int(s.recv(64).split()[1])


KERNEL = "00000000-0000-0000-0000-000000000000"
PATHS = [
    *("/", "/voila/static/voila.js", "/voila/templates/panel/static/voila-style.js", "/voila/files/a.png"),
    *(f"/api/kernels/{KERNEL}", "/voila/api/themes/x", "/voila/labextensions/x.js", "/login", "/nothing"),
]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_answered_without_the_token(server, path):
    address, process = server
    before = kernels_of(process.pid)
    for given in ({}, {"token": ""}, {"token": "other"}, {"token": TOKEN[:-1]}, {"Token": TOKEN}):
        assert requests.get(address + path, params=given, timeout=20).status_code == 403
    cookie = {f"xai-app-{address.rsplit(':', 1)[1]}": "other"}
    assert requests.get(address + path, cookies=cookie, timeout=20).status_code == 403
    assert requests.post(f"{address}/voila/api/shutdown/{KERNEL}", timeout=20).status_code == 403
    assert requests.delete(f"{address}/api/kernels/{KERNEL}", timeout=20).status_code == 403
    assert kernels_of(process.pid) == before


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8866", "127.0.0.1.evil.example", "", "192.168.1.7"])
@pytest.mark.parametrize("path", PATHS[:2])
def test_another_host_name_is_refused_even_with_the_token(server, path, host):
    """As a page does that lets its own name point to 127.0.0.1 (DNS rebinding)."""
    asked = requests.get(server[0] + path, params={"token": TOKEN}, headers={"Host": host}, timeout=20)
    assert asked.status_code == 403


def test_a_visit_with_the_token_is_remembered_and_its_sockets_are_the_pages_own(server):
    address = server[0]
    session, kernel = visit(address)
    assert session.get(f"{address}/voila/static/voila.js", timeout=20).status_code == 200
    assert session.get(f"{address}/api/kernels/{kernel}", timeout=20).json()["id"] == kernel
    channels = f"/api/kernels/{kernel}/channels"
    cookies = "; ".join(f"{c.name}={c.value}" for c in session.cookies)
    assert upgrade(address, channels) == 403
    assert upgrade(address, f"{channels}?token=other", Cookie="xai-app=1") == 403
    assert upgrade(address, channels, Cookie=cookies, Origin="http://evil.example") == 403
    assert upgrade(address, channels, Cookie=cookies, Origin="http://127.0.0.1:1") == 403
    assert upgrade(address, channels, Cookie=cookies, Origin="null") == 403
    assert upgrade(address, channels, Cookie=cookies, Host="evil.example", Origin="http://evil.example") == 403
    assert upgrade(address, channels, Cookie=cookies, Origin=address) == 101
    secret = next(c for c in session.cookies if c.name.startswith("xai-app-"))
    assert secret.has_nonstandard_attr("HttpOnly")
    assert secret.get_nonstandard_attr("SameSite") == "Lax"


def test_the_kernel_of_a_page_that_is_left_ends(server):
    """What the page sends when it is left is a form without headers of its own (navigator.sendBeacon)."""
    address, process = server
    assert becomes(lambda: kernels_of(process.pid), 0)
    session, kernel = visit(address)
    visit(address)
    assert kernels_of(process.pid) == 2
    place = f"{address}/voila/api/shutdown/{kernel}"
    assert session.post(place, timeout=20).status_code == 403  # from another site: it cannot read the cookie
    form = urlencode({"_xsrf": session.cookies["_xsrf"]})
    form_type = {"Content-Type": "application/x-www-form-urlencoded", "Origin": address}
    assert session.post(place, data=form, headers=form_type, timeout=20).status_code == 204
    assert becomes(lambda: kernels_of(process.pid), 1, seconds=2)  # that of the other page is untouched
    assert becomes(lambda: kernels_of(process.pid), 0, seconds=3 * IDLE + 10)  # to which nobody ever connected


def test_tokens_differ_from_start_to_start_and_are_in_no_process_list(tmp_path):
    sys.path.insert(0, str(launch.FOLDER))
    try:
        from server import TOKEN as variable
        from server import Server
    finally:
        sys.path.remove(str(launch.FOLDER))
    assert variable == launch.TOKEN_VARIABLE
    made = [Server(), Server()]
    for one in made:
        one.initialize([str(launch.FOLDER / "explorer.ipynb")])
    tokens = {one.display_url.partition("?token=")[2] for one in made}
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 32
    assert TOKEN not in " ".join(launch.command(1, browser=False))
    assert launch.environment("default", tmp_path, TOKEN)[variable] == TOKEN
