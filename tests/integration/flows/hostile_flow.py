"""A step that attacks its launcher through the relay, between two that trust it and run outside."""

# As short as an attacker writes it.
# ruff: noqa: PTH108, PTH115, PTH119, PTH123, PTH208, SIM115, UP031

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time

from metaflow import FlowSpec, Parameter, current, sandbox, secrets, step

PACKED = {"cas_raw": False, "cas_version": 1}


class Bomb:
    """Whoever unpickles it creates the file that it names."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (self.canary, "w")


class Model:
    """A class of the user's."""

    weight = 7


def option(name):
    return sys.argv[sys.argv.index(name) + 1]


class Attack:
    """Speaks to the relay as Metaflow's own code would never do; keeps each answer."""

    def __init__(self, flow):
        from metaflow_extensions.sandbox.guest.client import RelayClient, RelayRefused

        self.client, self.refusal = RelayClient(), RelayRefused
        self.store = "{}@{}".format(option("--datastore"), option("--datastore-root"))
        self.flow, self.run, self.step, self.task = (
            flow.name,
            current.run_id,
            current.step_name,
            current.task_id,
        )
        self.own = "/".join([self.flow, self.run, self.step, self.task])
        self.attempt = str(current.retry_count)
        self.canary, self.victim = flow.canary, json.loads(flow.victim)
        self.answers = {}

    def try_to(self, name, verb, **fields):
        try:
            answer = self.client.call(verb, **fields)
        except self.refusal as error:
            answer = str(error)
        self.answers[name] = answer if isinstance(answer, str) else f"let through: {str(answer)[:200]}"

    def try_to_save(self, name, path, content, meta=None, overwrite=True, store=None):
        try:
            self.client.save(store or self.store, [(path, io.BytesIO(content), meta)], overwrite)
        except self.refusal as error:
            self.answers[name] = str(error)
        else:
            self.answers[name] = "let through"

    def blob(self, content):
        key = hashlib.sha1(content).hexdigest()
        path = f"{self.flow}/data/{key[:2]}/{key}"
        self.client.save(self.store, [(path, io.BytesIO(gzip.compress(content)), PACKED)], False)
        return key

    def bomb(self, name):
        return self.blob(pickle.dumps(Bomb(self.canary + "-" + name), protocol=4))

    def document(self, objects, **encodings):
        info = {n: {"size": 1, "type": "x", "encoding": encodings.get(n, "gzip+pickle-v4")} for n in objects}
        head = {"datastore": "local", "version": "1.0", "attempt": 0, "python_version": "3"}
        return json.dumps({**head, "objects": objects, "info": info}).encode()

    def hand_in(self, name, objects, **encodings):
        path = f"{self.own}/{self.attempt}.data.json"
        self.try_to_save(name, path, self.document(objects, **encodings))


def attack_results(attack):
    """Have the scheduler, or the client, unpickle what this step wrote."""
    for name in ("_transition", "_foreach_stack", "_task_ok", "_success"):
        attack.hand_in(name, {name: attack.bomb(name)})
    yes, var = attack.blob(pickle.dumps(True, 4)), attack.blob(pickle.dumps("things", 4))
    attack.hand_in("ubf", {"_unbounded_foreach": yes, "_foreach_var": var, "things": attack.bomb("things")})
    attack.hand_in("encoding", {"_task_ok": attack.blob(b"[1]")}, _task_ok="json")
    attack.try_to_save("done", f"{attack.own}/{attack.attempt}.DONE.lock", b"")
    for name in ("_success", "_task_ok", "model"):
        artifact = {
            "name": name, "ds_type": "local", "ds_root": option("--datastore-root"), "url": None,
            "type": "gzip+pickle-v4", "sha": attack.bomb("client"),
        }  # fmt: skip
        attack.try_to("register " + name, "register_artifacts", items=[artifact])


