"""One program for each system: it prepares and runs the workloads that it is told to (`benchmarks.driver`)."""
