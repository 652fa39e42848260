"""Sections of the report, one module a method; listed in `results.report.page.SECTION_MODULES`."""
