"""Everything that speaks HTTP.

server     the process (`longhaul web`): its health, its requests' log lines and its end
routes     which address is answered by what, and the built frontend
tus        the upload protocol; `tus_exchange` is one request of it, `tus_headers` what a client announces
proof      how a sender proves which file it sends
pages      what people see; `views` has the words for an upload
api        the same for programs; `feed` tells changes live, `ranges` reads which part of a file is asked for
guard      who may ask, and how trouble is told; `accounts` knows users by token or session
"""
