"""One file a command: its arguments as a dataclass, one library call, and what it prints."""
