"""Steps in which a model answers or judges: ``owc.ask``, ``owc.judge`` and others, and ``circle.multiple_choice``."""
