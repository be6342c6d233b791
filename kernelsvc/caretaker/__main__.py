"""`python -P -m kernelsvc.caretaker ORDERS AWAITED`: it, with its two sockets' descriptors."""

import socket
import sys

from kernelsvc.caretaker.caretaker import Caretaker

orders, awaited = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
Caretaker(orders, awaited).serve()
