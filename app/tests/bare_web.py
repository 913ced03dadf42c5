"""`longhaul web` with the upload protocol only, so that its tests need no built frontend."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from starlette.routing import BaseRoute

from longhaul import cli
from longhaul.services import Services
from longhaul.web import routes
from longhaul.web.accounts import AccessTokens, Authenticator


def no_routes(services: Services) -> Sequence[BaseRoute]:
    """No pages, no API."""
    del services
    return []


def by_token(services: Services) -> Authenticator:
    """Bearer tokens only."""
    return AccessTokens.from_settings(services.settings)


routes.pages_and_api = no_routes
routes.authenticator = by_token

if __name__ == "__main__":
    sys.exit(cli.main(["web"]))
