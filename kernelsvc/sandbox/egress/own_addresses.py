"""Whether an address is this host's own, asked of the kernel's routing tables.

A list of the interfaces' addresses would miss what is delivered here without being one of them
(`ip route add local ...`). The route that the kernel would take says it for every address: its
type is then not unicast. The answer is never cached; addresses come and go.
"""

import socket
import struct
from ipaddress import IPv4Address

from kernelsvc.sandbox.egress.addresses import Address

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTA_DST = 1
_RTN_UNICAST = 1

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, ..., type (the eighth), flags
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type

_ANSWER_SECONDS = 1.0


def is_own_address(address: Address) -> bool:
    """Whether the kernel would deliver `address` to this host, or to more than one.

    An address to which there is no route is not. Raises OSError where the kernel does not say.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    route = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    route += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(address.packed), _RTA_DST) + address.packed
    header = _HEADER.pack(_HEADER.size + len(route), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_ANSWER_SECONDS)
        netlink.sendto(header + route, (0, 0))
        answer = netlink.recv(65536)
    kind = _HEADER.unpack_from(answer)[1]
    if kind == _NLMSG_ERROR:
        return False
    if kind != _RTM_NEWROUTE:
        raise OSError(f"netlink answered a message of type {kind}")
    return bool(_ROUTE.unpack_from(answer, _HEADER.size)[7] != _RTN_UNICAST)
