"""Phases captured as graphs: on a GPU, one launch instead of hundreds.

The first updates of a phase are executed without a graph. Then its work is captured once, and replayed in every further
step. A graph keeps its tensors, and every number on the host, as they were at capture, so a phase whose work replaces
any of them is not captured; a log line says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import torch

from ganrun.base.ranks import ranks
from ganrun.contracts.losses import Phase
from ganrun.training.batches import Rows
from ganrun.training.held import HeldTensors, HostNumbers, Owners, drawn_on_host
from ganrun.training.rates import can_be_captured
from ganrun.training.run import Run
from ganrun.training.state import SlotState

log = logging.getLogger("ganrun")

WARM_UP = 3
"""Steps of a phase before its capture: libraries choose their kernels, optimisers and sums create their state, and
differences between two steps become visible."""

Work = Callable[[], None]


class Graph(Protocol):
    """Work that is captured once and then replayed, with the tensors of the capture."""

    def rehearse(self, work: Work) -> None:
        """Do the work on the stream of the capture."""

    def capture(self, work: Work) -> None:
        """Capture the work without executing it: tensors and the random stream are unchanged afterwards.

        Raises:
            Exception: if it cannot be captured. The random stream is unchanged; graphs captured earlier must not be
                replayed any more.
        """

    def replay(self) -> None:
        """Do the captured work."""


Updates = Callable[[Sequence[Rows | None]], None]
"""The updates of a step, on the rows of each."""

Pool = Callable[[], Graph]
"""Makes graphs that share their memory: they are replayed one after another, in the order of their capture."""

Pools = Callable[[], Pool]


# ── CUDA ──────────────────────────────────────────────────────────────────────────────────────────────────


class CudaPools:
    """Makes pools of graphs of a GPU. All of them are captured on one stream, for which libraries keep a workspace.

    Args:
        device: The GPU, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self) -> Pool:
        """A pool: what makes graphs that share its memory."""
        return partial(CudaGraph, self._device, self._stream, torch.cuda.graph_pool_handle())


class CudaGraph:
    """A CUDA graph.

    Random numbers come from the GPU's default generator, which torch registers with every capture: a replay draws from
    its current state, as the work itself would.

    Args:
        device: The GPU.
        stream: Where work is rehearsed and captured.
        pool: The pool's handle.
    """

    def __init__(self, device: torch.device, stream: torch.cuda.Stream, pool: Any) -> None:
        self._device = device
        self._stream = stream
        self._pool = pool
        self._graph = torch.cuda.CUDAGraph()

    def rehearse(self, work: Work) -> None:
        """Do the work on the stream of the capture, ordered after earlier launches and before later ones."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            current.wait_stream(self._stream)

    def capture(self, work: Work) -> None:
        """As `Graph.capture`. Waits for the GPU."""
        generator = torch.cuda.default_generators[self._device.index or 0]
        before, faults = generator.clone_state(), list[Exception]()
        try:
            # The outer block returns to the current stream even if the end of a failed capture raises.
            with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
                self._record(work, faults)
        except Exception as error:
            self._give_up(generator, before)
            raise (faults or [error])[0] from None

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()

    def _record(self, work: Work, faults: list[Exception]) -> None:
        """Capture; `faults` collects the work's own error, because the end of the capture then raises a less helpful
        one."""
        # Other threads may use CUDA meanwhile, such as one that pins memory.
        how = torch.cuda.graph(self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        with how:
            try:
                work()
            except Exception as error:
                faults.append(error)
                raise

    def _give_up(self, generator: torch.Generator, before: torch.Generator) -> None:
        """Reset the generator and the allocator after a failed capture: torch leaves both in capture mode."""
        self._graph = torch.cuda.CUDAGraph()
        generator.graphsafe_set_state(before)
        with suppress(RuntimeError, AttributeError):  # if the end came that far, or torch has other names for them
            torch._C._cuda_endAllocateToPool(self._device.index or 0, self._pool)
            torch._C._cuda_releasePool(self._device.index or 0, self._pool)
        torch.cuda.synchronize(self._device)


# ── The phases of a run ───────────────────────────────────────────────────────────────────────────────────


class Graphs:
    """The graphs of a run's phases.

    A graph holds for one key: the structures that components have named in `begin`, the batch size, the optimisers'
    state, which a stage may reset and a checkpoint replaces, and those of their settings, other than the learning rate,
    that follow a schedule. With another key, every phase is captured again.

    Args:
        run: The run.
        pools: Makes the pool of a key's graphs.
    """

    def __init__(self, run: Run, pools: Pools) -> None:
        self._run = run
        self._pools = pools
        self._failures = 0
        self._key: Hashable = None

    def of(self, phase: Phase, trained: Sequence[SlotState]) -> CapturedPhase | None:
        """The phase of the run as a graph; None if it is known that it cannot be captured."""
        for slot in trained:
            if slot.optimizer is None or not can_be_captured(slot.optimizer):
                self.say(phase, _NOT_CAPTURABLE.format(slot.name))
                return None
            self._say_until_when(phase, slot)
        for slot in trained:
            slot.use_device_rates(self._run.model.device)
        return CapturedPhase(phase, trained, self)

    def _say_until_when(self, phase: Phase, slot: SlotState) -> None:
        run, rule = self._run, slot.rule
        if rule is not None and rule.scheduled(run.step, run.steps) != rule.scheduled(run.steps, run.steps):
            self.say(phase, _SCHEDULED.format(slot.name, ", ".join(rule.scheduled(run.step, run.steps))))

    @property
    def device(self) -> torch.device:
        """Where the run is."""
        return self._run.model.device

    def key(self) -> Hashable:
        """The key under which this step's graphs are valid."""
        run, state = self._run, self._run.state
        scheduled = tuple(str(slot.entries) for slot in state.slots.values())
        key = run.structure, run.recipe.stage_at(state.step).batch_size, state.renewals, scheduled, self._failures
        if key != self._key:
            self._key, self._pool = key, self._pools()
        return key

    def graph(self) -> Graph:
        """A new graph in the pool of the current key."""
        return self._pool()

    def owners(self, trained: Sequence[SlotState]) -> Owners:
        """The components and optimisers of a phase that trains these slots, by name."""
        modules = self._run.state.modules().items()
        return {
            **{name: each for name, each in modules if not name.endswith(".averaged")},
            **{f"optimizer of the {slot.name}": slot.optimizer for slot in trained},
            f"loss {self._run.recipe.loss.use}": self._run.model.loss,
        }

    def failed(self) -> None:
        """Have every phase captured again: a capture that failed leaves earlier graphs without their random stream."""
        self._failures += 1

    def say(self, phase: Phase, fault: str) -> None:
        """Log why a phase is not captured."""
        log.warning('phase "%s" is not captured as a graph, and is slower: %s', phase.name, fault)


