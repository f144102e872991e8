"""Which hosts are this machine itself: what runs here may be asked and may ask where nobody else may."""

from __future__ import annotations

import ipaddress


def is_loopback(name: str | None) -> bool:
    """Whether a host name or address is that of the loopback interface; None is none."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
