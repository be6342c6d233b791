"""`python -P -m kernelsvc.keeper ORDERS AWAITED`: the keeper, with its two sockets' descriptors."""

import socket
import sys

from kernelsvc.keeper.keeper import Keeper

orders, awaited = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
Keeper(orders, awaited).serve()
