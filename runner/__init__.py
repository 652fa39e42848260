"""Declarative experiment runner with agentic LLM loops for vision-language models."""

__version__ = "0.1.0"
