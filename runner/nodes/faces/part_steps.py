"""Step ``faces.part_images``: generated faces with the parser's masks. Light: imported to validate a spec."""
