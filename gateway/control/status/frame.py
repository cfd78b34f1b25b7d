"""What every status page has around it, and the page that asks for a token."""

from __future__ import annotations

from urllib.parse import quote

from gateway.control.status.visits import PATH
from gateway.core.access import ADMIN_KEY_NAME
from gateway.core.health import Level
from gateway.drawing.markup import Child, Markup, document, tag
from gateway.drawing.style import STYLE
from gateway.drawing.words import moment

FRESH_S = 15  # between two loads of a page that is kept fresh; the monitor publishes every second or two


def framed(title: str, *content: Child, at: str, now_s: float, is_fresh: bool) -> str:
    """Return a page for somebody who may look.

    Args:
        at: The page's own address, without a query.
        is_fresh: Whether it loads itself again, which only a reader who asked for it gets.
    """
    fresh = tag("a", "stop refreshing" if is_fresh else "keep fresh", href=at if is_fresh else f"{at}?fresh=true")
    leave = tag("form", tag("button", "leave", class_="plain small"), method="post", action=f"{PATH}/leave")
    header = tag(
        "header",
        tag("a", "Headgate", class_="name", href=PATH),
        tag("span", moment(now_s), class_="quiet small"),
        tag("span", tag("span", fresh, class_="small"), leave, class_="right"),
    )
    more = [tag("meta", http_equiv="refresh", content=str(FRESH_S))] if is_fresh else []
    ways = (tag("code", "headgate routes"), ", ", tag("code", "rollouts"), " and ", tag("code", "rollback"))
    footer = tag("footer", "Read only. What changes a route is ", *ways, ", and the admin API.")
    return document(f"{title} · Headgate", header, tag("main", *content), footer, style=STYLE, more=more)


def asking(*, to: str, why: str = "") -> str:
    """Return the page that asks for a token, and leads `to` afterwards."""
    form = tag(
        "form",
        tag("h1", "Headgate"),
        tag("p", "A token with the scope read opens this page for twelve hours. It is not kept in the browser.", class_="quiet"),
        tag("p", why, class_="alarm", role="alert") if why else None,
        tag("label", "Token", for_="token"),
        tag("input", id="token", name="token", type="password", autocomplete="current-password", required=True, autofocus=True),
        tag("input", type="hidden", name="to", value=to),
        tag("button", "Open"),
        tag("p", f"The first one stands in the data directory, in {ADMIN_KEY_NAME}.", class_="quiet small"),
        class_="enter",
        method="post",
        action=f"{PATH}/enter",
    )
    return document("Headgate", tag("main", form), style=STYLE)


def refusing(status: int, message: str, hint: str | None) -> str:
    """Return the page of an error."""
    content = [tag("h1", message), tag("p", hint) if hint else None, tag("p", tag("a", "All routes", href=PATH))]
    return document(f"{status} · Headgate", tag("main", *content), style=STYLE)


def level_chip(level: Level) -> Markup:
    """Return a level as a word; only what needs attention has a colour."""
    return tag("span", level.name.lower(), class_=f"level {level.name.lower()}")


def route_path(name: str) -> str:
    """Return the address of a route's page."""
    return f"{PATH}/routes/{quote(name, safe='')}"
