"""Step ``leakage.ask``: a chat model is asked yes or no about pictures with one part hidden. Light: imported to validate a spec."""
