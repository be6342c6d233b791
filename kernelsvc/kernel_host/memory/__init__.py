"""What a kernel holds, on the disk: written before a session sleeps, read when it wakes.

Theory of operation. A forked copy of the kernel writes (`copying`), so that neither what pickling
does to objects nor a bound on time or size touches the kernel itself. Each variable is pickled into
a *frame* of its own, so that one that cannot be written or read costs none of the others. What two
variables share is written with one of them, and the other's frame refers to it (`sharing`): it is
one object again afterwards. Functions and classes that runs have defined are written by value,
functions without their globals, which are the namespace itself (`pickler`). What belongs to the
process rather than to a variable (the working directory, random numbers) is written as frames too
(`state`), in a file that is checked before anything of it is used (`file`).

The file lies where the session's code could have written it as well. So it is only ever unpickled
where that code runs anyway: in the session's kernel.
"""
