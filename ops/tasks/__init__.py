"""What people type: a module per prefix of `./inv --list`, with options, questions and calls, and nothing else."""
