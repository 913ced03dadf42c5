"""What decides the bytes of a release: run inside the tree that the release is made from, with that tree's own tools.

`ops/release` exports a commit and runs `python -m ops.artefact` there, so that a commit gives the same archive
whichever checkout asks for it, and however far that has moved on. Like one in `app/`, a change
here makes a new version.
"""
