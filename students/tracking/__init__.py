"""What a run writes down while it trains: metrics.jsonl, which is the truth, and Weights & Biases, a view of it."""
