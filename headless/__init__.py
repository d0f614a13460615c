"""Runs workflows on ComfyUI servers from a command line. It talks to servers alone and imports nothing of the pack."""
