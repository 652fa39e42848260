"""Views of the results database: one SQL file each, first line a comment that says what it shows."""
