"""Host memory that CUDA knows of: a GPU reads and writes it by itself, beside what it computes."""

import contextlib

import torch

# On a system with one address space for host and devices, which is every one here, it is mapped, and for all devices.
FLAGS = 0  # cudaHostRegisterDefault


class NotRegistered(Exception):  # noqa: N818
    """CUDA's reason."""


class Registration:
    """Pieces of host memory that are registered with CUDA until `undo`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._addresses: list[int] = []

    def add(self, address: int, size_bytes: int) -> None:
        """Registers a piece, which begins and ends with a page of the system.

        Raises: NotRegistered with CUDA's reason; what was registered before stays so.
        """
        with torch.cuda.device(self._device):
            cudart = torch.cuda.cudart()
            self._addresses.append(address)  # before the call: an interrupt may come right behind it
            result = cudart.cudaHostRegister(address, size_bytes, FLAGS)
            if int(result) != 0:
                self._addresses.pop()
                _forget_error(self._device)
                raise NotRegistered(cudart.cudaGetErrorString(result))

    def undo(self) -> None:
        """No piece is registered; what the device was still copying is done before."""
        if not self._addresses:
            return
        with torch.cuda.device(self._device):
            try:
                torch.cuda.synchronize(self._device)
            finally:  # a device that has failed copies no more
                self._unregister()

    def _unregister(self) -> None:
        cudart = torch.cuda.cudart()
        while self._addresses:
            if int(cudart.cudaHostUnregister(self._addresses[-1])) != 0:
                _forget_error(self._device)  # it never was: an interrupt came before
            self._addresses.pop()


def _forget_error(device: torch.device) -> None:
    """A call that failed leaves an error behind, which the next launch of a kernel, here of this one, would report."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device=device)
