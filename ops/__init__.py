"""The library behind the tasks: one module per system or verb."""