def graphs_of(run: Run, pools: Pools | None = None) -> Graphs | None:
    """The graphs of a run; None if its device does not support them, or its recipe turns them off.

    Args:
        run: The run.
        pools: Makes pools of graphs; those of the run's device unless given.
    """
    device = run.model.device
    if pools is None and device.type == "cuda":
        pools = CudaPools(device)
    if pools is None or not run.recipe.train.graphs:
        return None
    if ranks().total > 1:
        log.warning("with several ranks, phases are not captured as graphs")
        return None
    return Graphs(run, pools)


class CapturedPhase:
    """One phase as a graph: rehearsed, captured, replayed.

    Args:
        phase: The phase.
        trained: The slots that it trains.
        graphs: Those of the run.
    """

    def __init__(self, phase: Phase, trained: Sequence[SlotState], graphs: Graphs) -> None:
        self._phase = phase
        self._trained = trained
        self._graphs = graphs
        self._key: Hashable = None
        self._is_given_up = False

    def replays(self, rows: Sequence[Rows | None], work: Updates) -> bool:
        """Do all updates of a step by the graph, if there is one or it can be captured now; returns whether they are
        done.

        Args:
            rows: Those of each update.
            work: All updates on their rows, without the host's part.
        """
        if self._is_given_up:
            return False
        if self._key != self._graphs.key():
            self._restart()
        if self._rehearsals < WARM_UP:
            return False
        if self._rows is None:
            return self._capture(rows, work) and self._replay(rows)
        if fault := self._held.fault_between_steps():
            self._give_up(fault)
            return False
        return self._replay(rows)

    def rehearse(self, work: Work) -> None:
        """Do all updates of a step without a graph."""
        if self._is_given_up:
            work()
            return
        with drawn_on_host(self.device) as drawn:
            self._graph.rehearse(work)
        self._rehearsals += 1
        if self._rehearsals == WARM_UP - 1:
            self._held, self._numbers = HeldTensors(self._owners()), HostNumbers(self._owners(), self.device)
        elif self._rehearsals == WARM_UP:
            now = HostNumbers(self._owners(), self.device)
            self._give_up(self._held.fault() or self._numbers.fault(now) or (_HOST_DRAWS if drawn else None))

    def _owners(self) -> Owners:
        return self._graphs.owners(self._trained)

    @property
    def device(self) -> torch.device:
        """Where the run is."""
        return self._graphs.device

    def _restart(self) -> None:
        self._key = self._graphs.key()
        self._graph = self._graphs.graph()
        self._rehearsals = 0
        self._rows: list[Rows | None] | None = None

    def _capture(self, rows: Sequence[Rows | None], work: Updates) -> bool:
        static = [each and each.copied() for each in rows]
        try:
            self._graph.capture(lambda: work(static))
        except Exception as error:
            self._forget(error)
            return False
        if fault := self._held.fault():
            self._held.put_back()
            self._give_up(fault)
            return False
        self._rows = static
        return True

    def _replay(self, rows: Sequence[Rows | None]) -> bool:
        for static, new in zip(self._rows or (), rows, strict=True):
            if static is not None and new is not None:
                static.fill(new)
        self._graph.replay()
        return True

    def _forget(self, error: Exception) -> None:
        """Clean up after a failed capture."""
        self._held.put_back()
        for slot in self._trained:
            slot.drop_gradients()
        self._graphs.failed()
        self._give_up(str(error).partition("\n")[0])

    def _give_up(self, fault: str | None) -> None:
        if fault is not None:
            self._is_given_up = True
            self._graph = None  # type: ignore[assignment]
            self._rows = None
            self._graphs.say(self._phase, fault)


_NOT_CAPTURABLE = 'the optimizer of the {} is neither fused nor has the setting "capturable" of torch'

_SCHEDULED = "the optimizer of the {} follows a schedule of {}, which has to end first"

_HOST_DRAWS = "its updates draw random numbers on the host; draw them on the device, by device=latents.device"
