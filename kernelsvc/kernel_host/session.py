"""Jupyter's messages, read without what nobody here looks at."""

from hmac import compare_digest
from typing import Any

from jupyter_client.session import Session


class KernelSession(Session):
    """A session that leaves the dates in headers as they came: text.

    jupyter_client parses them all, which takes it longer than everything else about a message; here
    a header is only sent back, as the parent of an answer.
    """

    def deserialize(
        self, msg_list: list[Any], content: bool = True, copy: bool = True
    ) -> dict[str, Any]:
        """The message in these frames; raises ValueError for one that is not signed with the key.

        With `content` False its content is left packed.
        """
        parts = msg_list if copy else [frame.bytes for frame in msg_list]
        if len(parts) < 5:
            raise ValueError("a message has at least five parts")
        if self.auth is not None:
            if not compare_digest(parts[0], self.sign(parts[1:5])):
                raise ValueError("the signature is not that of the message")
            if parts[0] in self.digest_history:
                raise ValueError("the message has been here before")
            self._add_digest(parts[0])
        header = self.unpack(parts[1])
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": self.unpack(parts[2]),
            "metadata": self.unpack(parts[3]),
            "content": self.unpack(parts[4]) if content else parts[4],
            "buffers": [memoryview(part) for part in parts[5:]],
        }
