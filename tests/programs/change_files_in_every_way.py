"""Change files below a folder by every call that changes one. Takes the folder as its argument."""

from __future__ import annotations

import os
import shutil
import sys

root = sys.argv[1]
os.makedirs(root + "/a/../a/b//c")
fd = os.open(root + "/a/./b/f", os.O_RDWR | os.O_CREAT)
os.write(fd, b"one")
other = os.dup(fd)
os.write(other, b"two")
os.close(fd)
os.pwrite(other, b"X" * 5000, 3000)
os.ftruncate(other, 6000)
os.posix_fallocate(other, 0, 9000)
os.writev(other, [b"three", b"four"])
os.pwritev(other, [b"five"], 8990)
os.fsync(other)
os.close(other)
here = os.open(root + "/a", os.O_RDONLY)
fd = os.open("g", os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=here)
os.write(fd, b"1")
os.write(fd, b"2")
os.rename("g", "h", src_dir_fd=here, dst_dir_fd=here)
os.link(root + "/a/h", root + "/a/i")
os.mkdir("d", dir_fd=here)
os.rmdir("d", dir_fd=here)
os.unlink(root + "/a/h")
with open(root + "/text", "w") as file:
    file.write("text" * 5000)
with open(root + "/text", "r+") as file:
    file.truncate(7)
os.truncate(root + "/text", 3)
shutil.copyfile(root + "/a/b/f", root + "/copy")
if os.fork() == 0:
    os.write(fd, b"child")
    os.replace(root + "/copy", root + "/moved")
    os._exit(0)
os.wait()
os.write(fd, b"parent")
os.chdir(root)
with open("relative", "wb") as binary:
    binary.write(b"r" * 10)
with open("text", "wb") as binary:
    binary.write(b"again")
