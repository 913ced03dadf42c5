"""`longhaul web` with the upload protocol only, so that its tests need no built frontend."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from starlette.routing import BaseRoute

from longhaul import cli, site
from longhaul.access import AccessTokens, Authenticator
from longhaul.services import Services


def no_routes(services: Services) -> Sequence[BaseRoute]:
    """No pages, no API."""
    del services
    return []


def by_token(services: Services) -> Authenticator:
    """Bearer tokens only."""
    return AccessTokens.from_settings(services.settings)


site.routes = no_routes
site.authenticator = by_token

if __name__ == "__main__":
    sys.exit(cli.main(["web"]))
