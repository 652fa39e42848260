"""Generated questions about composed pictures."""
