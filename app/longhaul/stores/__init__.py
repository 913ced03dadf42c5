"""Where bytes are kept: immutable objects. A name is never used twice.

interface   what a store does
content     digests per MiB, and verified writing and reading on top of any store
directory   a local directory
swift       OpenStack Swift
"""

from __future__ import annotations

from longhaul.settings import Settings
from longhaul.stores.interface import Store


def open_store(settings: Settings) -> Store:
    """The store that the settings name. Raises SettingsError if it cannot be set up; contacts no host."""
    kind, _, place = settings.store.partition(":")
    if kind == "directory":
        from longhaul.stores.directory import DirectoryStore

        return DirectoryStore(place)
    from longhaul.stores.swift import SwiftStore

    return SwiftStore(
        place.split(","),
        user=settings.swift_user,
        key=settings.required_credential("swift-key"),
        container=settings.swift_container,
        ca_file=settings.ca_file,
        patience=settings.head_hold_seconds,
    )
