"""Training of any model of this package: a loop that resumes to the step, on one process or many."""
