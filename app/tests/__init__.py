"""Tests of the application. One throwaway PostgreSQL serves the whole run; each test has a database of its own."""
