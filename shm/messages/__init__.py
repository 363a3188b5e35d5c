"""Every message between control and the workers, with who sends it to whom.

Runs in: every process.
Owns: the words of the house. Commands are verbs, events past tense.

Rules
1. Commands go from control to a worker and carry a `command_id`; exactly one `Done` or `Failed` answers each.
   A command is idempotent: a worker that gets the same `command_id` again answers again and does nothing twice.
2. Events go from a worker to control. Those with a `number` end or count something: the worker keeps them until
   control says `Acknowledge` (see `shm/outbox.py`); the rest is telemetry and may be dropped under pressure.
3. `Hello` asks a worker for its inventory: `InventoryPart`s, the last one with `last=True`, then every numbered
   event not yet acknowledged, again. A new control process ignores whatever comes before the inventory.
4. A message stays below 64 KiB encoded; lists travel in numbered parts.
5. `at_tick` names the first tick for which a change holds; 0 = at once. Who gets it late applies it at once.

One file for each conversation: `zygote`, `rtp`, `room`, `stream`, `sip`; `common` is in all. All names are had from here.

Not here: how messages travel -> `shm/channel.py`; who hangs on whose channel -> `app/supervisor.py`.
"""

from shm.messages.common import *
from shm.messages.room import *
from shm.messages.rtp import *
from shm.messages.sip import *
from shm.messages.stream import *
from shm.messages.zygote import *
