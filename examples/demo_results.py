"""Read the demo's results back through Metaflow's Client API."""

from metaflow import Flow, namespace

namespace(None)
run = next(iter(Flow("DemoFlow")))
tasks = {task.path_components[2]: task for step in run for task in step}
end = tasks["end"].data  # what the steps before it left is passed on
squares = sorted(task.data.result for task in run["square"])
print(f"{run.pathspec}, read back through the Client:")
print(f"  squares        {squares}, total {end.total}")
print(f"  flaky          went through at attempt {end.attempt}")
print(f"  out of reach   {', '.join(end.out_of_reach)}")
metadata = {datum.name: datum.value for datum in tasks["pry"].metadata}
print(
    f"  sandbox        {metadata['sandbox-backend']} {metadata['sandbox-id']}, "
    f"isolation {metadata['sandbox-isolation']}, network {metadata['sandbox-network']}"
)
assert squares == [n**2 for n in range(8)], squares
assert end.attempt == 1, end.attempt
assert not end.within_reach, end.within_reach
