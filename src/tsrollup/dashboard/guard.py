"""Who may talk to the dashboard, and what a browser may do with its pages.

Without a token the server is for its own machine. Any site that somebody there visits can send
requests to it as well, so the address that a browser asked for, and the page that asked, count.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16
LOGIN = "/login"
MAY_BE_SEEN = (LOGIN, "/favicon.ico")
LOGIN_BYTES = 4096
SECONDS_AFTER_A_WRONG_TOKEN = 1.0

# Vue compiles templates in the browser, and NiceGUI's page starts it inline.
HEADERS = {
    "content-security-policy": "default-src 'self';"
    " script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with less, browsers hide the origin of the login form
}


@dataclass(frozen=True)
class Access:
    """`token` is what a visitor must know, None where everybody who reaches the server may look;
    `hosts` are the names that the server goes by, None for any."""

    token: str | None
    hosts: tuple[str, ...] | None
    port: int

    @property
    def cookie(self) -> str:
        """Browsers keep cookies by host, whatever the port."""
        return f"tsrollup_{self.port}"

    def knows_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def admits(self, cookies: Iterable[str]) -> bool:
        return self.token is None or any(
            hmac.compare_digest(given.encode(), self.pass_word().encode()) for given in cookies
        )

    def pass_word(self) -> str:
        """What the cookie holds: it opens this server, and does not tell the token."""
        return hashlib.sha256(f"tsrollup dashboard: {self.token}".encode()).hexdigest()


class Guard:
    """The ASGI application that stands before all others, sockets included."""

    def __init__(self, inside: ASGIApp, access: Access) -> None:
        self.inside = inside
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.inside(scope, receive, send)
            return
        is_socket = scope["type"] == "websocket"
        refusal = self._refusal_of_place(Headers(scope=scope))
        if refusal is None and not is_socket and scope["path"] == LOGIN:
            refusal = await self._login(Request(scope, receive))
        elif refusal is None and scope["path"] not in MAY_BE_SEEN and not self._is_admitted(scope):
            refusal = RedirectResponse(LOGIN, 303)
        if refusal is None:
            await self.inside(scope, receive, _with_headers(send))
        elif is_socket:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _refusal_of_place(self, headers: Headers) -> Response | None:
        """A name that somebody else's DNS points here, or a page of another site that asks."""
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if self.access.hosts is not None and name not in self.access.hosts:
            return PlainTextResponse("this dashboard does not go by that name", 421)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return PlainTextResponse("pages of other sites may not ask here", 403)
        return None

    def _is_admitted(self, scope: Scope) -> bool:
        given = Request({**scope, "type": "http"}).cookies.get(self.access.cookie)
        return self.access.admits([] if given is None else [given])

    async def _login(self, request: Request) -> Response:
        """The token from the form, or from the link that the terminal shows."""
        given = request.query_params.get("token")
        if request.method == "POST":
            body = b""
            async for part in request.stream():
                body += part
                if len(body) > LOGIN_BYTES:
                    return PlainTextResponse("too long", 413)
            given = parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
        if self.access.token is None or (given is None and self._is_admitted(request.scope)):
            return RedirectResponse("/", 303)
        if given is None:
            return _login_page("")
        if not self.access.knows_token(given.strip()):
            await asyncio.sleep(SECONDS_AFTER_A_WRONG_TOKEN)
            return _login_page("That is not the token of this dashboard.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self.access.cookie,
            self.access.pass_word(),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return answer


def _login_page(remark: str) -> Response:
    page = (files("tsrollup.dashboard") / "assets" / "login.html").read_text()
    return HTMLResponse(page.replace("{remark}", remark), 401 if remark else 200)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
        await send(message)

    return sending