def attack_documents(attack):
    """Hand in lists of artifacts that readers trip over."""
    path = f"{attack.own}/{attack.attempt}.data.json"
    honest = attack.document({"x": attack.blob(pickle.dumps(1))})
    attack.try_to_save("nested", path, honest[:-1] + b', "a": ' + b"[" * 5000 + b"]" * 5000 + b"}")
    attack.try_to_save("huge", path, honest[:-1] + b', "a": "' + b"x" * (17 << 20) + b'"}')
    attack.try_to_save("parts", path, honest[:-1] + b', "a": [' + b"[]," * 600000 + b"[]]}")
    attack.try_to_save("duplicate", path, honest[:-1] + b', "objects": {}}')
    attack.try_to_save("no json", path, b"\x80\x04.")
    attack.hand_in("missing", {"_task_ok": "0" * 40})


def attack_others(attack):
    """Reach what belongs to other tasks, runs and flows, or to the launcher."""
    run, flow, victim = attack.run, attack.flow, attack.victim
    evil, key = gzip.compress(b"evil"), victim["key"]
    attack.try_to_save("overwrite a blob", f"{flow}/data/{key[:2]}/{key}", evil, PACKED)
    others = {
        "other run": "{}/{}/start/1".format(flow, victim["run"]),
        "start": f"{flow}/{run}/start/1",
        "parameters": f"{flow}/{run}/_parameters/0",
        "other flow": f"Other/{run}/start/1",
        "dots": attack.own + "/../1",
        "absolute": "/" + attack.own,
    }
    for name, place in others.items():
        for file in ("0.data.json", "0.DONE.lock", "1.data.json"):
            attack.try_to_save(f"write {name} {file}", place + "/" + file, b"{}")
        if name not in ("start", "parameters"):
            attack.try_to("read " + name, "load", store=attack.store, path=place + "/0.data.json")
            attack.try_to("list " + name, "list_content", store=attack.store, paths=[place])
            attack.try_to("probe " + name, "is_file", store=attack.store, paths=[place + "/0.data.json"])
    for file in ("1.data.json", "0.runtime_stdout.log", "0._resume_leader", "0.data.json_meta"):
        attack.try_to_save("own " + file, attack.own + "/" + file, b"{}")
    card = f"{flow}/runs/{run}/steps/start/tasks/1/cards/x.html"
    attack.try_to_save("card", card, b"<script>")
    attack.try_to_save(
        "card dots", card.replace("start", attack.step).replace("cards/x", "../../x"), b"<script>"
    )
    attack.try_to_save("other store", attack.own + "/0.x", b"", store="local@/")
    claim = {"run": victim["run"], "task": "1", "step": "start", "identity": "x", "attempt": 5}
    attack.try_to("claim", "load", store=attack.store, path=others["other run"] + "/0.data.json", **claim)


def attack_metadata(attack):
    """Register and ask what is not this task's."""
    for field, value in (
        ("../../../escaped", "x"), ("a/../../escaped", "x"), ("ds-root", "/"), ("code-package", "{}"),
        ("attempt", "7"),
        ("log_location_stdout", '{"ds_type": "local", "location": "/etc/passwd", "attempt": 0}'),
        ("sandbox-isolation", "vm"), ("attempt-done_9999999999999", "x"),
    ):  # fmt: skip
        item = {"field": field, "value": value, "type": "x", "tags": ["attempt_id:" + attack.attempt]}
        attack.try_to("field " + field, "register_metadata", items=[item])
    item = {"field": "x", "value": "x", "type": "x", "tags": ["attempt_id:3"]}
    attack.try_to("tag", "register_metadata", items=[item])
    flow, other = attack.flow, attack.victim["run"]
    for name, kind, sub_kind, path in (
        ("run", "run", "self", [flow, other]),
        ("dots", "step", "self", [flow, attack.run, "../" + other]),
        ("more dots", "task", "metadata", [flow, attack.run, "..", other]),
        ("runs", "flow", "run", [flow, attack.run]),
        ("flows", "root", "flow", [flow, attack.run]),
        ("pattern", "artifact", "self", [flow, attack.run, "start", "1", "*"]),
    ):
        attack.try_to("ask " + name, "metadata_object", kind=kind, sub_kind=sub_kind, filters={}, path=path)
    base = {"ds_type": "local", "ds_root": "/", "url": None, "type": "pickle-v4", "sha": "0" * 40}
    attack.try_to("artifact elsewhere", "register_artifacts", items=[{"name": "x", **base}])
    attack.try_to("artifact name", "register_artifacts", items=[{"name": "../../x", **base}])
    for name, fields in {
        "other": {"id": "other", "options": {}},
        "options": {"id": "", "options": {"env_vars": {"A": "2"}}},
        "aws": {
            "type": "aws-secrets-manager",
            "id": "prod",
            "options": {},
            "role": "arn:aws:iam::1:role/admin",
        },
    }.items():
        attack.try_to("secret " + name, "secret", **{"type": "inline", "role": "admin", **fields})


