"""A kernel's channels: the sockets that its clients connect to, without libzmq."""
