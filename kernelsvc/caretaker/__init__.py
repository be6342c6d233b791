"""What holds on to kernels while their service is away: a process of its own."""
