"""A client of the HTTP API."""

from kernelsvc.client.client import Client, ServiceError

__all__ = ["Client", "ServiceError"]
