"""The file that a kernel's memory is kept in: what is read is what was written, or nothing."""

import os
import pickle
import time

import pytest

from kernelsvc.kernel_host.memory.file import MAGIC, Index, NoRoom, Reader, Unusable, Writer

FRAMES = {"small": (b"pickled", []), "empty": (b"", []),
          "buffers": (b"p", [bytearray(b"abc"), bytes(range(200))])}  # fmt: skip


@pytest.fixture
def fd(tmp_path):
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def written(fd, most=1 << 20, until=None, frames=FRAMES):
    index = Index("token", "3", "bytecode", 0.0, {"numpy": "2"}, left_out=[("f", "an open file")])
    writer = Writer(fd, most, time.monotonic() + 60 if until is None else until, lambda: None)
    for name, (pickled, held) in frames.items():
        with writer.frame("variable", name) as (frame, buffers):
            writer.write(pickled)
            buffers.extend(map(pickle.PickleBuffer, held))
        index.frames.append(frame)
    writer.finish(index)
    return index


def read(fd):
    reader = Reader(fd)
    frames = {}
    for frame in reader.index.frames:
        pickled, buffers = reader.read(frame)
        frames[frame.name] = pickled.read(), buffers
    return reader.index, frames


def test_what_was_written_is_read_with_its_buffers_aligned(fd):
    index = written(fd)
    found, frames = read(fd)
    assert found == index
    assert {name: (pickled, [bytes(buffer) for buffer in buffers])
            for name, (pickled, buffers) in frames.items()} == {
        name: (pickled, [bytes(buffer) for buffer in held])
        for name, (pickled, held) in FRAMES.items()}  # fmt: skip
    writable, fixed = frames["buffers"][1]
    assert isinstance(writable, bytearray)
    assert fixed.readonly
    assert [at % 64 for frame in index.frames for at, _, _ in frame.buffers] == [0, 0]


def test_whichever_byte_is_damaged_nothing_else_is_read_than_was_written(fd):
    written(fd)
    before = read(fd)
    refused = 0
    size = os.fstat(fd).st_size
    for position in range(size):
        (byte,) = os.pread(fd, 1, position)
        os.pwrite(fd, bytes([byte ^ 0x15]), position)
        try:
            assert read(fd) == before
        except Unusable:
            refused += 1
        os.pwrite(fd, bytes([byte]), position)
    # All but what is between the buffers.
    assert refused > 0.8 * size
    assert read(fd) == before


@pytest.mark.parametrize("size", [0, 5, len(MAGIC), 63, 64, 100])
def test_a_file_that_is_cut_short_is_refused(fd, size):
    written(fd)
    os.ftruncate(fd, size)
    with pytest.raises(Unusable):
        read(fd)


def test_a_file_of_another_version_is_refused(fd):
    written(fd)
    os.pwrite(fd, MAGIC.replace(b"1", b"2"), 0)
    with pytest.raises(Unusable, match="another version"):
        read(fd)


def test_a_file_that_was_not_finished_is_none(fd):
    writer = Writer(fd, 1 << 20, time.monotonic() + 60, lambda: None)
    with writer.frame("variable", "x"):
        writer.write(b"pickled")
    with pytest.raises(Unusable):
        Reader(fd)


def test_what_does_not_fit_leaves_no_trace_and_the_rest_is_written(fd):
    writer = Writer(fd, 1000, time.monotonic() + 60, lambda: None)
    index = Index("t", "3", "b", 0.0, {})
    for name, size in (("a", 10), ("large", 2000), ("b", 20)):
        try:
            with writer.frame("variable", name) as (frame, buffers):
                writer.write(b"p")
                buffers.append(pickle.PickleBuffer(bytes(size)))
        except NoRoom:
            assert name == "large"
        else:
            index.frames.append(frame)
    writer.finish(index)
    _, frames = read(fd)
    assert [len(frames[name][1][0]) for name in ("a", "b")] == [10, 20]
    assert os.fstat(fd).st_size < 2000


def test_what_comes_when_the_time_is_over_is_not_written(fd):
    with pytest.raises(NoRoom, match="no time left"):
        written(fd, until=time.monotonic() - 1)


def test_nothing_is_written_behind_a_full_disk(tmp_path):
    """A device that is always full stands for the disk."""
    with open("/dev/full", "r+b", buffering=0) as full, pytest.raises(OSError, match="No space"):
        Writer(full.fileno(), 1 << 20, time.monotonic() + 60, lambda: None)
