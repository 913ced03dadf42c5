"""Load tests: many clients upload at chosen speeds while others look at pages, and every request is measured."""
