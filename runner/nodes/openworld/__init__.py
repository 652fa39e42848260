"""The open-world protocol: how free text is scored against one class name."""
