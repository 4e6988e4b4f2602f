"""A real Slurm of one's own on one host: munge, MariaDB, slurmdbd, slurmctld and three slurmd, up in seconds.

    python tests/cluster/private_slurm.py start|stop|env|status DIR
    eval "$(python tests/cluster/private_slurm.py env DIR)"

Three nodes, `n1` and `n2` with four A100 each (character devices that only look like GPUs), three partitions: `gpu`
(n1, n2), `cpu` (all, default) and `scav` (all; jobs of the other two preempt there, and the preempted are requeued).
Account `lab`; any other is refused.

Kernel namespaces make the parts behave like the machines they stand for:

- All daemons live in one "room": a PID and a network namespace. The network is a loopback device and nothing else, so
  jobs reach Slurm and each other, but no route leads out. The clients (sbatch, squeue, …) are wrapped by shims that
  enter this network, so callers stay outside. When the room's first process dies, the kernel kills all others: nothing
  can be left behind.
- A node is a further PID namespace inside the room. Killing its first process is a power cut: slurmd, slurmstepd and
  all processes of its jobs are gone at once, whatever they did to detach themselves.

So this needs root, or rather CAP_SYS_ADMIN, and Debian's packages (`install`).
"""

import argparse
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

NODES = ("n1", "n2", "n3")
GPU_NODES = ("n1", "n2")
_CLIENTS = "sbatch srun salloc squeue sacct sacctmgr scancel scontrol sinfo sshare sstat sprio sattach".split()
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGE_OF = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
    "mksquashfs": "squashfs-tools",
    "squashfuse": "squashfuse",
    "ip": "iproute2",
    "debootstrap": "debootstrap",  # the image is built from Debian's packages
}
_SACCT_FIELDS = "JobID JobName Comment Account Partition State ExitCode AllocTRES NodeList".split()


class SlurmError(Exception):
    """A daemon does not come up, a command is refused, or the machine cannot run a private Slurm."""


def why_not() -> str | None:
    """Why this machine cannot run a private Slurm, or None. Asks for what is there, not for what is allowed."""
    if os.geteuid() != 0:
        return "a private Slurm needs root"
    if _missing_packages() and not shutil.which("apt-get"):
        return f"a private Slurm needs {', '.join(_missing_packages())}, and there is no apt-get"
    return None


