"""ONNX Runtime sessions whose inputs and outputs lie in buffers of their own on a device.

A plain ``run`` makes them anew each time. With a CUDA graph they have to stay where they are, since
a graph that was captured reads and writes the addresses that it was captured with.
Sources: onnxruntime.ai, "I/O Binding" and "Using CUDA Graphs (Preview)".
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base import Placement, SessionError, TensorSpec, session_error
from ..onnxruntime import OrtSession

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Device:
    """Where buffers are, as ONNX Runtime calls it: "cuda" and its number, or "cpu" and 0."""

    kind: str
    number: int = 0


class DeviceSession(OrtSession):
    """A session whose runs are the plain ones, and that can also run on what lies on its device."""

    def __init__(self, session: Any, place: Callable[[Any], Placement], device: Device) -> None:
        super().__init__(session, place)
        self._device = device

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See ``Resident``."""
        arrays = self._checked(feeds)
        try:
            return self._resident_buffers(tuple(array.shape for array in arrays)).resident(arrays)
        except SessionError:
            raise
        except Exception as error:  # of onnxruntime's own kinds, without a base
            raise session_error(error) from error

    def _resident_buffers(self, shapes: Shapes) -> _Buffers:
        return self._buffers(shapes)

    def _buffers(self, shapes: Shapes) -> _Buffers:
        return _Buffers(self._session, self.inputs, self.outputs, shapes, self._device)

    def _checked(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The feeds in the order of the inputs: a buffer takes whatever bytes it is given."""
        if set(feeds) != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise SessionError(f"inputs {', '.join(feeds) or 'none'}, not {wanted}")
        arrays = []
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name]).reshape(np.shape(feeds[spec.name]))
            fits = len(array.shape) == len(spec.shape) and all(
                wanted in (None, size) for wanted, size in zip(spec.shape, array.shape, strict=True)
            )
            if array.dtype != np.dtype(spec.dtype) or not fits:
                said = f"{array.dtype} {list(array.shape)}"
                raise SessionError(f"input {spec.name} is {said}, not {spec.dtype} {spec.shape}")
            arrays.append(array)
        return arrays


class BoundSession(DeviceSession):
    """A session that copies into its own buffers, runs, and copies out.

    Several threads may run at once, each in buffers that nobody else uses meanwhile. With
    ``captured`` the session replays one CUDA graph: of the shapes of the first run, and of one run
    at a time.
    """

    def __init__(
        self, session: Any, place: Callable[[Any], Placement], device: Device, *, captured: bool
    ) -> None:
        super().__init__(session, place, device)
        self._captured = captured
        self._lock = threading.Lock()
        self._free: dict[Shapes, list[_Buffers]] = {}
        if captured:
            _refuse_open(self.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``. Raises ``SessionError`` for a failed run."""
        arrays = self._checked(feeds)
        shapes = tuple(array.shape for array in arrays)
        try:
            if self._captured:
                with self._lock:
                    return self._kept(shapes).run(arrays)
            with self._lock:
                free = self._free.setdefault(shapes, [])
                buffers = free.pop() if free else None
            buffers = buffers or self._buffers(shapes)
            try:
                return buffers.run(arrays)
            finally:
                with self._lock:
                    free.append(buffers)
        except SessionError:
            raise
        except Exception as error:  # of onnxruntime's own kinds, without a base
            raise session_error(error) from error

    def close(self) -> None:
        """See ``Session.close``."""
        self._free.clear()
        super().close()

    def _kept(self, shapes: Shapes) -> _Buffers:
        """The only buffers there are."""
        if shapes not in self._free:
            if self._free:
                (first,) = self._free
                raise SessionError(f"a CUDA graph of inputs {first} takes no {shapes}")
            self._free[shapes] = [self._buffers(shapes)]
        return self._free[shapes][0]

    def _resident_buffers(self, shapes: Shapes) -> _Buffers:
        """Of a captured session those of its graph, which is what runs then."""
        return self._kept(shapes) if self._captured else self._buffers(shapes)


class BoundSessions(BoundSession):
    """Several captured sessions of one model: a graph replays one run at a time, each its own."""

    def __init__(self, sessions: Sequence[BoundSession]) -> None:
        first = sessions[0]
        super().__init__(first._session, first._place, first._device, captured=True)
        self._sessions = sessions
        self._idle: queue.SimpleQueue[BoundSession] = queue.SimpleQueue()
        for session in sessions:
            self._idle.put(session)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See ``Session.run``: by whichever has nothing to do."""
        session = self._idle.get()
        try:
            return session.run(feeds)
        finally:
            self._idle.put(session)

    def resident(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        """See ``Resident``. Of one of them."""
        return self._sessions[0].resident(feeds)

    def close(self) -> None:
        """See ``Session.close``."""
        for session in self._sessions:
            session.close()
        super().close()


class _Buffers:
    """Tensors on a device, one for each input, and for each output whose shape is known."""

    def __init__(
        self,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        shapes: Shapes,
        device: Device,
    ) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = []
        for spec, shape in zip(inputs, shapes, strict=True):
            value = _tensor(shape, spec, device)
            self._binding.bind_ortvalue_input(spec.name, value)
            self._inputs.append(value)
        batch = shapes[0][0] if shapes and shapes[0] else None
        settled = {spec.name: _settled(spec, batch) for spec in outputs}
        self._open = [name for name, shape in settled.items() if shape is None]
        self._device = device
        self._bound = [name for name in settled if name not in self._open] + self._open
        for spec in outputs:
            shape = settled[spec.name]
            if shape is not None:
                self._binding.bind_ortvalue_output(spec.name, _tensor(shape, spec, device))

    def resident(self, arrays: Sequence[np.ndarray]) -> Callable[[], None]:
        self._fill(arrays)

        def run() -> None:
            try:
                self._session.run_with_iobinding(self._binding)
                self._binding.synchronize_outputs()
            except Exception as error:  # of onnxruntime's own kinds, without a base
                raise session_error(error) from error

        return run

    def run(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        self._fill(arrays)
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return dict(zip(self._bound, self._binding.copy_outputs_to_cpu(), strict=True))

    def _fill(self, arrays: Sequence[np.ndarray]) -> None:
        for value, array in zip(self._inputs, arrays, strict=True):
            value.update_inplace(array)
        for name in self._open:  # else it would keep the shape of the run before
            self._binding.bind_output(name, self._device.kind, self._device.number)
        # The copies are on another stream than the session's.
        self._binding.synchronize_inputs()


def _tensor(shape: Sequence[int], spec: TensorSpec, device: Device) -> Any:
    import onnxruntime

    try:
        kind = np.dtype(spec.dtype)
    except TypeError as error:
        raise SessionError(f"{spec.name} is {spec.dtype}: only numbers can be bound") from error
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        list(shape), kind.type, device.kind, device.number
    )


def _settled(spec: TensorSpec, batch: int | None) -> tuple[int, ...] | None:
    """An output's shape, whose open first side is the inputs' batch; ``None`` if others are."""
    shape = spec.shape
    if shape and shape[0] is None and batch is not None:
        shape = (batch, *shape[1:])
    return None if None in shape else tuple(size for size in shape if size is not None)


def _refuse_open(outputs: Sequence[TensorSpec]) -> None:
    for spec in outputs:
        if None in spec.shape[1:]:
            raise SessionError(
                f"cuda_graph needs fixed shapes; output {spec.name} has {spec.shape}"
            )
