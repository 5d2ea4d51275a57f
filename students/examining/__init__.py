"""Looking at what a student has learnt: scores, pictures, predictions of photos."""
