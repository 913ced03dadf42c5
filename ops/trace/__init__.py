"""Traces of the running application: arms its processes on all hosts, shows their lines, and keeps who traced what."""
