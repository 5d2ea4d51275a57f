"""From a network and a data set to scores: predictors (one a file, found by file name) and the evaluator."""
