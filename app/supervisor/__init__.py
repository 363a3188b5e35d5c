"""Which processes exist: starting, watching, restarting and placing them."""

from app.supervisor.supervisor import Handlers, Supervisor
from app.supervisor.worker import Order, Worker

__all__ = ["Handlers", "Order", "Supervisor", "Worker"]
