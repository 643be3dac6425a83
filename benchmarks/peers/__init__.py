"""Programs that are measured: each a process of its own, started by `benchmarks.processes`."""
