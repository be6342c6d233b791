"""Kernels of other languages: each an adapter that speaks to the service as our own kernel does.

Theory of operation. The kernel process of such a language is a fork of the kernel host, as that of
Python is, and so has what it needs imported. It serves Jupyter's sockets (`front`), and beside it
runs what does the work: a live bash (`bash`), a program for each run (`program`), or another
Jupyter kernel (`inner`), such as Deno's (`deno`). So the service meets one kind of kernel: SIGINT
interrupts it, its `idle` says how a run has ended, and when what does the work ends, the adapter
ends as that did.
"""
