"""What keeps a kernel's code inside: namespaces, mounts, system calls, limits."""
