"""Signing in and out, and changing the password."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from labeling import people
from labeling.web.fields import LONG, NAME, Text
from labeling.web.pages import page
from labeling.web.security import COOKIE, SignedIn, token_of

router = APIRouter(tags=["account"])
WRONG = "That name and password do not belong together."


@router.get("/login")
def login_page(to: Text = "/") -> Response:
    """The sign-in page."""
    return page("login.html", None, title="Sign in", error="", to=inside(to))


@router.post("/login")
def login(
    request: Request,
    name: Annotated[Text, Form(max_length=NAME)],
    password: Annotated[Text, Form(max_length=1000)],
    to: Annotated[Text, Form(max_length=LONG)] = "/",
) -> Response:
    """Start a session. An attempt is counted before the password is looked at, so that many at once count
    too."""
    store, address = request.app.state.store, request.client.host if request.client else ""
    with store.write() as tx:
        wait = people.throttled(tx, name, address)
        if wait <= 0:
            attempt = people.note_attempt(tx, name, address)
    if wait > 0:
        minutes = f"Too many attempts. Try again in {int(wait // 60) + 1} minutes."
        headers = {"Retry-After": str(int(wait) + 1)}
        return page("login.html", None, 429, headers, title="Sign in", error=minutes, to=inside(to))
    with store.read() as tx:
        number = people.check_password(tx, name, password)
    if number is None:
        return page("login.html", None, 401, title="Sign in", error=WRONG, to=inside(to))
    with store.write() as tx:
        people.forget_attempt(tx, attempt)
        token = people.open_session(tx, number)
    response = RedirectResponse(inside(to), 303)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, token, max_age=int(people.SESSION_WHOLE), httponly=True, samesite="lax", secure=secure
    )
    return response


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
def change_password(
    request: Request,
    user: SignedIn,
    old: Annotated[Text, Form(max_length=1000)],
    new: Annotated[Text, Form(max_length=1000)],
) -> Response:
    """Change the user's password; all their sessions end."""
    store = request.app.state.store
    with store.read() as tx:
        right = people.check_password(tx, user.name, old) == user.id
    if not right:
        raise HTTPException(400, "that is not your current password")
    with store.write() as tx:
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
