# SPDX-License-Identifier: MIT
"""An NFS mount whose server is gone, with data that was never sent.

The server is the guest's own kernel, in a network namespace behind a pair of virtual cables, of which one is then
pulled. The mount is `hard`, as nfs(5) makes it: from then on stat, sync, umount and the end of the process that holds a
file there do not return.
"""

from __future__ import annotations

from tests.vm.lab.guest import Guest

# NFS 4 only, so that no rpcbind is needed. nfsdcld, because in a network namespace the kernel knows no other way to
# remember clients (fs/nfsd/nfs4recover.c), and starts with a grace period of 90 s when it has none.
SERVE = """
set -e
mkdir -p /run/export /run/nfsdcld /run/server_pipefs
mount -t tmpfs export /run/export
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs pipefs /run/server_pipefs
nfsdcld --pipefsdir=/run/server_pipefs --storagedir=/run/nfsdcld
exportfs -o rw,insecure,no_root_squash,no_subtree_check,fsid=0 '*:/run/export'
rpc.mountd --no-nfs-version 2 --no-nfs-version 3
rpc.nfsd --no-nfs-version 3 --no-udp 2
"""

# One process does all of it: each close of a descriptor of that file sends what was written, and here never returns.
HOLD = """
import os, time
file = os.open("/srv/nfs/held", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
os.close(os.open("/run/holder.connected", os.O_CREAT))
os.close(os.open("/run/holder.go", os.O_RDONLY))
os.write(file, os.urandom(4 << 20))  # to a server that is gone
os.close(os.open("/run/holder.ready", os.O_CREAT))
time.sleep(100000)
"""

MAKE = """
set -e
ip netns add server
ip link add nfs0 type veth peer name nfs1 netns server
ip address add 192.0.2.1/30 dev nfs0
ip link set nfs0 up
ip -n server address add 192.0.2.2/30 dev nfs1
ip -n server link set nfs1 up
ip -n server link set lo up
modprobe nfsd
ip netns exec server sh /srv/serve.sh
mkdir -p /srv/nfs
mount -t nfs4 -o hard,vers=4.2,sec=sys 192.0.2.2:/ /srv/nfs
mkfifo /run/holder.go
setsid python3 -I -S /srv/hold.py < /dev/null > /dev/null 2>&1 &
until [ -e /run/holder.connected ]; do sleep 0.1; done
ip -n server link set nfs1 down
: > /run/holder.go
until [ -e /run/holder.ready ]; do sleep 0.1; done
"""


def make(guest: Guest) -> None:
    """Mount it at /srv/nfs, cut the server off, and leave 4 MiB unsent in a file that a process holds."""
    guest.put("/srv/serve.sh", SERVE.encode())
    guest.put("/srv/hold.py", HOLD.encode())
    guest.run("timeout", "90", "sh", "-c", MAKE, timeout=100)
