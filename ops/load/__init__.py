"""Load tests: many clients with lines of their own speed, and the pages they look at, measured while they last."""
