"""Changing an environment that serves users: the lock, the record, the plan and the steps of a deployment."""
