"""Makes the archive of a release: runs inside the tree that is released, with the tools that this tree locks.

`ops/release` exports a commit and runs `python -m ops.artefact` there, so that a commit gives the same archive
whichever checkout builds it, a newer one too. A change here makes a new version, like a change in `app/`.
"""
