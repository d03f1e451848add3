"""The command line: argument handling only, one file a command. Each file has `add_arguments` and `run`."""