def install() -> None:
    """Install Debian's packages that are missing; nothing where all are there (about 8 s on a fresh machine)."""
    missing = _missing_packages()
    if not missing:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    for attempt in ("with the lists as they are", "with new lists"):
        if attempt == "with new lists":
            subprocess.run(["apt-get", "update", "--quiet"], env=environment, capture_output=True, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    raise SlurmError(f"{shlex.join(command)} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")


def _missing_packages() -> list[str]:
    return [package for tool, package in _PACKAGE_OF.items() if not shutil.which(tool, path=_SYSTEM_PATH)]


@dataclass
class PrivateSlurm:
    """One Slurm, with all it writes under `folder`/slurm. Each start is a fresh one: no jobs, an empty database."""

    folder: Path
    accounting: bool = True  # False: a site without a database; sacct says so, squeue works
    isolate_network: bool = True
    cpus: int = 16  # per node; Slurm believes it
    memory_mb: int = 64000  # per node; a job above its request is killed
    kill_wait: int = 3  # seconds between SIGTERM and SIGKILL
    outlive: bool = False  # True: goes on after the thread that called `start`; else it dies with it, even by SIGKILL

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).resolve()
        self._home = self.folder / "slurm"
        self._conf = self._home / "etc" / "slurm.conf"
        self._socket = self._home / "run" / "munge.sock"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """To lay over os.environ for whatever shall use this Slurm."""
        path = os.environ.get("PATH", _SYSTEM_PATH)
        return {"SLURM_CONF": str(self._conf), "PATH": f"{self._home / 'bin'}:{path}"}

    def start(self) -> None:
        """Start all daemons and return when all nodes are idle: 3-8 s."""
        if reason := why_not():
            raise SlurmError(reason)
        install()
        self.stop()
        if self._home.exists():
            shutil.rmtree(self._home)
        for name in ("etc", "run", "log", "state", "dev", "tmp", "bin", *(f"spool/{node}" for node in NODES)):
            (self._home / name).mkdir(parents=True)
        try:
            self._write_configuration()
            self._open_room()
            self._start_munge()
            if self.accounting:
                self._start_database()
            self._start_controller()
            for node in NODES:
                self._start_slurmd(node)
            self._await("slurm", lambda: all(state == "idle" for state in self.node_states().values()))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill all daemons and jobs, of an earlier process too. The logs stay."""
        _kill(lambda: _processes(str(self.folder), "room"))

    def run(self, *command: str | Path) -> str:
        """Run a command with this Slurm's environment and return what it prints; SlurmError where it fails."""
        done = subprocess.run(
            [*map(str, command)], env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SlurmError(f"{shlex.join(map(str, command))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: str, *options: str) -> str:
        """Submit a shell command and return the job's id."""
        return self.run("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script).strip()

    def sacct(self, *fields: str, steps: bool = False) -> list[dict[str, str]]:
        """What the database knows of the jobs since `start`, oldest first; `Comment` is Snakemake's rule.

        It hears of jobs and of their ends up to some seconds late: wait for what you expect.
        """
        names = [*dict.fromkeys((*(fields or _SACCT_FIELDS), "Comment"))]
        options = ["--allusers", "--parsable2", "--noheader", "--delimiter=\x1f", "--starttime=2000-01-01"]
        lines = self.run("sacct", *([] if steps else ["--allocations"]), *options, f"--format={','.join(names)}")
        return [dict(zip(names, line.split("\x1f"), strict=True)) for line in lines.splitlines()]

    def squeue(self) -> list[dict[str, str]]:
        """The jobs that wait or run. `comment` is Snakemake's rule, `reason` why a job waits."""
        form = dict(id="%i", name="%j", state="%T", partition="%P", account="%a", nodes="%N", comment="%k", reason="%r")
        lines = self.run("squeue", "--noheader", "--all", f"--format={chr(31).join(form.values())}")
        return [dict(zip(form, line.split("\x1f"), strict=True)) for line in lines.splitlines()]

    def state(self, job: str) -> str:
        """A job's state, from the controller's memory: works without accounting and is never late."""
        fields = dict(
            part.split("=", 1) for part in self.run("scontrol", "-o", "show", "job", job).split() if "=" in part
        )
        return fields["JobState"]

    def node_states(self) -> dict[str, str]:
        """State of each node: idle, mixed, allocated, down, …; a trailing * says that it does not answer."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_until(self, check: Callable[[], T], seconds: float = 30, every: float = 0.1) -> T:
        """Call `check` until it returns something true, and return that; SlurmError with the queue after `seconds`."""
        end = time.monotonic() + seconds
        while not (value := check()):
            if time.monotonic() > end:
                raise SlurmError(f"not within {seconds} s; queue: {self.squeue()}; nodes: {self.node_states()}")
            time.sleep(every)
        return value

    def kill_node(self, node: str) -> None:
        """Cut a node's power. Its jobs end as NODE_FAIL, or wait again where they may be requeued."""
        _kill(lambda: _processes(str(self.folder), node))
        self.down(node)  # else the controller takes SlurmdTimeout to notice

    def start_node(self, node: str) -> None:
        """Start a killed node's slurmd, or take a node that is down into service again."""
        if not _processes(str(self.folder), node):
            self._start_slurmd(node)
        else:
            self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self._await(f"slurmd-{node}", lambda: self.node_states()[node] in ("idle", "mixed", "allocated"))

    def down(self, node: str) -> None:
        """What an administrator does to a broken node: no more jobs there, and those that run are lost."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=taken down by a test")

    def restart_controller(self) -> None:
        """Kill slurmctld with SIGKILL and start it again from its saved state; jobs go on meanwhile.

        It saves changes up to 5 s late. What would be lost is not what tests are about, so wait for that first.
        """
        saved, now = self._home / "state" / "job_state", time.time()
        while time.time() < now + 6 and not (saved.exists() and saved.stat().st_mtime > now):
            time.sleep(0.1)
        _kill(lambda: _processes("slurmctld", "-D", "-f", str(self._conf)))
        self._start_controller()
        self._await("slurmctld", lambda: not any(state.endswith("*") for state in self.node_states().values()))

    def _open_room(self) -> None:
        """Make the namespaces: a shell as their first process, which reaps orphans and brings the loopback up.

        The second loopback address is for getaddrinfo: where 127.0.0.1 is all there is, it takes the host for one
        without IPv4, and Slurm cannot resolve even "127.0.0.1".
        """
        network = ["--net"] if self.isolate_network else []
        loopback = "ip link set lo up && ip address add 127.0.0.2/8 dev lo && " if self.isolate_network else ""
        script = f"{loopback}echo > {shlex.quote(str(self._home))}/run/open && sleep infinity & wait"
        tether = [] if self.outlive else ["setpriv", "--pdeathsig", "KILL"]
        unshare = ["unshare", *network, "--pid", "--fork", "--kill-child"]
        room = self._spawn("room", [*tether, *unshare, "sh", "-c", script, str(self.folder), "room"])
        try:
            self._await("room", (self._home / "run" / "open").exists, process=room)
        except SlurmError as error:
            hint = "namespaces are not permitted here; a container needs CAP_SYS_ADMIN (--privileged)"
            raise SlurmError(f"{hint}: {error}") from None
        self._write_shims()

    def _room(self) -> int:
        """Process id of the shell that is the room's first process."""
        for pid in _processes(str(self.folder), "room"):
            if _arguments(pid)[0] == "sh":
                return pid
        raise SlurmError(f"no Slurm runs in {self.folder}: start it")

    def _write_shims(self) -> None:
        """Clients that enter the room's network, and know their configuration whatever the environment says.

        The latter because Snakemake's executor drops SLURM_CONF, as every SLURM_*, before its inner srun. Inside the
        room, where host's process ids mean nothing, the client is called as it is.
        """
        network = f"/proc/{self._room()}/ns/net"
        for client in _CLIENTS:
            real = shutil.which(client, path=_SYSTEM_PATH)
            if not real:
                continue
            shim = self._home / "bin" / client
            shim.write_text(
                "#!/bin/sh\n"
                f"export SLURM_CONF={shlex.quote(str(self._conf))}\n"
                f'[ "$(readlink /proc/self/ns/net)" = "{os.readlink(network)}" ] && exec {real} "$@"\n'
                f"[ -e {network} ] || {{ echo 'this private Slurm does not run: start it' >&2; exit 1; }}\n"
                f'exec nsenter --net={network} {real} "$@"\n'
            )
            shim.chmod(0o755)

    def _spawn(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        environment = {"PATH": _SYSTEM_PATH, "SLURM_CONF": str(self._conf), "HOME": str(self._home / "tmp")}
        with (self._home / "log" / f"{name}.out").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _daemon(self, name: str, *command: str | Path) -> "subprocess.Popen[bytes]":
        """Start a daemon inside the room, without its own fork into the background."""
        return self._spawn(name, ["nsenter", f"--target={self._room()}", "--pid", "--net", *map(str, command)])

    def _await(
        self,
        name: str,
        ready: Callable[[], object],
        process: "subprocess.Popen[bytes] | None" = None,
        seconds: float = 60,
    ) -> None:
        """Wait for a daemon; where it does not come up, say so with the end of its log."""
        end = time.monotonic() + seconds
        problem = ""
        while time.monotonic() < end and (process is None or process.poll() is None):
            try:
                if ready():
                    return
            except SlurmError as error:
                problem = f" ({error})"
            time.sleep(0.05)
        logs = sorted((self._home / "log").glob(f"{name}*"))
        tail = "\n".join(path.read_text(errors="replace")[-2000:] for path in logs)
        raise SlurmError(f"{name} does not come up{problem}. The end of its log:\n{tail}")

    def _start_munge(self) -> None:
        key, run = self._home / "etc" / "munge.key", self._home / "run"
        key.touch(0o400)
        key.write_bytes(secrets.token_bytes(1024))
        files = [f"--key-file={key}", f"--socket={self._socket}", f"--pid-file={run}/munged.pid"]
        files += [f"--seed-file={run}/munged.seed", f"--log-file={self._home}/log/munged.log"]
        # --force: the folder may be one that others can write to, as those under /tmp are
        munged = self._daemon("munged", "munged", "--foreground", "--force", "--num-threads=4", *files)
        self._await("munged", lambda: self.run("munge", "-n", "-S", self._socket), munged)

    def _start_database(self) -> None:
        data, sql = self._home / "db", self._home / "run" / "mysql.sock"
        own = ["--no-defaults", f"--datadir={data}", "--user=root"]
        self.run("mariadb-install-db", *own, "--auth-root-authentication-method=normal", "--skip-test-db")
        sizes = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0"]
        sizes += ["--innodb-lock-wait-timeout=900", "--max-allowed-packet=16M"]  # slurmdbd insists on both
        places = [f"--tmpdir={self._home}/tmp", f"--socket={sql}", f"--pid-file={self._home}/run/mariadbd.pid"]
        places += ["--bind-address=127.0.0.1", f"--port={self._ports['mariadbd']}"]
        mariadbd = self._daemon("mariadbd", "mariadbd", *own, *sizes, *places)
        client = ["mariadb", "--no-defaults", "--user=root", f"--socket={sql}", "--execute"]
        grants = [
            f"grant all on slurm.* to slurm@'{host}' identified by 'slurm'" for host in ("127.0.0.1", "localhost")
        ]
        setup = "; ".join(["create database slurm", *grants])
        self._await("mariadbd", lambda: [self.run(*client, "select 1")], mariadbd)
        self.run(*client, setup)

        slurmdbd = self._daemon("slurmdbd", "slurmdbd", "-D")
        self._await("slurmdbd", lambda: [self.run("sacctmgr", "-n", "list", "cluster")], slurmdbd)
        user = self.run("id", "-un").strip()
        for entry in (
            ["cluster", "private"],
            ["account", "lab", "Description=lab", "Organization=lab"],
            ["user", user, "account=lab", "DefaultAccount=lab"],
        ):
            self.run("sacctmgr", "--immediate", "add", *entry)

    def _start_controller(self) -> None:
        slurmctld = self._daemon("slurmctld", "slurmctld", "-D", "-f", self._conf)
        self._await("slurmctld", lambda: "UP" in self.run("scontrol", "ping"), slurmctld)

    def _start_slurmd(self, node: str) -> None:
        # The shell is the node's first process and reaps orphans; slurmd would not.
        script = f"slurmd -D -f {shlex.quote(str(self._conf))} -N {node} & wait"
        namespace = ["unshare", "--pid", "--fork", "--mount-proc"]
        self._daemon(f"slurmd-{node}", *namespace, "sh", "-c", script, self.folder, node)

    def _write_configuration(self) -> None:
        home, etc = self._home, self._home / "etc"
        self._ports = _free_ports(["mariadbd", "slurmdbd", "slurmctld", *NODES])
        for gpu in range(4):
            os.mknod(home / "dev" / f"nvidia{gpu}", 0o20666, os.makedev(1, 3))  # /dev/null's number
        (etc / "gres.conf").write_text(
            f"NodeName={','.join(GPU_NODES)} Name=gpu Type=a100 File={home}/dev/nvidia[0-3] Flags=nvidia_gpu_env\n"
        )
        (etc / "slurmdbd.conf").touch(0o600)  # it holds a password: slurmdbd refuses a file that others can read
        (etc / "slurmdbd.conf").write_text(
            "AuthType=auth/munge\n"
            f"AuthInfo=socket={self._socket}\n"
            f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={self._ports['slurmdbd']}\n"
            "SlurmUser=root\n"
            "StorageType=accounting_storage/mysql\n"
            f"StorageHost=127.0.0.1\nStoragePort={self._ports['mariadbd']}\n"
            "StorageUser=slurm\nStoragePass=slurm\nStorageLoc=slurm\n"
            f"LogFile={home}/log/slurmdbd.log\nPidFile={home}/run/slurmdbd.pid\n"
        )
        self._conf.write_text("".join(f"{line}\n" for line in self._slurm_conf()))

    def _slurm_conf(self) -> list[str]:
        home, host = self._home, socket.gethostname().split(".")[0]
        settings = {
            "ClusterName": "private",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": self._ports["slurmctld"],
            "SlurmUser": "root",
            "AuthInfo": f"socket={self._socket},cred_expire=10",  # also how long a requeued job waits; else 120 s
            "StateSaveLocation": f"{home}/state",
            "SlurmdSpoolDir": f"{home}/spool/%n",
            "SlurmctldPidFile": f"{home}/run/slurmctld.pid",
            "SlurmdPidFile": f"{home}/run/slurmd-%n.pid",
            "SlurmctldLogFile": f"{home}/log/slurmctld.log",
            "SlurmdLogFile": f"{home}/log/slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MailProg": "/bin/true",
            "PropagateResourceLimits": "NONE",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 500,
            "GresTypes": "gpu",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=2",
            "JobAcctGatherParams": "OverMemoryKill",  # memory is enforced without cgroups
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "ReturnToService": 2,
            "SlurmdTimeout": 15,
            "KillWait": self.kill_wait,
            # every number smaller than a cluster's: tests wait for the scheduler
            "SchedulerParameters": "sched_interval=2,sched_min_interval=0,batch_sched_delay=0,bf_interval=2,"
            "default_queue_depth=500",
            "PriorityType": "priority/basic",
            "SlurmdParameters": "config_overrides",  # CPUs and memory as stated, not as found
        }
        if self.accounting:
            settings |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": self._ports["slurmdbd"],
                "AccountingStoragePass": self._socket,  # AuthInfo alone is not heeded here: sacctmgr would hang
                "AccountingStorageTRES": "gres/gpu,gres/gpu:a100",
                "AccountingStorageEnforce": "associations,limits,qos",
                "AccountingStoreFlags": "job_comment",
            }
        else:
            settings |= {"AccountingStorageType": "accounting_storage/none"}
        lines = [f"{key}={value}" for key, value in settings.items()]
        shape = f"CPUs={self.cpus} CoresPerSocket={self.cpus} ThreadsPerCore=1 RealMemory={self.memory_mb}"
        for node in NODES:
            place = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={self._ports[node]}"
            gpus = "Gres=gpu:a100:4 Feature=a100" if node in GPU_NODES else ""
            lines.append(f"NodeName={node} {place} {shape} {gpus} State=UNKNOWN")
        limits = "MaxTime=1-00:00:00 DefaultTime=00:10:00 State=UP"
        lines += [
            f"PartitionName=gpu Nodes={','.join(GPU_NODES)} {limits} PriorityTier=10 PreemptMode=off",
            f"PartitionName=cpu Nodes=ALL Default=YES {limits} PriorityTier=10 PreemptMode=off",
            f"PartitionName=scav Nodes=ALL {limits} PriorityTier=1 PreemptMode=requeue",
        ]
        return lines


def _free_ports(names: list[str]) -> dict[str, int]:
    """A free port for each name, below those that Linux gives to outgoing connections."""
    ports: dict[str, int] = {}
    for port in random.sample(range(20000, 32000), 12000):
        if len(ports) == len(names):
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports[names[len(ports)]] = port
    return ports


def _arguments(pid: int) -> list[str]:
    """A process's command line; empty for one that has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _processes(*ending: str) -> list[int]:
    """The processes whose command line ends so.

    Found anew each time rather than noted in files: the notes of a killed test would name processes of others.
    """
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if tuple(_arguments(pid)[-len(ending) :]) == ending]


def _kill(find: Callable[[], list[int]]) -> None:
    """Kill with SIGKILL what `find` finds until it finds nothing."""
    end = time.monotonic() + 10
    while pids := find():
        if time.monotonic() > end:
            raise SlurmError(f"cannot kill {pids}")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=["start", "stop", "env", "status"])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--no-accounting", action="store_true", help="a site without a database")
    parser.add_argument("--with-network", action="store_true", help="jobs may use the host's network")
    args = parser.parse_args()
    slurm = PrivateSlurm(
        args.folder, accounting=not args.no_accounting, isolate_network=not args.with_network, outlive=True
    )
    try:
        if args.command == "start":
            slurm.start()
        elif args.command == "stop":
            slurm.stop()
        elif args.command == "status":
            print(slurm.run("sinfo", "--format=%P %N %T %c CPUs %m MB %G"), slurm.run("squeue"), sep="\n")
        else:
            print(f"export SLURM_CONF={shlex.quote(slurm.environment['SLURM_CONF'])}")
            print(f"export PATH={shlex.quote(str(slurm.folder / 'slurm' / 'bin'))}:$PATH")
    except SlurmError as error:
        sys.exit(f"private_slurm: {error}")


if __name__ == "__main__":
    main()
