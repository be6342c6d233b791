"""What runs beside the user's code: the kernel host and the kernel it forks.

Nothing here imports the service; the only thing both sides share is `wire`.
"""
