"""The packages of an environment's hosts: what is installed where, a lock that names a snapshot, forwards and back."""
