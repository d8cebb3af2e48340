"""Read the demo's results back through Metaflow's Client API."""

from metaflow import Flow, namespace

namespace(None)
run = next(iter(Flow("DemoFlow")))
tasks = {task.path_components[2]: task for step in run for task in step}
squares = sorted(task.data.result for task in run["square"])
print(f"{run.pathspec}, read back through the Client:")
print(f"  squares        {squares}, total {tasks['join'].data.total}")
print(f"  flaky          went through at attempt {tasks['flaky'].data.attempt}")
print(f"  out of reach   {', '.join(tasks['pry'].data.out_of_reach)}")
metadata = {datum.name: datum.value for datum in tasks["pry"].metadata}
print(
    f"  sandbox        {metadata['sandbox-backend']} {metadata['sandbox-id']}, "
    f"isolation {metadata['sandbox-isolation']}, network {metadata['sandbox-network']}"
)
assert squares == [n**2 for n in range(8)], squares
assert tasks["flaky"].data.attempt == 1
assert len(tasks["pry"].data.out_of_reach) == 5, tasks["pry"].data.out_of_reach
