"""The packages of an environment's hosts: shows what is installed, and brings hosts to the packages of a lock."""
