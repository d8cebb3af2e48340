"""Sandboxes of Daytona: ``backend`` translates the interface, the others are its parts.

``client`` makes the SDK's calls, each with a deadline and in a thread of its own, ``failures`` says what
went wrong in our words. ``parameters`` turns a spec into the SDK's, ``creation`` makes a sandbox once and
only once, ``leftovers`` ends it. ``toolbox`` calls into a sandbox and repeats what was lost on the way;
``process`` and ``feeder`` follow a command through it, with ``guest/holder.py`` on the other side.
"""
