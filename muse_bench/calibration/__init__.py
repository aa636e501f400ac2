"""The matrix of cases on which predictions are checked against measurements."""
