"""The life of sandboxes in a run: open, retry, cancel, clean up; and the shim that stands for a task."""
