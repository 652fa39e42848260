"""Steps of the open-world protocol: ``owc.score``, ``owc.games``, ``owc.elo``, ``owc.import``."""
