"""The objects that all parts of a process share. They are made once, at its start."""

from __future__ import annotations

from dataclasses import dataclass

from longhaul.database import Database
from longhaul.settings import Settings
from longhaul.stores import open_store
from longhaul.stores.interface import Store
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Receivers


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Database, store and uploads, with the settings they were made from."""

    settings: Settings
    database: Database
    store: Store
    uploads: Uploads
    receivers: Receivers

    @classmethod
    def from_settings(cls, settings: Settings) -> Services:
        """Make them. Nothing is connected yet. Raises SettingsError."""
        database = Database.from_settings(settings)
        uploads = Uploads(
            database, server=settings.server, days=settings.upload_days, patience=settings.head_hold_seconds
        )
        return cls(
            settings=settings,
            database=database,
            store=open_store(settings),
            uploads=uploads,
            receivers=Receivers(uploads, poll_seconds=settings.epoch_poll_seconds),
        )

    async def close(self) -> None:
        """Wait for running transactions, then close all connections."""
        await self.database.close()
        await self.store.close()
