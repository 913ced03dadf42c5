"""Everything that speaks HTTP.

server     the process (`longhaul web`): its health, its requests' log lines and its end
routes     which endpoint answers which address, and the built frontend
tus        the upload protocol; `tus_exchange` is one request of it, `tus_headers` what a client announces
proof      a sender proves which file it sends
pages      what people see; `views` has the words for an upload
api        the same for programs; `feed` sends live updates, `ranges` reads the header Range
guard      who may ask, and how errors are answered; `accounts` knows users by token or session
"""
