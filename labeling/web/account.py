"""Signing in and out, and changing the password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from labeling import people, throttling
from labeling.people import User
from labeling.web.fields import LONG, NAME, Text
from labeling.web.pages import page
from labeling.web.security import COOKIE, SignedIn, token_of

router = APIRouter(tags=["account"])
BROWSER = "labeling_browser"  # the cookie of a browser that has signed in before
WRONG = "That name and password do not belong together."


@router.get("/login")
def login_page(to: Text = "/") -> Response:
    """The sign-in page."""
    return page("login.html", None, title="Sign in", error="", to=inside(to))


@router.post("/login")
async def login(
    request: Request,
    name: Annotated[Text, Form(max_length=NAME)],
    password: Annotated[Text, Form(max_length=1000)],
    to: Annotated[Text, Form(max_length=LONG)] = "/",
) -> Response:
    """Start a session."""
    return await _in_turn(request, lambda: _login(request, name, password, inside(to)))


def _login(request: Request, name: str, password: str, to: str) -> Response:
    store, browser = request.app.state.store, request.cookies.get(BROWSER)
    try:
        number = guess(request, name, password)
    except Wait as wait:
        headers = {"Retry-After": str(wait.seconds)}
        return page("login.html", None, 429, headers, title="Sign in", error=str(wait), to=to)
    if number is None:
        return page("login.html", None, 401, title="Sign in", error=WRONG, to=to)
    with store.write() as tx:
        token = people.open_session(tx, number)
        browser = throttling.remember_browser(tx, number, browser)
    response = RedirectResponse(to, 303)
    cookies = {COOKIE: (token, people.SESSION_WHOLE), BROWSER: (browser, throttling.KNOWN)}
    for cookie, (value, lasts) in cookies.items():
        response.set_cookie(
            cookie,
            value,
            max_age=int(lasts),
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
    return response


async def _in_turn(request: Request, work: Callable[[], Response]) -> Response:
    """The answer of `work`, which checks a password, from a thread that others do not wait for.

    A hash takes long on purpose. In the threads that all requests share, a flood of guesses would hold up the
    labelers.
    """
    return await anyio.to_thread.run_sync(work, limiter=request.app.state.sign_ins)


class Wait(Exception):
    """The password has been guessed too often; `seconds` are left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = int(seconds) + 1
        super().__init__(f"Too many attempts. Try again in {int(seconds // 60) + 1} minutes.")


def guess(request: Request, name: str, password: str) -> int | None:
    """The id of the active user with this name and password, or None.

    An attempt is counted before the password is looked at, so that many at once count too.

    Raises:
        Wait: there were too many.
    """
    store, address = request.app.state.store, request.client.host if request.client else ""
    with store.write() as tx:
        place = throttling.place_of(tx, name, address, request.cookies.get(BROWSER))
        wait = throttling.throttled(tx, name, place)
        if wait > 0:
            raise Wait(wait)
        attempt = throttling.note_attempt(tx, name, place)
    with store.read() as tx:
        number = people.check_password(tx, name, password)
    if number is not None:
        with store.write() as tx:
            throttling.forget_attempt(tx, attempt)
    return number


@router.post("/logout")
def logout(request: Request, _: SignedIn) -> Response:
    """End the session."""
    with request.app.state.store.write() as tx:
        people.close_session(tx, token_of(request) or "")
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/account")
def account_page(user: SignedIn) -> Response:
    """Who you are, and a form for a new password."""
    return page("account.html", user, title="My account")


@router.post("/account")
async def change_password(
    request: Request,
    user: SignedIn,
    old: Annotated[Text, Form(max_length=1000)],
    new: Annotated[Text, Form(max_length=1000)],
) -> Response:
    """Change the user's password; all their sessions end."""
    return await _in_turn(request, lambda: _change_password(request, user, old, new))


def _change_password(request: Request, user: User, old: str, new: str) -> Response:
    try:
        right = guess(request, user.name, old) == user.id
    except Wait as wait:
        raise HTTPException(429, str(wait), {"Retry-After": str(wait.seconds)}) from None
    if not right:
        raise HTTPException(400, "that is not your current password")
    with request.app.state.store.write() as tx:
        people.change_user(tx, user.name, user.name, password=new)
    return RedirectResponse("/login", 303)


def inside(to: str) -> str:
    """A path of this site to go on to; anything else becomes the start page."""
    try:
        parts = urlsplit(to.replace("\\", "/"))
    except ValueError:  # `//[`
        return "/"
    if parts.scheme or parts.netloc or not to.startswith("/") or not to.isprintable() or not to.isascii():
        return "/"
    return to