def attack_channel(attack):
    """Send what is no request, and take all connections."""
    address = os.environ["METAFLOW_SANDBOX_RELAY"].partition(":")[2]

    def raw(data):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(20)
            one.connect(address)
            one.sendall(data)
            try:
                return one.recv(100)
            except ConnectionError:
                return b""

    def frame(header):
        return struct.pack("!II", len(header), 0) + header

    deep = b'{"verb":' + b"[" * 100000 + b"]" * 100000 + b"}"
    for name, data in {
        "garbage": b"GET / HTTP/1.1\r\n\r\n", "no verb": frame(b'{"verb":"eval"}'), "deep": frame(deep),
        "length": b"\xff" * 8, "no object": frame(b"[]"), "not text": frame(b"\xff\xff"),
    }.items():  # fmt: skip
        attack.answers["raw " + name] = "refused: cut off" if raw(data) == b"" else "let through"
    attack.try_to("started", "started")
    attack.try_to("ended", "ended", signal=9)
    flood, over = [], 0
    for _ in range(200):
        one = socket.socket(socket.AF_UNIX)
        one.connect(address)
        flood.append(one)
    time.sleep(0.3)
    for one in flood:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            over += one.recv(1) == b""
        one.close()
    attack.answers["flood"] = "refused: %d connections" % over if over > 100 else "let through"


