"""Run directories read back: rows with seeds, baselines, intervals and costs, and the tables made of them."""
