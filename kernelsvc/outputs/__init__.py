"""From a kernel's events to what is kept of a run's output. Pure: no I/O, no clock."""
