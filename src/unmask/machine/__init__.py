"""The machine a process runs on: its devices, its signals, its launcher and the other processes."""
