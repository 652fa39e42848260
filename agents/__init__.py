"""LangGraph agents: the LLM-driven steps and their prompts."""
