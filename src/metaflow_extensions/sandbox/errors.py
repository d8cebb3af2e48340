"""The one error tree of metaflow-sandbox.

    SandboxError
      UnknownBackend        the name is not built in, not an entry point, not an import path
      BackendUnavailable    the backend exists but cannot run here
      UnsupportedOption     the backend cannot honour an option that was asked for
      PackagesFailed        the step's packages can't be resolved, fetched or installed
      StartFailed           the sandbox or its command could not be started; nothing of the user's ran
      SandboxLost           the sandbox went away while a command ran
      QuotaExceeded         the provider refuses more for now; ``retry_after`` is in seconds or None
      CommandTimeout        a deadline of ours passed
      RelayError            a frame, a verb or a path that the relay does not accept
      ServiceError          the metadata service cannot start, answer or do what it is asked

An exit code, a timeout and a provider failure are three outcomes: the first is an ``int``, the
others are exceptions from this tree. Every message says the cause and what mends it, and
docs/troubleshooting.md has an entry for each class, under the class's name in small letters.
"""

from __future__ import annotations


class SandboxError(Exception):
    """Root of the tree; never raised itself.

    See docs/troubleshooting.md#sandboxerror.
    """


class UnknownBackend(SandboxError):
    """No backend of that name.

    See docs/troubleshooting.md#unknownbackend.
    """


class BackendUnavailable(SandboxError):
    """The backend cannot run on this machine; the message names the remedy.

    See docs/troubleshooting.md#backendunavailable.
    """


class UnsupportedOption(SandboxError):
    """An option that the backend cannot honour; raised before anything is started.

    See docs/troubleshooting.md#unsupportedoption.
    """


class PackagesFailed(SandboxError):
    """A step's packages can't be resolved, fetched, installed or kept; user code has not run.

    See docs/troubleshooting.md#packagesfailed.
    """


class StartFailed(SandboxError):
    """The sandbox or a command in it could not be started; user code has not run.

    See docs/troubleshooting.md#startfailed.
    """


class SandboxLost(SandboxError):
    """The sandbox went away under a running command.

    See docs/troubleshooting.md#sandboxlost.
    """


class QuotaExceeded(SandboxError):
    """The provider refuses more sandboxes for now.

    ``retry_after`` is in seconds, or None when the provider did not say.
    See docs/troubleshooting.md#quotaexceeded.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CommandTimeout(SandboxError):
    """A deadline set by us passed; the process tree has been killed.

    See docs/troubleshooting.md#commandtimeout.
    """


class RelayError(SandboxError):
    """A frame, verb, path or value that the relay refuses.

    See docs/troubleshooting.md#relayerror.
    """


class ServiceError(SandboxError):
    """The metadata service cannot start here, does not answer, or refuses a request.

    See docs/troubleshooting.md#serviceerror.
    """
