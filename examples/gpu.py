"""A step with a GPU: on an engine with NVIDIA's runtime, in an image with PyTorch."""

from metaflow import FlowSpec, docker, step


class GPU(FlowSpec):
    """Multiply two matrices on the card, without a network."""

    @step
    def start(self):
        """Nothing to prepare."""
        self.next(self.multiply)

    @docker(image="pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime", gpu=1, memory=8192)
    @step
    def multiply(self):
        """Import inside the step: the launcher needs no PyTorch."""
        import torch

        left, right = (torch.rand(1024, 1024, device="cuda") for _ in range(2))
        self.device, self.trace = torch.cuda.get_device_name(), float((left @ right).trace())
        self.next(self.end)

    @step
    def end(self):
        """Report."""
        print("trace", self.trace, "on", self.device)


if __name__ == "__main__":
    GPU()
