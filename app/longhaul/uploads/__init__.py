"""The domain: uploads, pieces and epochs. Knows PostgreSQL and the store, nothing of HTTP.

model     records and errors
core      the transactions that decide
jobs      the job that processes an upload, put into the queue with them
pieces    bytes on their way into the store, and back out, verified
receiving one connection's bytes into pieces
epochs    noticing within a second that an upload went elsewhere; asking before taking
garbage   deleting what can never count
"""
