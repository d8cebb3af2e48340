"""Read the cloud demo's results back through Metaflow's Client API."""

from metaflow import Flow, namespace

namespace(None)
run = next(iter(Flow("CloudDemoFlow")))
squares = sorted(task.data.result for task in run["square"])
print(f"{run.pathspec}, read back through the Client:")
print(f"  squares        {squares}, total {run.data.total}")
print(f"  keys inside    {run.data.keys_inside or 'none'}")
sandboxes = {}
for task in [*run["square"], *run["add"]]:
    metadata = {datum.name: datum.value for datum in task.metadata}
    sandboxes.setdefault(metadata["sandbox-backend"], set()).add(metadata["sandbox-id"])
for name, ids in sandboxes.items():
    print(f"  {name:14} {' '.join(sorted(ids))}")
assert run.data.total == sum(n**2 for n in range(6)), run.data.total
assert not run.data.keys_inside, run.data.keys_inside
assert {name: len(ids) for name, ids in sandboxes.items()} == {"e2b": 6, "daytona": 1}, sandboxes
