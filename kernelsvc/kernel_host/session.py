"""Jupyter's messages, read without what nobody here looks at, and written whatever is in them."""

import json
from hmac import compare_digest
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_client.session import DELIM, Session, orjson_packer


class KernelSession(Session):
    """A session that leaves the dates in headers as they came: text.

    jupyter_client parses them all, which takes it longer than everything else about a message; here
    a header is only sent back, as the parent of an answer.
    """

    def feed_identities(
        self, msg_list: list[Any], copy: bool = True
    ) -> tuple[list[bytes], list[Any]]:
        """Whom a message is from, and its parts; raises ValueError where nothing divides them."""
        end = msg_list.index(DELIM)
        return msg_list[:end], msg_list[end + 1 :]

    def deserialize(
        self, msg_list: list[Any], content: bool = True, copy: bool = True
    ) -> dict[str, Any]:
        """The message in these frames; raises ValueError for one that is not signed with the key.

        With `content` False its content is left packed.
        """
        if len(msg_list) < 5:
            raise ValueError("a message has at least five parts")
        if self.auth is not None:
            if not compare_digest(msg_list[0], self.sign(msg_list[1:5])):
                raise ValueError("the signature is not that of the message")
            if msg_list[0] in self.digest_history:
                raise ValueError("the message has been here before")
            self._add_digest(msg_list[0])
        header = self.unpack(msg_list[1])
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": self.unpack(msg_list[2]),
            "metadata": self.unpack(msg_list[3]),
            "content": self.unpack(msg_list[4]) if content else msg_list[4],
            "buffers": [memoryview(part) for part in msg_list[5:]],
        }


def pack(message: Any) -> bytes:
    """JSON for a message part, whatever text is in it.

    jupyter_client's packers raise on lone surrogates, and the message (a reply even) is gone; here
    they travel as escapes.
    """
    try:
        return orjson_packer(message)
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default, ensure_ascii=True).encode()
