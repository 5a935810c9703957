# SPDX-License-Identifier: MIT
# mypy: ignore-errors
"""What somebody would write with pydbus; run by the system's Python, since pydbus stands on its libraries.

    DBUS_SYSTEM_BUS_ADDRESS=... python3 pydbus_client.py

Prints one JSON document of what it has seen.
"""

import json

from gi.repository import GLib
from pydbus import SystemBus

loop = GLib.MainLoop()
seen = {"states": [], "changes": [], "progress": []}

kexecd = SystemBus().get("org.kexecd")


def state_changed(state):
    seen["states"].append(state)
    loop.quit()


kexecd.StateChanged.connect(state_changed)
kexecd.Progress.connect(lambda *told: seen["progress"].append(told))


def changed(interface, values, invalidated):
    del interface, invalidated
    seen["changes"].append(values)


kexecd.PropertiesChanged.connect(changed)

seen["state"], seen["image"], seen["deadline"] = kexecd.State, kexecd.Image, kexecd.Deadline
seen["entries"] = json.loads(kexecd.Entries())
seen["plan"] = json.loads(kexecd.Plan("fast", {"within": GLib.Variant("d", 5.0)}))
seen["loaded"] = json.loads(kexecd.Load("", {}))
seen["unloaded"] = kexecd.Unload()
seen["cancelled"] = kexecd.Cancel()
seen["rebooted"] = kexecd.Reboot("now", {"firmware": GLib.Variant("b", True)})
try:
    kexecd.Reboot("sideways", {})
except GLib.Error as error:
    seen["error"] = error.message
print("listening", flush=True)
GLib.timeout_add_seconds(10, loop.quit)
loop.run()
print(json.dumps(seen))
