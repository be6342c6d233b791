"""The pages that are copied right after a fork, before they are written to."""

import contextlib
import ctypes
import mmap
import os
import struct

from kernelsvc.kernel_host.hot_pages import LEARN_AGAIN, HotPages

PAGE = mmap.PAGESIZE
WRITTEN, OTHER = 3, 7


@contextlib.contextmanager
def forked():
    """While a child that waits has the memory as it is."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    yield
    os.close(writer)
    os.close(reader)
    os.waitpid(pid, 0)


def is_copied(memory, page):
    """Whether this process has the page for itself."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page * PAGE
    with open("/proc/self/pagemap", "rb", 0) as pagemap:
        pagemap.seek(address // PAGE * 8)
        return bool(struct.unpack("Q", pagemap.read(8))[0] & 1 << 56)


def copy(hot):
    """Take all steps."""
    for _ in hot.copy():
        pass


def test_pages_are_copied_that_each_run_writes_to_until_none_does_any_more():
    memory = mmap.mmap(-1, 16 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The system joins mappings that are alike, and in large ones no pages are looked up.
    memory.madvise(mmap.MADV_DONTDUMP)
    for page in (WRITTEN, OTHER):
        memory[page * PAGE] = 1
    hot = HotPages()
    with forked():
        copy(hot)
        assert not is_copied(memory, WRITTEN)
        memory[WRITTEN * PAGE] = 2
        hot.learn()
    with forked():
        copy(hot)
        assert (is_copied(memory, WRITTEN), is_copied(memory, OTHER)) == (True, False)
        hot.learn()
    for _ in range(LEARN_AGAIN - 2):
        copy(hot)
    # Behind the last of so many it is found that nobody has written to it.
    for _ in range(2):
        with forked():
            copy(hot)
            assert not is_copied(memory, WRITTEN)
            hot.learn()
