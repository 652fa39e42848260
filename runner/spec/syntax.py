"""What the YAML parser complains about, in words for people who do not know YAML's grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import Problem
from runner.spec.source import START, Source, Span

if TYPE_CHECKING:
    import yaml

# What the parser says (a part of it) -> what we say, and whether the fault lies where the construct began.
_SENTENCES = (
    (
        "mapping values are not allowed",
        'a ":" cannot stand here: quote the text, or begin the key on a new line',
        False,
    ),
    ("did not find expected ',' or ']'", 'this list is not closed: a "," or "]" is missing', True),
    ("did not find expected ',' or '}'", 'this mapping is not closed: a "," or "}" is missing', True),
    ("did not find expected '-' indicator", 'expected "- " here: an item of this list is indented otherwise', False),
    ("did not find expected key", "expected a key here: the indentation does not fit the lines above", False),
    ("could not find expected ':'", 'expected "key: value": a ":" is missing', True),
    ("block sequence entries are not allowed", 'a "- " item cannot stand here: begin it on a new line', False),
    ("found unexpected end of stream", "the quoted text that begins here is not closed", True),
    ("did not find expected node content", "expected a value here", False),
    ("did not find expected <document start>", 'expected "key: value" here', False),
    ("found unknown escape character", 'unknown escape: write "\\\\" for a backslash, or use single quotes', False),
    ("found undefined tag handle", "tags are not allowed: a spec holds plain data", False),
    ("found character that cannot start any token", "a value cannot begin with this character: quote it", False),
    ("found a tab character", "a tab stands where spaces are needed", False),
)


def explain_syntax(source: Source, error: yaml.MarkedYAMLError) -> Problem:
    """The parser's error as one placed problem."""
    said = error.problem or str(error)
    mark = error.problem_mark or error.context_mark
    for part, sentence, at_start in _SENTENCES:
        if part in said:
            span = _span(source, error.context_mark if at_start and error.context_mark else mark)
            return source.problem("yaml", _about_tabs(source, span) or sentence, span)
    return source.problem("yaml", f"this is not YAML: {said}", _span(source, mark))


def _about_tabs(source: Source, span: Span) -> str | None:
    line = source.lines[span.line - 1]
    indent = line[: len(line) - len(line.lstrip())]
    here = line[span.column - 1 : span.column]
    return "a tab stands where spaces are needed: indent with spaces" if "\t" in indent or here == "\t" else None


def _span(source: Source, mark: Any) -> Span:
    """The mark as a span inside the text: the end of the stream lies behind its last line."""
    if mark is None:
        return START
    line = min(mark.line + 1, len(source.lines))
    if line <= mark.line:
        return Span(line, len(source.lines[line - 1]) + 1)
    return Span(line, min(mark.column, len(source.lines[line - 1])) + 1)
