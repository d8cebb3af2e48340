"""Call a native library that may crash: the crash is the sandbox's, and the flow goes on."""

import ctypes

from metaflow import FlowSpec, catch, sandbox, step


class NativeLibrary(FlowSpec):
    """Half of the inputs make the library read where nothing is."""

    @step
    def start(self):
        """Name addresses: 0 is none of anybody's."""
        self.inputs = [b"a string", 0, b"another one", 0]
        self.next(self.measure, foreach="inputs")

    @catch(var="crash", print_exception=False)
    @sandbox(memory=1024)
    @step
    def measure(self):
        """Ask libc for a string's length; at address 0 that is a segmentation fault."""
        strlen = ctypes.CDLL(None).strlen
        strlen.argtypes = [ctypes.c_char_p if self.input else ctypes.c_void_p]
        self.length = strlen(self.input)
        self.next(self.join)

    @step
    def join(self, inputs):
        """Tell the crashes from the results."""
        self.lengths = [one.length for one in inputs if not one.crash]
        self.crashes = sum(bool(one.crash) for one in inputs)
        self.next(self.end)

    @step
    def end(self):
        """Report."""
        print("lengths", self.lengths, "crashes", self.crashes)


if __name__ == "__main__":
    NativeLibrary()