def attack_machine(attack):
    """Change the code, the relay's socket, and the processes around."""
    notes = {}

    def note(name, act):
        try:
            act()
            notes[name] = "done"
        except OSError as error:
            notes[name] = type(error).__name__

    with open(os.path.basename(sys.argv[0]), "a") as flow:  # the step's own copy, which nobody reads again
        flow.write("\nopen(%r, 'w')\n" % (attack.canary + "-flow"))
    with open("sitecustomize.py", "w") as planted:
        planted.write("open(%r, 'w')\n" % (attack.canary + "-site"))
    code = "/run/metaflow-sandbox/code"
    note("write code", lambda: open(code + "/" + os.path.basename(sys.argv[0]), "a"))
    note("plant code", lambda: open(code + "/json.py", "w"))
    note("unlink relay", lambda: os.unlink("/run/metaflow-sandbox/relay"))
    note("write package", lambda: open(sys.modules["metaflow"].__file__, "a"))
    descriptors = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors[number] = os.readlink("/proc/self/fd/" + number)
        except OSError:
            continue
    parents = {}
    for number in range(64):
        try:
            descriptor = os.open("/proc/%d/fd/%d" % (os.getppid(), number), os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            parents[number] = type(error).__name__
        else:
            os.write(descriptor, b"[sandbox] forged by way of the guest\n")
            os.close(descriptor)
    return notes, descriptors, parents


def print_forgeries():
    out = sys.stdout
    forged = "[MFLOG|0|1999-01-01T00:00:00.000000Z|runtime|x]forged by the step"
    out.write(forged + "\n[!" + forged + "\n[sandbox] bubblewrap forged · isolation vm\n")
    out.write("\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\rrewound\x08\x9b1m\x85\n")
    out.flush()
    sys.stdout.buffer.write(b"raw \x9b1m \xff\xfe \x00 end\n")
    sys.stdout.buffer.flush()


def flood(attack):
    """Send more than the launcher is to hold: bombs, headers, records, bytes."""
    packer, digest = gzip.zlib.compressobj(9, wbits=31), hashlib.sha1()
    packed = b""
    for _ in range(512):
        digest.update(bytes(1 << 20))
        packed += packer.compress(bytes(1 << 20))
    key = digest.hexdigest()
    attack.try_to_save("bomb", f"{attack.flow}/data/{key[:2]}/{key}", packed + packer.flush(), PACKED)

    def large_header():
        from metaflow_extensions.sandbox.guest.client import Connection

        connection = Connection(os.environ["METAFLOW_SANDBOX_RELAY"])
        header = b'{"verb":"is_file","a":[' + b"{}," * 190000 + b"1]}"
        connection.writer.write(struct.pack("!II", len(header), 0) + header)
        with contextlib.suppress(attack.refusal):
            connection._answer()

    threads = [threading.Thread(target=large_header) for _ in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    item = {"field": "x", "value": "x" * 100, "type": "x", "tags": []}
    for _ in range(200):
        attack.try_to("records", "register_metadata", items=[item] * 200)
        if "refused" in attack.answers["records"]:
            break
    content = os.urandom(1 << 20)
    for number in range(100):
        blob = content + b"%d" % number
        key = hashlib.sha1(blob).hexdigest()
        path = f"{attack.flow}/data/{key[:2]}/{key}"
        attack.try_to_save("upload", path, blob, {"cas_raw": True, "cas_version": 1})
        if "refused" in attack.answers["upload"]:
            break


class HostileFlow(FlowSpec):
    """start (outside) → attack (inside) → after and end (outside)."""

    attack = Parameter("attack", default="none")
    canary = Parameter("canary", default="/nonexistent/canary")
    victim = Parameter("victim", default="{}")

    def next(self, *steps, **how):
        super().next(*steps, **how)
        if self.attack == "transition" and current.step_name == "strike":
            self._transition = Bomb(self.canary)

    @step
    def start(self):
        self.inherited = Model() if self.attack.startswith("vetted") else None
        self.secret_of_the_run = "nobody else's"
        self.next(self.strike)

    @secrets(sources=[{"type": "inline", "id": "", "options": {"env_vars": {"DECLARED": "1"}}}])
    @sandbox
    @step
    def strike(self):
        self.honest = {"numbers": [1, 2.5], "text": "x", "nothing": None, "bytes": b"y", "set": {1}}
        if self.attack == "shrug":
            attack = Attack(self)
            attack_results(attack)
            attack_others(attack)
            attack_metadata(attack)
            attack_channel(attack)
            self.notes = attack_machine(attack)
            self.answers = attack.answers
            print_forgeries()
        elif self.attack == "documents":
            attack = Attack(self)
            attack_documents(attack)
            self.answers = attack.answers
        elif self.attack == "exit":
            attack = Attack(self)
            attack.hand_in("results", {"_task_ok": attack.bomb("exit"), "_transition": attack.bomb("exit")})
            attack.try_to_save("done", f"{attack.own}/0.DONE.lock", b"")
            os._exit(0)
        elif self.attack == "flood":
            attack = Attack(self)
            flood(attack)
            print("FLOOD " + json.dumps(attack.answers), flush=True)
        elif self.attack == "endless":
            while True:
                print("x" * 1000)
        elif self.attack == "kill":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        elif self.attack == "vetted-custom":
            self.mine = Model()
            self.mine.weight = 8  # or it would be the inherited one
        self.next(self.after)

    @step
    def after(self):
        print("after: outside", os.environ.get("METAFLOW_SANDBOX_GUEST"))
        self.next(self.end)

    @step
    def end(self):
        print("end", self.honest)


if __name__ == "__main__":
    HostileFlow()
