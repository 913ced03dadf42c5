"""The domain: uploads, pieces and epochs. Knows PostgreSQL and the store, nothing of HTTP.

model      records and errors
decisions  the transactions that decide what counts; `rows` reads, locks and changes rows for them
jobs       the job that processes an upload, queued in the transaction that makes it due
pieces     bytes on their way into the store, and back out, verified
receiving  the bytes of one connection become pieces; `checksum` is the sender's of one request
epochs     noticing within a second that an upload was taken over by another process
takeover   asking the process that receives an upload to leave before taking the upload over
sampling   digests of some blocks, with which a sender proves that it has the same file
results    the published results, and what made them
garbage    deleting pieces that can never count
waiting    uploads that lost their job, and jobs whose worker is gone
"""
