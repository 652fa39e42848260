"""Steps of closed-world contrastive classification."""
