"""voila behind a token: ``python server.py explorer.ipynb``, as `xaiutils.widgets.app.launch` starts it.

Patients' pictures are on the page. So every request, whatever would answer it (the page, its files, the kernel's
sockets), must name this machine as its host, which a page that rebinds its DNS name does not, must come from no other
page, and must bring the token: in the address at the first visit, as a cookie from then on.

Run as a file, not as a module of the package, whose import would load TensorFlow: only the pages' kernels need it.
"""

import hmac
import os
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import ErrorHandler, RequestHandler
from voila.app import Voila

TOKEN = "XAI_APP_TOKEN"  # environment variable; other users of the machine see a process' arguments, but not that
HOSTS = {"127.0.0.1", "localhost"}


class Refused(Matcher):
    """Matches the requests that are not to be answered."""

    def __init__(self, token: str, cookie: Callable[[], str]):
        self._token, self._cookie = token.encode(), cookie  # whose name has the port, known once the server listens

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        origin = request.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != request.host
        known = request.host_name in HOSTS and not foreign and any(map(self._is_token, self._given(request)))
        return None if known else {}

    def _given(self, request: HTTPServerRequest) -> list[bytes]:
        cookie = request.cookies.get(self._cookie())
        return [*request.query_arguments.get("token", ()), *([cookie.value.encode()] if cookie else ())]

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)


class Server(Voila):
    """voila that answers only those who have the token."""

    def initialize(self, argv: list[str] | None = None) -> None:
        super().initialize(argv)
        # Taken out, so that the kernels and what they start do not inherit it.
        self._secret = os.environ.pop(TOKEN, "") or secrets.token_urlsafe(24)
        self.voila_configuration.prelaunch_hook = self._visit

    def _cookie(self) -> str:
        return f"xai-app-{self.port}"  # cookies know no ports: two apps must not overwrite each other's

    def _visit(self, handler: RequestHandler, notebook: Any, cwd: str) -> None:
        """Before a page is sent: its later requests bring these cookies, the one that ends its kernel both of them."""
        handler.set_cookie(self._cookie(), self._secret, httponly=True, samesite="Lax")
        handler.xsrf_token  # noqa: B018 (reading it sets the cookie, which voila's own handler never does)

    def init_handlers(self) -> list:
        gate = Rule(Refused(self._secret, self._cookie), ErrorHandler, {"status_code": 403})
        self.app.default_router.rules.insert(0, gate)
        return super().init_handlers()

    @property
    def display_url(self) -> str:
        """What is printed when the server listens."""
        return f"{self.connection_url}?token={self._secret}"

    def launch_browser(self) -> None:
        """By a file that only this user can read: a browser's arguments are seen by all."""
        descriptor, path = tempfile.mkstemp(suffix=".html")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={self.display_url}">')
        threading.Thread(target=webbrowser.open, args=(Path(path).as_uri(),), daemon=True).start()


if __name__ == "__main__":
    Server.launch_instance()
