"""The report: one self-contained HTML page about a run, made from the results database alone.

    html = render(ResultsStore(path), run_id)

No script, no network (a Content-Security-Policy forbids both), every string escaped. What a method has to say is a
section (``results.report.page``): a module that reads its own tables and decides whether it applies.
"""

from results.report.page import Part, Section, render

__all__ = ["Part", "Section", "render"]
