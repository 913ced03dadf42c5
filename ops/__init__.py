"""The library behind the tasks, one module for each system or procedure."""
