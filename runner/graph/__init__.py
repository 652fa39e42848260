"""From a resolved spec to a plan to a LangGraph run."""
