"""The local data centre: boots the hosts of an inventory on this machine, and breaks them on request (docs/lab.md)."""
