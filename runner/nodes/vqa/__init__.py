"""Answers to questions about pictures: asking a model in this process, scoring. Shared by rooms that evaluate."""
